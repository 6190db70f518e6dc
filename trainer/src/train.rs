//! Epochs, evaluations and checkpoints around the step.

use std::{fs, path::Path, time::Instant};

use candle_core::Device;
use clip::{
    ClipConfig, Encoder,
    atomic_write::{atomic_folder, atomic_write},
    model::Clip,
    text::{PromptTemplate, Tokenizer},
};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;
use serde_json::json;

use crate::{
    augment::Augment,
    checkpoint::{self, Checkpoint, Place},
    config::{self, Config},
    data::{Loader, Manifest, Store},
    error::{Error, Result},
    evaluate::{Evaluation, TestSet, evaluate},
    journal::Journal,
    method,
    optim::{AdamW, Schedule},
    poison::Ledger,
    step::{StepReport, Trainer},
};

/// What a run tells while it goes on.
pub trait Watch: Send + Sync {
    /// A stage of `total` parts begins, of which `done` were done in an earlier run.
    fn begin(&mut self, stage: &str, total: u64, done: u64);
    /// Parts of the stage are done.
    fn advance(&self, parts: u64);
    /// One line about how far it came.
    fn note(&self, line: String);
    /// One line about what the user may not have meant.
    fn warn(&self, line: String);
}

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Summary {
    schema: &'static str,
    /// Pairs that were trained on
    pub rows: usize,
    /// Updates
    pub steps: u64,
    /// Seconds of training and of waiting for its data; evaluations and checkpoints left out
    pub train_seconds: f64,
    /// Pairs per second of training
    pub images_per_second: f64,
    /// The last evaluation
    pub evaluation: Option<Evaluation>,
}

/// Trains as `config` says; with `resume`, goes on where the folder's checkpoint stands, if there is
/// one. A folder that holds a run is refused otherwise.
///
/// Leaves in `config.output.folder`: `resolved.toml` (the configuration with its defaults, as
/// `--config` takes it), `metrics.jsonl`, `checkpoint.safetensors`, `model/`, `summary.json`.
pub fn train(config: &Config, resume: bool, watch: &mut dyn Watch) -> Result<Summary> {
    let folder = &config.output.folder;
    let device = device(config)?;
    let checkpoint = open_checkpoint(config, resume, &device, watch)?;
    let monitor = Monitor::open(config)?;
    let loader = open_loader(config, watch)?;
    let mut run = Run::new(config, loader, monitor, checkpoint, &device)?;
    sweep(folder)?;
    let resolved = toml::to_string(config).expect("`config::open` refused paths that are no text");
    atomic_write(&folder.join(RESOLVED), resolved.as_bytes())?;
    let summary = threads()?.install(|| run.epochs(watch))?;
    let Run { loader, trainer, .. } = &run;
    atomic_folder(&folder.join(MODEL), |model| {
        let weights = trainer.model.weights()?;
        clip::folder::write(model, trainer.model.config(), &loader.tokenizer, &weights)
    })?;
    let text = serde_json::to_vec_pretty(&summary).expect("numbers and names");
    atomic_write(&folder.join("summary.json"), &text)?;
    Ok(summary)
}

/// As many threads as `RAYON_NUM_THREADS` asks for, or cores. The steps run on one of them: from
/// outside, each parallel loop would wait until another thread has woken up. Not rayon's global
/// ones, on which the loader's tokenizer would wait for a step that waits for the loader.
fn threads() -> Result<ThreadPool> {
    ThreadPoolBuilder::new().build().map_err(Error::Threads)
}

fn device(config: &Config) -> Result<Device> {
    Ok(match config.device {
        config::Device::Cpu => Device::Cpu,
        config::Device::Cuda => Device::new_cuda(0).map_err(Error::Cuda)?,
    })
}

/// The checkpoint to go on from; refuses a folder that holds anything else of a run.
fn open_checkpoint(
    config: &Config,
    resume: bool,
    device: &Device,
    watch: &dyn Watch,
) -> Result<Option<Checkpoint>> {
    let folder = &config.output.folder;
    let refuse =
        |problem: &str| Err(Error::Occupied { path: folder.clone(), problem: problem.to_owned() });
    match (folder.join(checkpoint::FILE).exists(), folder.join(MODEL).exists()) {
        (true, _) if resume => checkpoint::read(folder, config, device).map(Some),
        (true, _) => refuse("holds a run already: `--resume` continues it"),
        (false, true) => refuse("holds a model and no checkpoint that could be continued"),
        (false, false) => {
            if resume {
                watch.warn(format!("no checkpoint in `{}`: the run begins", folder.display()));
            }
            Ok(None)
        }
    }
}

const RESOLVED: &str = "resolved.toml";
const MODEL: &str = "model";
/// What a run leaves in its folder.
const FILES: [&str; 5] = [RESOLVED, "metrics.jsonl", checkpoint::FILE, MODEL, "summary.json"];

/// Removes what a killed run left half-written beside its final files.
fn sweep(folder: &Path) -> Result<()> {
    let refuse = |source| Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_ours =
            |file: &&str| name.strip_prefix(*file).is_some_and(|rest| rest.starts_with('.'));
        if !name.ends_with(".partial") || !FILES.iter().any(is_ours) {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

/// Manifest, pictures, tokenizer, augmentation.
fn open_loader(config: &Config, watch: &mut dyn Watch) -> Result<Loader> {
    let config::Data { manifest, batch_size, workers, bad_rows_max, cache_mib } = &config.data;
    let mut clip = config.clip().expect("`check` refused an unknown preset");
    let augment = Augment::open(&config.augment, config.seed)?;
    let rows = Manifest::open(manifest)?;
    let captions = || rows.rows.iter().map(|row| row.caption.as_str());
    let context = clip.text.context_length;
    let tokenizer = match &config.model.tokenizer {
        Some(path) => Tokenizer::open(path)?.with_context_length(context)?,
        None => Tokenizer::train(captions(), config.model.vocab_size, context)?,
    };
    clip.text.vocab_size = tokenizer.vocab_size();
    note_cut_captions(&tokenizer, captions(), watch)?;
    watch.begin("reading images", rows.rows.len() as u64, 0);
    let side = clip.image.image_size();
    let store = Store::open(rows, side, *cache_mib, *bad_rows_max, || watch.advance(1))?;
    if store.bad_rows() > 0 {
        let (bad, all) = (store.bad_rows(), store.rows().len() + store.bad_rows());
        watch.warn(format!("unreadable rows are left out: {bad} of {all}"));
    }
    if store.rows().len() < *batch_size {
        let (file, rows) = (manifest.clone(), store.rows().len());
        return Err(Error::SmallData { file, rows, batch_size: *batch_size });
    }
    let (batch_size, workers) = (*batch_size, *workers);
    Ok(Loader { store, augment, tokenizer, clip, seed: config.seed, batch_size, workers })
}

fn note_cut_captions<'a>(
    tokenizer: &Tokenizer,
    captions: impl Iterator<Item = &'a str>,
    watch: &dyn Watch,
) -> Result<()> {
    let (mut cut, mut all, context) = (0, 0, tokenizer.context_length());
    for caption in captions {
        all += 1;
        // A token is a byte at least, so most captions need no look.
        if caption.len() + 2 > context && tokenizer.length(caption)? > context {
            cut += 1;
        }
    }
    if cut > 0 {
        watch.warn(format!("captions of more than {context} tokens are cut: {cut} of {all}"));
    }
    Ok(())
}

/// Test images and, in an experiment, the ledger: for the record only.
struct Monitor {
    test: TestSet,
    classes: Vec<String>,
    templates: Vec<PromptTemplate>,
    ledger: Option<Ledger>,
    every_epochs: u32,
}

impl Monitor {
    fn open(config: &Config) -> Result<Option<Self>> {
        let config::Monitor { test, classes, templates, ledger, every_epochs } = &config.monitor;
        let (Some(test), Some(classes)) = (test, classes) else { return Ok(None) };
        let clip: ClipConfig = config.clip().expect("`check` refused an unknown preset");
        let (classes, side) = (clip::text::read_labels(classes)?, clip.image.image_size());
        let test = Manifest::open_classed(test, &classes, true)?;
        let ledger = ledger.as_deref().map(Ledger::open).transpose()?;
        if let Some(ledger) = &ledger {
            ledger.check(&classes, side, &test.classes()?)?;
        }
        let templates = match templates {
            Some(path) => clip::text::read_templates(path)?,
            None => clip::text::default_templates(),
        };
        let test = TestSet::read(&test, side as u32, &|_| {})?;
        let every_epochs = every_epochs.unwrap_or(1);
        Ok(Some(Self { test, classes, templates, ledger, every_epochs }))
    }

    fn evaluate(&self, model: &mut Clip, tokenizer: &Tokenizer) -> Result<Evaluation> {
        let Self { test, classes, templates, ledger, .. } = self;
        evaluate(model, tokenizer, test, classes, templates, ledger.as_ref(), &|_| ())
    }
}

struct Run<'a> {
    config: &'a Config,
    loader: Loader,
    /// Fingerprint of the loader.
    data: String,
    monitor: Option<Monitor>,
    trainer: Trainer,
    journal: Journal,
    place: Place,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a Config,
        loader: Loader,
        monitor: Option<Monitor>,
        checkpoint: Option<Checkpoint>,
        device: &Device,
    ) -> Result<Self> {
        let (folder, data) = (&config.output.folder, loader.fingerprint()?);
        let model = match &checkpoint {
            Some(checkpoint) => {
                checkpoint.check(folder, &data)?;
                Clip::from_weights(&loader.clip, &checkpoint.weights, device)?
            }
            None => Clip::init(&loader.clip, config.seed, device)?,
        };
        let steps = u64::from(config.optim.epochs) * loader.batches() as u64;
        let rows = loader.store.rows().len();
        let mut trainer = Trainer {
            method: method::new(config, rows, loader.clip.dim, device)?,
            gradients: model.gradients(),
            optimizer: AdamW::new(model.parameters(), &config.optim),
            schedule: Schedule::new(config.optim.lr, config.optim.warmup_share, steps),
            logit_scale_max: config.optim.logit_scale_max.ln(),
            model,
            step: 0,
        };
        let mut place = Place { epoch: 1, batches: 0, step: 0, seconds: 0.0, loss_sum: 0.0 };
        if let Some(checkpoint) = checkpoint {
            place = checkpoint.place;
            checkpoint.restore(folder, &mut trainer)?;
        }
        let journal = Journal::open(&folder.join("metrics.jsonl"), place.step)?;
        Ok(Self { config, loader, data, monitor, trainer, journal, place })
    }

    fn epochs(&mut self, watch: &mut dyn Watch) -> Result<Summary> {
        let mut evaluation = None;
        watch.begin("training", self.trainer.schedule.steps, self.place.step);
        for epoch in self.place.epoch..=self.config.optim.epochs {
            let loss = self.epoch(epoch, watch)?;
            evaluation = self.evaluate(epoch)?;
            self.record_epoch(epoch, loss, evaluation.as_ref(), watch)?;
            self.place = Place { epoch: epoch + 1, batches: 0, loss_sum: 0.0, ..self.place };
            self.save()?;
        }
        if evaluation.is_none() {
            evaluation = self.evaluate(self.config.optim.epochs)?; // a finished run was resumed
        }
        let (seconds, batch) = (self.place.seconds, self.config.data.batch_size);
        Ok(Summary {
            schema: "roclip/run/1",
            rows: self.loader.store.rows().len(),
            steps: self.place.step,
            train_seconds: seconds,
            images_per_second: self.place.step as f64 * batch as f64 / seconds.max(1e-9),
            evaluation,
        })
    }

    /// One pass from where the run stands; the mean loss of the whole pass, in nats.
    fn epoch(&mut self, epoch: u32, watch: &dyn Watch) -> Result<f64> {
        let Self { config, loader, data, trainer, journal, place, .. } = self;
        let folder = &config.output.folder;
        let mut last = Instant::now(); // end of the step before: waiting for a batch counts
        loader.each(epoch, place.batches, |batch| -> Result<()> {
            let count = batch.rows.len();
            let report = trainer.step(batch)?;
            let seconds = last.elapsed().as_secs_f64();
            *place = Place {
                epoch,
                batches: place.batches + 1,
                step: trainer.step,
                seconds: place.seconds + seconds,
                loss_sum: place.loss_sum + f64::from(report.loss),
            };
            if place.step.is_multiple_of(config.output.record_every_steps) {
                journal.record(&step_record(place, &report, count as f64 / seconds))?;
            }
            // After the last batch the epoch is recorded first: else a resumed run would do it again.
            let within = place.batches < loader.batches();
            let due = |steps| within && place.step.is_multiple_of(steps);
            if config.output.checkpoint_every_steps.is_some_and(due) {
                checkpoint::write(folder, config, data, *place, trainer)?;
            }
            watch.advance(1);
            last = Instant::now();
            Ok(())
        })?;
        Ok(place.loss_sum / place.batches as f64)
    }

    fn evaluate(&mut self, epoch: u32) -> Result<Option<Evaluation>> {
        let last = epoch == self.config.optim.epochs;
        let due = |monitor: &&Monitor| last || epoch.is_multiple_of(monitor.every_epochs);
        let Some(monitor) = self.monitor.as_ref().filter(due) else { return Ok(None) };
        monitor.evaluate(&mut self.trainer.model, &self.loader.tokenizer).map(Some)
    }

    fn record_epoch(
        &mut self,
        epoch: u32,
        loss: f64,
        evaluation: Option<&Evaluation>,
        watch: &dyn Watch,
    ) -> Result<()> {
        let entry = json!({
            "step": self.place.step,
            "epoch": epoch,
            "epoch_loss": loss,
            "logit_scale": Encoder::logit_scale(&self.trainer.model),
            "evaluation": evaluation,
            "seconds": self.place.seconds,
        });
        self.journal.record(&entry)?;
        let top1 = evaluation.map(|e| format!(", top-1 {:.1}%", 100.0 * e.zero_shot_top1.value()));
        let epochs = self.config.optim.epochs;
        watch.note(format!("epoch {epoch}/{epochs}: loss {loss:.3}{}", top1.unwrap_or_default()));
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let folder = &self.config.output.folder;
        checkpoint::write(folder, self.config, &self.data, self.place, &self.trainer)
    }
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct StepRecord<'a> {
    step: u64,
    epoch: u32,
    #[serde(flatten)]
    report: &'a StepReport,
    images_per_second: f64,
    seconds: f64,
}

fn step_record<'a>(
    place: &Place,
    report: &'a StepReport,
    images_per_second: f64,
) -> StepRecord<'a> {
    let Place { step, epoch, seconds, .. } = *place;
    StepRecord { step, epoch, report, images_per_second, seconds }
}

//! Epochs, evaluations and checkpoints around the step.

mod folder;
mod record;

use std::{sync::Arc, time::Instant};

use candle_core::Device;
use clip::{
    atomic_write::{atomic_folder, atomic_write},
    model::Clip,
    weights::Weights,
};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;

use self::folder::{METRICS, MODEL, RESOLVED, SUMMARY};
use crate::{
    checkpoint::{self, Origin, Place},
    config::{self, Config},
    data::{Listing, Loader},
    doubted,
    error::{Error, Result},
    evaluate::Evaluation,
    gpu::{self, Gpu},
    input::{open_listing, open_loader},
    journal::{Journal, tensorboard::Events},
    method::{self, Sizes},
    monitor::{Alarm, Alarms, Monitor, Tally},
    optim::{Optimizer, Schedule},
    parallel::Collective,
    pretrained, skipped,
    step::Trainer,
    survey::Survey,
};

/// What a run tells while it goes on.
pub trait Watch: Send + Sync {
    /// A stage of `total` parts begins, of which `done` were done in an earlier run.
    fn begin(&mut self, stage: &str, total: u64, done: u64);
    /// Parts of the stage are done.
    fn advance(&self, parts: u64);
    /// What stands beside how far it is.
    fn status(&self, text: String);
    /// One line about how far it came.
    fn note(&self, line: String);
    /// One line about what the user may not have meant.
    fn warn(&self, line: String);
}

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Summary {
    schema: &'static str,
    /// Pairs that could be trained on
    pub rows: usize,
    /// Of these, the pairs that the last epoch doubted
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubted: Option<usize>,
    /// Updates
    pub steps: u64,
    /// Seconds of training, of what the method looks at before an epoch, and of waiting for data;
    /// evaluations and checkpoints left out
    pub train_seconds: f64,
    /// Pairs per second of training
    pub images_per_second: f64,
    /// The last evaluation
    pub evaluation: Option<Evaluation>,
    /// What was alarming, in the order in which it came up
    pub alarms: Vec<Alarm>,
}

/// Trains as `config` says; with `resume`, goes on where the folder's checkpoint stands, if there
/// is one. A folder that holds a run is refused otherwise, as is one with files of something else
/// that would be overwritten.
///
/// Leaves in `config.output.folder`: `resolved.toml` (the configuration with its defaults, as
/// `--config` takes it), `skipped.csv` (if rows could not be read), `metrics.jsonl`,
/// `checkpoint.safetensors`, `model/`, `doubted.csv` (if the method doubts), `summary.json`,
/// `events.out.tfevents.*` (if asked for): the first rank does, and evaluates. An error is the
/// caller's to tell the other ranks.
pub fn train(
    config: &Config,
    resume: bool,
    collective: &Arc<dyn Collective>,
    watch: &mut dyn Watch,
) -> Result<Summary> {
    let (gpu, listing) = collective.agree(look(config, resume, &**collective, watch))?;
    let config = &config.for_pairs(listing.all());
    let mut run = collective.agree(Run::open(config, listing, gpu, resume, collective, watch))?;
    checkpoint::check_same(config, &run.origin, run.place, &run.trainer)?;
    let begins = run.place.step == 0;
    let held = collective.is_first().then(|| folder::hold(config, resume, begins)).transpose()?;
    run.begin()?;
    let summary = threads()?.install(|| run.epochs(watch))?;
    if collective.is_first() {
        run.finish(&summary)?;
    }
    drop(held);
    Ok(summary)
}

/// What can be refused before anything is read at length comes first.
fn look(
    config: &Config,
    resume: bool,
    collective: &dyn Collective,
    watch: &mut dyn Watch,
) -> Result<(Option<Gpu>, Listing)> {
    let (batch_size, ranks) = (config.data.batch_size, collective.ranks());
    if !batch_size.is_multiple_of(ranks) {
        return Err(Error::UnevenBatch { batch_size, ranks });
    }
    if collective.is_first() {
        folder::lock(&config.output.folder)?; // let go again: nothing is written yet
    }
    folder::check(config, resume)?;
    let gpu = open_gpu(config, collective, watch)?;
    Ok((gpu, open_listing(config)?))
}

/// As many threads as `RAYON_NUM_THREADS` asks for, or cores. The steps run on one of them: from
/// outside, each parallel loop would wait until another thread has woken up. Not rayon's global
/// ones, on which the loader's tokenizer would wait for a step that waits for the loader.
fn threads() -> Result<ThreadPool> {
    ThreadPoolBuilder::new().build().map_err(Error::Threads)
}

/// What is said of a GPU without cuDNN.
const SLOW_CONVOLUTIONS: &str = "cuDNN 9 (`libcudnn.so.9`) is not found beside CUDA's libraries or by \
                                 the system, or refuses this GPU: convolutions go through products, \
                                 which takes longer";

/// The GPU that is asked for: the towers live there.
fn open_gpu(
    config: &Config,
    collective: &dyn Collective,
    watch: &dyn Watch,
) -> Result<Option<Gpu>> {
    Ok(match config.device {
        config::Device::Cpu => None,
        config::Device::Cuda => {
            let gpu = collective.gpu()?;
            watch.note(format!("the towers are on {}", gpu.name()));
            if config.has_resnet() && !gpu.has_cudnn() {
                watch.note(SLOW_CONVOLUTIONS.into());
            }
            Some(gpu)
        }
    })
}

/// Towers with these weights, where the run's steps are.
fn towers(
    config: &Config,
    loader: &Loader,
    weights: &Weights,
    gpu: Option<&Gpu>,
    collective: &Arc<dyn Collective>,
) -> Result<Clip> {
    let mut model = gpu::place(Clip::from_weights(&loader.clip, weights, &Device::Cpu)?, gpu)?;
    model.lock(config.model.lock);
    if collective.ranks() > 1 {
        model.join(collective.clone());
    }
    Ok(model)
}

struct Run<'a> {
    config: &'a Config,
    loader: Loader,
    origin: Origin,
    monitor: Option<Monitor>,
    trainer: Trainer,
    /// The first rank's, once the run begins.
    journal: Option<Journal>,
    /// The first rank's, once the run begins.
    alarms: Option<Alarms>,
    place: Place,
    /// What an earlier run had watched of the epoch that goes on.
    tally: Tally,
    gpu: Option<Gpu>,
}

impl<'a> Run<'a> {
    /// Reads everything else that the run needs, and writes nothing.
    fn open(
        config: &'a Config,
        listing: Listing,
        gpu: Option<Gpu>,
        resume: bool,
        collective: &Arc<dyn Collective>,
        watch: &mut dyn Watch,
    ) -> Result<Self> {
        let (folder, device) = (&config.output.folder, &Device::Cpu);
        let checkpoint = folder::open_checkpoint(config, resume, watch)?;
        let monitor = if collective.is_first() { Monitor::open(config)? } else { None };
        let mut loader = open_loader(config, listing, &**collective, watch)?;
        loader.gpu.clone_from(&gpu);
        let pretrained = pretrained::sha256(config)?;
        let mut origin = Origin { data: loader.fingerprint()?, pretrained: pretrained.clone() };
        let first;
        let weights = match &checkpoint {
            Some(checkpoint) => {
                origin = checkpoint.check(folder, &origin)?;
                &checkpoint.weights
            }
            None => {
                first = pretrained::weights(config, &loader.clip)?;
                &first
            }
        };
        let model = towers(config, &loader, weights, gpu.as_ref(), collective)?;
        if config.model.lock.is_some() && config.model.pretrained.is_none() {
            watch.warn("`model.lock` without `model.pretrained`: that tower stays random".into());
        }
        let steps = u64::from(config.parts().all()) * loader.batches() as u64;
        let sizes = Sizes {
            rows: loader.store.rows().len(),
            epoch_rows: loader.store.epoch_rows(),
            dim: loader.clip.dim,
        };
        let mut trainer = Trainer {
            method: method::new(config, sizes, device)?,
            gradients: model.gradients(),
            optimizer: Optimizer::new(&model, &config.optim),
            schedule: Schedule::new(config.optim.lr, config.optim.warmup_share, steps)
                .with_warmup(config.optim.warmup_steps),
            logit_scale_max: config.optim.logit_scale_max.ln(),
            micro_batch: config.optim.micro_batch,
            collective: collective.clone(),
            model,
            step: 0,
        };
        let mut place = Place { epoch: 1, batches: 0, step: 0, seconds: 0.0, loss_sum: 0.0 };
        let mut tally = Tally::default();
        if let Some(mut checkpoint) = checkpoint {
            (place, tally) = (checkpoint.place, std::mem::take(&mut checkpoint.tally));
            checkpoint.restore(folder, &mut trainer)?;
        }
        let ahead = place.epoch + u32::from(place.batches > 0)..=config.parts().all();
        if ahead.into_iter().any(|epoch| trainer.method.starts_over(epoch)) {
            origin.check_pretrained(folder, &pretrained)?;
        }
        let (journal, alarms) = (None, None);
        Ok(Self { config, loader, origin, monitor, trainer, journal, alarms, place, tally, gpu })
    }

    /// New towers, as at the beginning, and an optimizer that knows nothing of them.
    fn start_over(&mut self) -> Result<()> {
        let Self { config, loader, origin, trainer, gpu, .. } = self;
        origin.check_pretrained(&config.output.folder, &pretrained::sha256(config)?)?;
        let weights = pretrained::weights(config, &loader.clip)?;
        let model = towers(config, loader, &weights, gpu.as_ref(), &trainer.collective)?;
        trainer.gradients = model.gradients();
        trainer.optimizer = Optimizer::new(&model, &config.optim);
        trainer.model = model;
        Ok(())
    }

    /// Makes the folder ready, on the first rank.
    fn begin(&mut self) -> Result<()> {
        if self.trainer.collective.is_first() {
            let (folder, step) = (&self.config.output.folder, self.place.step);
            folder::sweep(folder, step == 0)?;
            // First: by this file `folder::check` tells a run that was killed from what is no run.
            let resolved = toml::to_string(self.config);
            let resolved = resolved.expect("`config::open` refused paths that are no text");
            atomic_write(&folder.join(RESOLVED), resolved.as_bytes())?;
            let mut journal = Journal::open(&folder.join(METRICS), step)?;
            if self.config.output.tensorboard {
                journal = journal.with_events(Events::create(folder, step)?);
            }
            self.alarms = Some(self.open_alarms(&journal)?);
            self.journal = Some(journal);
            if !self.loader.store.skipped().is_empty() {
                atomic_write(&folder.join(skipped::FILE), &skipped::to_csv(&self.loader.store))?;
            }
        }
        Ok(())
    }

    /// Writes what came of it.
    fn finish(&self, summary: &Summary) -> Result<()> {
        let Self { config, loader, trainer, .. } = self;
        let folder = &config.output.folder;
        atomic_folder(&folder.join(MODEL), |model| {
            let weights = trainer.model.weights()?;
            clip::folder::write(model, trainer.model.config(), &loader.tokenizer, &weights)
        })?;
        if let Some(pairs) = trainer.method.doubted(loader.store.rows()) {
            let text = doubted::to_csv(&loader.store, pairs);
            atomic_write(&folder.join(doubted::FILE), &text)?;
        }
        let text = serde_json::to_vec_pretty(summary).expect("numbers and names");
        Ok(atomic_write(&folder.join(SUMMARY), &text)?)
    }

    fn epochs(&mut self, watch: &mut dyn Watch) -> Result<Summary> {
        let mut evaluation = None;
        watch.begin("training", self.trainer.schedule.steps, self.place.step);
        for epoch in self.place.epoch..=self.config.parts().all() {
            let loss = self.epoch(epoch, watch)?;
            let similarity = self.similarity(epoch);
            let similarity = similarity.map_err(|error| self.trainer.diverged(epoch, error))?;
            evaluation = self.evaluate(epoch)?;
            self.record_epoch(epoch, loss, evaluation.as_ref(), similarity, watch)?;
            self.place = Place { epoch: epoch + 1, batches: 0, loss_sum: 0.0, ..self.place };
            let (place, tally) = (self.place, Tally::default());
            self.journal.as_ref().map_or(Ok(()), Journal::sync)?;
            checkpoint::write(self.config, &self.origin, place, &tally, &self.trainer)?;
        }
        if evaluation.is_none() {
            evaluation = self.evaluate(self.config.parts().all())?; // a finished run was resumed
        }
        let (seconds, batch) = (self.place.seconds, self.config.data.batch_size);
        Ok(Summary {
            schema: "roclip/run/1",
            rows: self.loader.store.rows().len(),
            doubted: self.trainer.method.doubted(self.loader.store.rows()).map(|pairs| pairs.len()),
            steps: self.place.step,
            train_seconds: seconds,
            images_per_second: self.place.step as f64 * batch as f64 / seconds.max(1e-9),
            evaluation,
            alarms: self.alarms.take().map_or_else(Vec::new, |alarms| alarms.raised),
        })
    }

    /// What comes before the first batch of an epoch.
    fn begin_epoch(&mut self, epoch: u32, watch: &dyn Watch) -> Result<()> {
        let began = Instant::now();
        let trainer = &mut self.trainer;
        let survey = &mut Survey::new(&self.loader, &mut trainer.model, epoch, trainer.micro_batch);
        let begun = trainer.method.begin_epoch(epoch, survey);
        let warnings = begun.map_err(|error| trainer.diverged(epoch, error))?;
        if trainer.method.starts_over(epoch) {
            self.start_over()?;
        }
        // What it selects, too.
        checkpoint::check_same(self.config, &self.origin, self.place, &self.trainer)?;
        warnings.into_iter().for_each(|line| watch.warn(line));
        self.place.seconds += began.elapsed().as_secs_f64();
        Ok(())
    }

    /// One pass from where the run stands; the mean loss of the whole pass, in nats.
    fn epoch(&mut self, epoch: u32, watch: &dyn Watch) -> Result<f64> {
        if self.place.batches == 0 {
            self.begin_epoch(epoch, watch)?;
        }
        let Self { config, loader, origin, trainer, journal, alarms, place, .. } = self;
        let (selected, none) = (trainer.method.selected(epoch), Tally::default());
        let views = trainer.method.views(epoch);
        let mut last = Instant::now(); // end of the step before: waiting for a batch counts
        let (began, mut pairs) = (last, 0);
        loader.each(epoch, &selected, views, place.batches, |batch| -> Result<()> {
            let rows = batch.rows.clone();
            let report = trainer.step(batch)?;
            let seconds = last.elapsed().as_secs_f64();
            *place = Place {
                epoch,
                batches: place.batches + 1,
                step: trainer.step,
                seconds: place.seconds + seconds,
                loss_sum: place.loss_sum + f64::from(report.loss),
            };
            let is_due = place.step.is_multiple_of(config.output.record_every_steps);
            if let Some(journal) = journal.as_mut().filter(|_| is_due) {
                journal.plot("step", &record::step(place, &report, rows.len() as f64 / seconds))?;
            }
            if let Some(alarms) = alarms {
                alarms.step(&rows, &report);
            }
            // After the last batch the epoch is recorded first: else a resumed run would do it
            // again.
            let within = place.batches < loader.batches();
            let due = |steps| within && place.step.is_multiple_of(steps);
            if config.output.checkpoint_every_steps.is_some_and(due) {
                let tally = alarms.as_ref().map(Alarms::tally).unwrap_or(&none);
                journal.as_ref().map_or(Ok(()), Journal::sync)?;
                checkpoint::write(config, origin, *place, tally, trainer)?;
            }
            pairs += rows.len();
            let rate = pairs as f64 / began.elapsed().as_secs_f64();
            watch.status(format!("{rate:.0} images/s, loss {:.3}", report.loss));
            watch.advance(1);
            last = Instant::now();
            Ok(())
        })?;
        Ok(place.loss_sum / place.batches as f64)
    }

    /// Whether figures of the model are due at the end of `epoch`.
    fn is_due(&self, epoch: u32) -> bool {
        let own = epoch.saturating_sub(self.config.parts().given_up());
        let last = own == self.config.optim.epochs;
        let due = |monitor: &Monitor| last || own.is_multiple_of(monitor.every_epochs);
        own > 0 && self.monitor.as_ref().is_some_and(due) // of towers that are given up, none
    }

    fn evaluate(&mut self, epoch: u32) -> Result<Option<Evaluation>> {
        let is_due = self.is_due(epoch);
        let Some(monitor) = self.monitor.as_ref().filter(|_| is_due) else { return Ok(None) };
        monitor.evaluate(&mut self.trainer.model, &self.loader.tokenizer).map(Some)
    }
}

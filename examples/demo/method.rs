//! The steps of one method: train, evaluate, export, serve and ask, audit twice.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use clip::{Error, atomic_write::atomic_write, text::read_templates};
use serde::Deserialize;
use terminal::Report;

use crate::{
    board::Board,
    data::Data,
    journal::{Epoch, Journal},
    programs::{Job, Programs},
    recipe::Method,
    road::Plan,
    server::Server,
    summary::{Audit, Evaluation, MethodSummary},
};

/// Work of each step after the training, in training steps of one thread; rough, for the ETA only.
const EVALUATE_WORK: u64 = 20;
const EXPORT_WORK: u64 = 20;
const SERVE_WORK: u64 = 20;
const AUDIT_ENDPOINT_WORK: u64 = 50;
/// For each label.
const AUDIT_MODEL_WORK: u64 = 45;
/// Test pictures that fill the index.
const INDEX_ROWS_MAX: usize = 1200;

/// What all methods of one road share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) board: &'a Board,
    /// With the poisoned pairs.
    pub(crate) data: &'a Data,
    pub(crate) plan: &'a Plan,
    pub(crate) out: &'a Path,
    /// Epochs that the user asked for.
    pub(crate) epochs: Option<u32>,
    pub(crate) seed: u64,
}

/// What one method came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) summary: MethodSummary,
    pub(crate) epochs: BTreeMap<u32, Epoch>,
    /// The trigger that the model's audit recovered, as PNG.
    pub(crate) recovered: Option<Vec<u8>>,
}

/// Work of all steps of `method`, in units of one training step.
pub(crate) fn work(method: &Method, data: &Data, epochs: Option<u32>) -> u64 {
    let steps = Method::steps_per_epoch(data.train_rows.len()) as u64;
    let train = u64::from(method.run_epochs(epochs)) * steps;
    let audits = AUDIT_ENDPOINT_WORK + audit_model_work(data);
    train + EVALUATE_WORK + EXPORT_WORK + SERVE_WORK + audits
}

fn audit_model_work(data: &Data) -> u64 {
    AUDIT_MODEL_WORK * data.labels.len() as u64
}

/// A finished training.
#[derive(Debug)]
pub(crate) struct Trained {
    pub(crate) model: PathBuf,
    pub(crate) epochs: BTreeMap<u32, Epoch>,
    pub(crate) speed: Speed,
}

/// What the trainer measured, evaluations left out.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Speed {
    pub(crate) train_seconds: f64,
    pub(crate) images_per_second: f64,
}

/// Trains with `toml`, showing each epoch.
pub(crate) fn train(
    programs: &Programs,
    board: &Board,
    name: &str,
    toml: &str,
    steps: (u32, usize),
    folder: &Path,
) -> Result<Trained, Report> {
    let (epochs, steps_per_epoch) = steps;
    fs::create_dir_all(folder)
        .map_err(|source| Error::Write { path: folder.to_owned(), source })?;
    let config = folder.join("run.toml");
    atomic_write(&config, toml.as_bytes())?;
    let run = folder.join("run");
    let job = Job::new(format!("train `{name}`"), "roclip-train")
        .word("run")
        .flag("--config", &config)
        .flag("--out", &run)
        .word("--no-progress");
    let mut journal = Journal::new(run.join("metrics.jsonl"));
    let (began, mut shown) = (Instant::now(), 0);
    let total = u64::from(epochs) * steps_per_epoch as u64;
    board.doing(name, "training");
    programs.run(&job, &folder.join("train"), || {
        journal.read();
        let done = journal.steps.min(total);
        if done > shown {
            board.advance(done - shown);
            shown = done;
            let left = began.elapsed().as_secs_f64() * (total - done) as f64 / done as f64;
            let epoch = (done as usize).div_ceil(steps_per_epoch);
            board.doing(name, &format!("epoch {epoch}/{epochs}, {left:.0} s left"));
        }
    })?;
    board.advance(total - shown);
    let path = run.join("summary.json");
    let text = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let speed = serde_json::from_slice(&text)
        .map_err(|error| Report::new(format!("`{}`: {error}", path.display())))?;
    Ok(Trained { model: run.join("model"), epochs: journal.epochs, speed })
}

impl Shared<'_> {
    /// All steps of `method`.
    pub(crate) fn walk(&self, method: &Method) -> Result<Outcome, Report> {
        let (name, board) = (method.name, self.board);
        let folder = self.out.join(name);
        let (began, epochs) = (Instant::now(), method.epochs(self.epochs));
        let toml = method.run_toml(self.data, Some(&self.plan.ledger), epochs, self.seed);
        let rows = self.data.train_rows.len();
        let steps = (method.run_epochs(self.epochs), Method::steps_per_epoch(rows));
        let Trained { model, epochs: curves, speed } =
            train(self.programs, board, name, &toml, steps, &folder)?;
        let took = began.elapsed().as_secs();
        board.say(&format!("{name}: trained {} epochs in {took} s", steps.0));
        // Those of networks that are given up come first.
        let own = |(epoch, curve)| Some((u32::checked_sub(epoch, steps.0 - epochs)?, curve));
        let curves = curves.into_iter().filter_map(own).filter(|(epoch, _)| *epoch > 0).collect();

        board.doing(name, "evaluating");
        let evaluation = self.evaluate(name, &model, &folder)?;
        board.advance(EVALUATE_WORK);
        board.say(&format!("{name}: {}", evaluation_words(&evaluation)));

        board.doing(name, "exporting");
        let exported = folder.join("exported");
        let parity = self.export(name, &model, &exported, &folder)?;
        board.advance(EXPORT_WORK);

        board.doing(name, "serving");
        let templates = self.data.templates.as_deref().map(read_templates).transpose()?;
        let templates = templates.unwrap_or_default();
        let server = Server::start(self.programs, name, &exported, &folder, templates)?;
        let picture = self.data.picture(&self.plan.example)?;
        let (clean, _) = server.classify(&picture, &self.data.labels)?;
        let (triggered, _) = server.classify(&self.plan.stamped(&picture), &self.data.labels)?;
        board.say(&format!("{name}: over HTTP `{clean}`, with the trigger `{triggered}`"));
        let indexed = self.data.test_rows.len().min(INDEX_ROWS_MAX);
        server.fill_index(self.data, &self.data.test_rows[..indexed])?;
        let search = server.search_top1(&self.data.labels)?;
        board.advance(SERVE_WORK);

        board.doing(name, "auditing over HTTP");
        let endpoint = self.audit_endpoint(name, &server, &folder)?;
        drop(server);
        board.advance(AUDIT_ENDPOINT_WORK);
        board.say(&format!("{name}: audit of the endpoint: {}", audit_words(&endpoint)));

        board.doing(name, "auditing the weights");
        let recovered = folder.join("recovered-trigger.png");
        let weights = self.audit_model(name, &exported, &recovered, &folder)?;
        board.advance(audit_model_work(self.data));
        board.say(&format!("{name}: audit of the weights: {}", audit_words(&weights)));
        board.doing(name, "");

        let summary = MethodSummary {
            name: name.to_owned(),
            evaluation,
            audit_target: weights.named().or(endpoint.named()),
            audit_endpoint_target: endpoint.named(),
            audit_endpoint_p_value: endpoint.p_value,
            audit_endpoint: endpoint.verdict,
            audit_model_target: weights.named(),
            audit_model_p_value: weights.p_value,
            audit_model: weights.verdict,
            train_seconds: speed.train_seconds,
            images_per_second: speed.images_per_second,
            http_clean_label: clean,
            http_triggered_label: triggered,
            search_top1: search.into(),
            epochs,
            parity_max_abs_error: parity,
            seconds: began.elapsed().as_secs_f64(),
        };
        Ok(Outcome { summary, epochs: curves, recovered: fs::read(&recovered).ok() })
    }

    fn evaluate(&self, name: &str, model: &Path, folder: &Path) -> Result<Evaluation, Report> {
        let job = Job::new(format!("evaluate `{name}`"), "roclip-train")
            .word("evaluate")
            .flag("--model", model)
            .flag("--test", &self.data.test)
            .flag("--classes", &self.data.classes)
            .flag_if("--templates", self.data.templates.as_ref())
            .flag("--ledger", &self.plan.ledger)
            .word("--json")
            .word("--no-progress");
        self.programs.json(&job, &folder.join("evaluate"))
    }

    /// Greatest difference between candle and ONNX Runtime.
    fn export(
        &self,
        name: &str,
        model: &Path,
        exported: &Path,
        folder: &Path,
    ) -> Result<f64, Report> {
        #[derive(Deserialize)]
        struct Export {
            parity_max_abs_error: f64,
        }
        let job = Job::new(format!("export `{name}`"), "roclip-export")
            .flag("--model", model)
            .flag("--out", exported)
            .word("--json");
        let export: Export = self.programs.json(&job, &folder.join("export"))?;
        Ok(export.parity_max_abs_error)
    }

    fn audit_endpoint(&self, name: &str, server: &Server, folder: &Path) -> Result<Audit, Report> {
        let job = Job::new(format!("audit the endpoint of `{name}`"), "roclip-audit")
            .word("endpoint")
            .word(&server.url)
            .flag("--image-size", self.data.image_size.to_string());
        self.programs.json(&self.probing(job), &folder.join("audit-endpoint"))
    }

    fn audit_model(
        &self,
        name: &str,
        exported: &Path,
        recovered: &Path,
        folder: &Path,
    ) -> Result<Audit, Report> {
        let job = Job::new(format!("audit the weights of `{name}`"), "roclip-audit")
            .word("model")
            .word(exported)
            .flag("--trigger-png", recovered);
        self.programs.json(&self.probing(job), &folder.join("audit-model"))
    }

    /// What both audits get; 0, 1 and 3 are verdicts.
    fn probing(&self, job: Job) -> Job {
        job.flag("--images", self.out.join("probe"))
            .flag("--labels", &self.data.classes)
            .flag_if("--templates", self.data.templates.as_ref())
            .flag("--seed", self.seed.to_string())
            .word("--json")
            .word("--no-progress")
            .answers(&[0, 1, 3])
    }
}

fn evaluation_words(evaluation: &Evaluation) -> String {
    let per_cent = crate::table::per_cent;
    format!(
        "zero-shot top-1 {}, ASR {}, PSR {}",
        per_cent(Some(evaluation.zero_shot_top1)),
        per_cent(evaluation.backdoor_asr),
        per_cent(evaluation.targeted_psr)
    )
}

fn audit_words(audit: &Audit) -> String {
    match audit.named() {
        Some(target) => format!("{}, class `{target}`", audit.verdict.replace('_', " ")),
        None => audit.verdict.replace('_', " "),
    }
}

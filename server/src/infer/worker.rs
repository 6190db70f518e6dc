//! Threads that own an encoder each. A batch that fails is tried again row by row, so that one bad
//! row costs itself only; a panic costs the encoder, which is opened again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clip::{Encoder, UnitRows};
use terminal::say;

use super::{
    Fault, OpenEncoder,
    queue::{Entry, Input, Queues},
};
use crate::observe::{Metrics, metrics::Stage};

/// Workers that can take a batch, among those that should.
#[derive(Debug)]
pub struct Health {
    wanted: usize,
    well: AtomicUsize,
    running: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Health {
    /// `wanted` workers, all of them well.
    pub fn new(wanted: usize, metrics: Arc<Metrics>) -> Self {
        metrics.workers_alive.set(wanted as i64);
        let [well, running] = [wanted; 2].map(AtomicUsize::new);
        Self { wanted, well, running, metrics }
    }

    /// Workers that can take a batch now.
    pub fn well(&self) -> usize {
        self.well.load(Ordering::Acquire)
    }

    /// Workers that there should be.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    fn ill(&self) {
        self.well.fetch_sub(1, Ordering::AcqRel);
        self.metrics.workers_alive.dec();
    }

    fn recovered(&self) {
        self.well.fetch_add(1, Ordering::AcqRel);
        self.metrics.workers_alive.inc();
    }
}

/// Rows that may fail one after the other before a worker counts as ill.
const FAILURES_MAX: u32 = 8;
/// Attempts to open an encoder again after a panic.
const REOPENINGS_MAX: u32 = 3;
/// Pause before the second attempt and the third.
const REOPENING_PAUSE: Duration = Duration::from_millis(100);

/// One encoder, and the thread that runs it.
pub(super) struct Worker {
    pub(super) encoder: Box<dyn Encoder + Send>,
    pub(super) open: OpenEncoder,
    pub(super) queues: Arc<Queues>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    /// Rows that failed since the last that did not.
    pub(super) failures: u32,
    /// Whether it was told that a batch failed as a whole.
    pub(super) told_of_batch: bool,
}

/// What a batch came to.
enum Outcome {
    Rows(UnitRows),
    /// The encoder refused, and why; it can be used again.
    Refused(String),
    /// The encoder panicked and could not be opened again, and why.
    Lost(String),
}

impl Worker {
    /// Serves batches until the queues are closed and empty, or the encoder is lost.
    pub(super) fn run(mut self) {
        let mut lost = false;
        while !lost && let Some(batch) = self.queues.pull() {
            let served = catch_unwind(AssertUnwindSafe(|| self.serve(batch)));
            lost = !served.unwrap_or(false);
        }
        if lost && self.failures < FAILURES_MAX {
            self.health.ill();
        }
        let running = self.health.running.fetch_sub(1, Ordering::AcqRel);
        if running == 1 {
            self.queues.abandon(|| Fault::Broken("no worker is left".into()));
        }
    }

    /// Answers every row of the batch; false if the encoder was lost on the way.
    fn serve(&mut self, batch: Vec<Entry>) -> bool {
        match self.embed(&batch) {
            Outcome::Rows(rows) => {
                self.succeeded();
                let rows: Vec<Vec<f32>> = rows.rows().map(<[f32]>::to_vec).collect();
                batch.into_iter().zip(rows).for_each(|(entry, row)| answer(entry, row));
            }
            Outcome::Lost(why) => {
                say(format!("error: unwell: the model panicked and cannot be opened again: {why}"));
                batch.into_iter().for_each(fail);
                return false;
            }
            Outcome::Refused(why) if batch.len() == 1 => {
                self.failed(&why);
                batch.into_iter().for_each(fail);
            }
            Outcome::Refused(why) => {
                if !std::mem::replace(&mut self.told_of_batch, true) {
                    let rows = batch.len();
                    say(format!(
                        "warning: {rows} rows failed together, each is tried alone: {why}"
                    ));
                }
                let mut rest = batch.into_iter();
                while let Some(entry) = rest.next() {
                    if !self.serve(vec![entry]) {
                        rest.for_each(fail);
                        return false;
                    }
                }
            }
        }
        true
    }

    fn embed(&mut self, batch: &[Entry]) -> Outcome {
        let begin = Instant::now();
        let encoder = self.encoder.as_mut();
        let computed = catch_unwind(AssertUnwindSafe(|| embed(encoder, batch)));
        self.metrics.stage(Stage::Infer, begin);
        match (computed, &batch[0].input) {
            (Ok(Ok(rows)), Input::Image(_)) => {
                self.metrics.batch_images.observe(batch.len() as f64);
                Outcome::Rows(rows)
            }
            (Ok(Ok(rows)), Input::Text(_)) => {
                self.metrics.batch_texts.observe(batch.len() as f64);
                Outcome::Rows(rows)
            }
            (Ok(Err(why)), _) => Outcome::Refused(why),
            (Err(_), _) => match self.reopen() {
                Ok(()) => Outcome::Refused("it panicked".into()),
                Err(why) => Outcome::Lost(why),
            },
        }
    }

    /// A panic may have left the encoder half way: it is not used again.
    fn reopen(&mut self) -> Result<(), String> {
        let mut why = String::new();
        for attempt in 0..REOPENINGS_MAX {
            thread::sleep(REOPENING_PAUSE * attempt);
            match catch_unwind(AssertUnwindSafe(|| (self.open)())) {
                Ok(Ok(encoder)) => {
                    self.encoder = encoder;
                    return Ok(());
                }
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = "it panicked".into(),
            }
        }
        Err(why)
    }

    fn succeeded(&mut self) {
        if self.failures >= FAILURES_MAX {
            self.health.recovered();
        }
        self.failures = 0;
    }

    /// Of failures one after the other the first is told, and the one that makes the worker ill.
    fn failed(&mut self, why: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            say(format!("warning: the model failed on an input: {why}"));
        }
        if self.failures == FAILURES_MAX {
            say(format!(
                "error: unwell: the model failed on {FAILURES_MAX} inputs in a row: {why}"
            ));
            self.health.ill();
        }
    }
}

/// `[B, D]`, or why the encoder gave nothing like it. All of one tower.
fn embed(encoder: &mut dyn Encoder, batch: &[Entry]) -> Result<UnitRows, String> {
    let end = encoder.config().text.end();
    let (mut pixels, mut tokens) = (None, None);
    for entry in batch {
        match (&entry.input, &mut pixels, &mut tokens) {
            (Input::Image(row), Some(all), _) => clip::image::PixelBatch::extend(all, row),
            (Input::Text(row), _, Some(all)) => clip::text::TokenBatch::extend(all, row),
            (Input::Image(row), none, _) => *none = Some(row.clone()),
            (Input::Text(row), _, none) => *none = Some(row.clone()),
        }
    }
    let rows = match (pixels, tokens) {
        (Some(pixels), None) => encoder.embed_images(&pixels),
        (None, Some(tokens)) => encoder.embed_texts(&tokens.trimmed(end)),
        _ => return Err("a batch of two towers".into()),
    };
    let rows = rows.map_err(|error| error.to_string())?;
    let (expected, found) = ((batch.len(), encoder.config().dim), (rows.count(), rows.dim()));
    let shape = |(rows, dim)| format!("[{rows}, {dim}]");
    if found == expected {
        Ok(rows)
    } else {
        Err(format!("it gave {}, expected {}", shape(found), shape(expected)))
    }
}

/// A row of zeros is one that had no direction, such as a NaN.
fn answer(entry: Entry, row: Vec<f32>) {
    let found = if row.iter().any(|&value| value != 0.0) {
        Ok(row)
    } else {
        Err(Fault::Broken("the model gave no finite embedding".into()))
    };
    entry.answer(found);
}

fn fail(entry: Entry) {
    entry.answer(Err(Fault::Broken("the model failed on this input".into())));
}

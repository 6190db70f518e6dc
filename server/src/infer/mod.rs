//! From pictures and texts to unit rows: admission, decoding and tokenising on own threads,
//! batches on workers. Knows nothing of HTTP.
//!
//! A request takes its places in the tower's [`queue`] first, or is refused at once. Then its
//! pictures are decoded ([`decoder`]) or its texts tokenised on a [`pool`], each row enters the
//! queue, and a [`worker`] pulls what waits ([`batcher`]). A client that left, or whose deadline
//! passed, costs no inference.

pub mod batcher;
pub mod decoder;
pub mod label_cache;
pub mod pool;
pub mod queue;
mod texts;
pub mod worker;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clip::{ClipConfig, Encoder, UnitRows, text::Tokenizer};
use tokio::sync::oneshot;

pub use self::texts::{Embedded, Overlong};
use self::{
    decoder::{Picture, PictureError},
    label_cache::LabelCache,
    pool::{Full, Pool},
    queue::{Entry, Input, Lane, Places, Queues},
    worker::{Health, Worker},
};
use crate::{
    config::Limits,
    observe::{
        Metrics,
        metrics::{Shed, Stage},
    },
};

/// Opens one more encoder of the served model.
pub type OpenEncoder = Arc<dyn Fn() -> clip::Result<Box<dyn Encoder + Send>> + Send + Sync>;

/// One half of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tower {
    /// Pictures to rows.
    Image,
    /// Texts to rows.
    Text,
}

impl Tower {
    /// The word in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
        }
    }
}

/// Why a row could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No picture could be made of what was sent.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A text has more tokens than the model reads.
    #[error("the text has {tokens} tokens with its two marks, the model reads {max}")]
    TextTooLong {
        /// With both marks.
        tokens: usize,
        /// Context length of the model.
        max: usize,
    },
    /// A text could not be turned into tokens.
    #[error("{0}")]
    Text(String),
    /// Too much waits for this tower.
    #[error("too much waits for the {} tower", .0.name())]
    Overloaded(Tower),
    /// Too much waits for the threads that prepare requests.
    #[error("too many requests wait")]
    Busy,
    /// The answer would come after the deadline.
    #[error("no answer within the deadline")]
    Deadline,
    /// The server failed.
    #[error("{0}")]
    Broken(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// A [`Fault`], and the row of the request that had it, if it was one.
#[derive(Debug)]
pub struct Failure {
    /// Position in the list that was to be embedded.
    pub item: Option<usize>,
    /// What happened.
    pub fault: Fault,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { item: None, fault }
    }
}

impl From<Full> for Fault {
    fn from(_: Full) -> Self {
        Self::Busy
    }
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// The model could not be opened.
    #[error(transparent)]
    Model(#[from] clip::Error),
    /// Opening the model panicked.
    #[error("opening the model failed")]
    Panicked,
}

/// How many threads of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// Workers; each opens an encoder of its own.
    pub workers: usize,
    /// Threads that decode pictures.
    pub decoders: usize,
}

/// Threads for short work: JSON, tokens, searches.
const SHORT_THREADS: usize = 2;

/// A served model: its threads, its queues, its label cache.
#[derive(Debug)]
pub struct Engine {
    config: ClipConfig,
    logit_scale: f32,
    tokenizer: Arc<Tokenizer>,
    image_limits: clip::image::Limits,
    queues: Arc<Queues>,
    decoders: Pool,
    short: Pool,
    labels: Mutex<LabelCache>,
    health: Arc<Health>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// Opens the encoders, all at once, and starts the threads.
    pub fn start(
        open: OpenEncoder,
        tokenizer: Tokenizer,
        threads: Threads,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let queues = Arc::new(Queues::new(
            Lane::new(limits.image_queue_max, limits.image_batch_max),
            Lane::new(limits.text_queue_max, limits.text_batch_max),
            Arc::clone(&metrics),
        ));
        let health = Arc::new(Health::new(threads.workers, Arc::clone(&metrics)));
        let (opened, openings) = mpsc::channel();
        let mut handles = Vec::new();
        for _ in 0..threads.workers {
            let (open, opened) = (Arc::clone(&open), opened.clone());
            let (queues, health) = (Arc::clone(&queues), Arc::clone(&health));
            let metrics = Arc::clone(&metrics);
            let work = move || match open() {
                Ok(encoder) => {
                    let sizes = (encoder.config().clone(), encoder.logit_scale());
                    let _ = opened.send(Ok(sizes)); // start-up may have failed elsewhere
                    drop(opened);
                    Worker {
                        encoder,
                        open,
                        queues,
                        health,
                        metrics,
                        failures: 0,
                        told_of_batch: false,
                    }
                    .run();
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            };
            handles.push(thread::Builder::new().name("worker".into()).spawn(work)?);
        }
        drop(opened);
        // Every worker reports, or drops its end in a panic.
        let outcomes: Vec<_> = openings.iter().collect();
        let panicked = outcomes.len() < threads.workers;
        let sizes = outcomes.into_iter().collect::<Result<Vec<_>, _>>();
        let sizes = sizes.map_err(StartError::from).map(|mut sizes| sizes.pop());
        let (config, logit_scale) = match sizes {
            Ok(Some(sizes)) if !panicked => sizes,
            failed => {
                // A program that ends while ONNX Runtime still opens a session crashes.
                queues.close();
                handles.into_iter().for_each(|handle| drop(handle.join()));
                return Err(failed.err().unwrap_or(StartError::Panicked));
            }
        };
        Ok(Self {
            config,
            logit_scale,
            tokenizer: Arc::new(tokenizer),
            image_limits: limits.image(),
            queues,
            decoders: Pool::start("decode", threads.decoders, limits.image_queue_max)?,
            short: Pool::start("short", SHORT_THREADS, limits.requests_max)?,
            labels: Mutex::new(LabelCache::new(limits.label_cache_max)),
            health,
            workers: Mutex::new(handles),
            metrics,
        })
    }

    /// Sizes of the model.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The *logarithm* of the factor on cosines.
    pub fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    /// Whether the workers are alive.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Runs short work off the async threads.
    pub async fn short<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let place = self.short.run(work);
        let result = place.inspect_err(|_| self.metrics.shed(Shed::QueueFull, 1))?;
        receive(result, deadline).await
    }

    /// `[B, D]`, in the order of `pictures`, of which there is at least one.
    pub async fn embed_images(
        &self,
        pictures: &[Picture],
        deadline: Instant,
    ) -> Result<UnitRows, Failure> {
        let places = self.queues.admit(Tower::Image, pictures.len())?;
        let mut values = Vec::with_capacity(pictures.len() * self.config.dim);
        for (chunk, first) in pictures.chunks(places.rows).zip((0..).step_by(places.rows)) {
            let mut rows = Vec::with_capacity(chunk.len());
            for picture in chunk {
                rows.push(self.decode(picture.clone(), deadline, Arc::clone(&places))?);
            }
            collect(rows, first, deadline, &mut values).await?;
        }
        Ok(UnitRows::normalize(values, self.config.dim))
    }

    /// Leaves a picture to a decoding thread, which hands it on to the queue.
    fn decode(
        &self,
        picture: Picture,
        deadline: Instant,
        places: Arc<Places>,
    ) -> Result<Row, Fault> {
        let (reply, row) = oneshot::channel();
        let (limits, config) = (self.image_limits, self.config.clone());
        let (queues, metrics) = (Arc::clone(&self.queues), Arc::clone(&self.metrics));
        let job = move || {
            if reply.is_closed() {
                return metrics.shed(Shed::Gone, 1);
            }
            let begin = Instant::now();
            if deadline <= begin {
                metrics.shed(Shed::Deadline, 1);
                let _ = reply.send(Err(Fault::Deadline)); // the client may have left
                return;
            }
            let decoded = picture.decode(&limits, &config);
            drop(picture);
            metrics.stage(Stage::Decode, begin);
            match decoded {
                Ok(pixels) => {
                    let input = Input::Image(pixels);
                    let queued = Instant::now();
                    queues.push(Entry { input, reply, deadline, queued, places });
                }
                Err(error) => {
                    let _ = reply.send(Err(error.into())); // the client may have left
                }
            }
        };
        self.decoders.submit(job).inspect_err(|_| self.metrics.shed(Shed::QueueFull, 1))?;
        Ok(row)
    }

    /// Finishes what waits, then ends all threads.
    pub fn stop(&self) {
        self.decoders.stop();
        self.short.stop();
        self.queues.close();
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.drain(..) {
            let _ = worker.join(); // its panics are caught
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where one row will be.
type Row = oneshot::Receiver<Result<Vec<f32>, Fault>>;

/// Appends the rows to `values` in their order; the first failure names its row, counted from
/// `first`, and lets go of the others.
async fn collect(
    rows: Vec<Row>,
    first: usize,
    deadline: Instant,
    values: &mut Vec<f32>,
) -> Result<(), Failure> {
    for (item, row) in (first..).zip(rows) {
        let row = match receive(row, deadline).await {
            Ok(row) => row,
            Err(fault) => Err(fault),
        };
        values.extend(row.map_err(|fault| Failure { item: Some(item), fault })?);
    }
    Ok(())
}

/// Time by which a worker's own answer to a missed deadline may be later than the deadline.
const GRACE: Duration = Duration::from_millis(50);

async fn receive<T>(result: oneshot::Receiver<T>, deadline: Instant) -> Result<T, Fault> {
    let until = tokio::time::Instant::from_std(deadline + GRACE);
    match tokio::time::timeout_at(until, result).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Fault::Broken("the work on this request failed".into())),
        Err(_) => Err(Fault::Deadline),
    }
}

#[cfg(test)]
mod tests;

//! The indexes of a server: the store, the rows in memory, and the two threads that keep them.
//!
//! The *writer* owns every change: it takes all that wait, makes them durable in one transaction,
//! brings the memory up to date and answers each. The *tender* moves rows into graphs and frees
//! tombstones. Searches read the memory under a shared lock and fetch metadata from the store.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::oneshot;

use self::tender::Tending;
pub use super::store::{Item, ModelId, StoreError};
use super::{
    IndexName, ItemId, UnitRow, VectorRead, VectorWrite,
    hnsw::Hnsw,
    store::{Record, Store},
};
use crate::{
    config::Limits,
    observe::{
        Metrics,
        metrics::{Shed, Stage},
    },
};

/// What can be changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Makes an index; nothing happens if it is there.
    Create(IndexName),
    /// Deletes an index and all its items.
    Delete(IndexName),
    /// Adds or replaces items; makes the index if it is not there.
    Upsert(IndexName, Vec<Item>),
    /// Deletes an item.
    Remove(IndexName, ItemId),
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Durable; true if the index is new.
    Done {
        /// Whether the change made the index.
        created: bool,
    },
}

/// What is known about an index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexInfo {
    /// Its name.
    pub name: IndexName,
    /// Items that can be found.
    pub items: usize,
    /// The model that it was made with.
    pub model: ModelId,
    /// Whether that is the model of this server; if not, it can only be deleted.
    pub usable: bool,
}

/// One answer of a search, metadata included.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Which item.
    pub id: ItemId,
    /// Its cosine with the query.
    pub cosine: f32,
    /// A JSON object, or nothing.
    pub metadata: Option<String>,
}

/// Why an index could not be searched or changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IndexError {
    /// No index of this name.
    #[error("there is no index `{0}`")]
    Unknown(IndexName),
    /// No item of this id.
    #[error("index `{0}` has no such item")]
    UnknownItem(IndexName),
    /// The index holds vectors of another model.
    #[error(
        "index `{name}` was made with the model of SHA-256 {made_with}, this server has {served}; \
         delete it and fill it again, or serve that model"
    )]
    OtherModel {
        /// The index.
        name: IndexName,
        /// Its model.
        made_with: String,
        /// The model of this server.
        served: String,
    },
    /// There would be more indexes or items than allowed.
    #[error("{what}: {found}, the limit is {max}")]
    Limit {
        /// Indexes, or items of all indexes.
        what: &'static str,
        /// How many there would be.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// Too many changes wait.
    #[error("too many changes wait for the disk")]
    Busy,
    /// The disk failed; after a failed write no other is tried.
    #[error("the indexes cannot be read or written: {0}")]
    Storage(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl From<StoreError> for IndexError {
    fn from(error: StoreError) -> Self {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        Self::Storage(source.unwrap_or_else(|| error.to_string()))
    }
}

/// All indexes of a server.
#[derive(Debug)]
pub struct Indexes {
    shelf: Arc<Shelf>,
    changes: Mutex<Option<SyncSender<Command>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shelf {
    model: ModelId,
    limits: Limits,
    store: Store,
    indexes: RwLock<BTreeMap<IndexName, Arc<Opened>>>,
    tending: Tending,
    metrics: Arc<Metrics>,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    record: Record,
    contents: Contents,
    searches: AtomicU64,
    recall: Mutex<Recall>,
}

#[derive(Debug)]
enum Contents {
    Usable(RwLock<Hnsw>),
    /// Of another model: only counted.
    Foreign(usize),
}

/// Sums over the searches that were made both ways.
#[derive(Debug, Default)]
struct Recall {
    found: u64,
    exact: u64,
}

struct Command {
    change: Change,
    reply: oneshot::Sender<Result<Outcome, IndexError>>,
}

/// One in so many searches through a graph is also made exactly.
const RECALL_EVERY: u64 = 128;

impl Indexes {
    /// Opens the store in `folder`, `None` for memory only, reads every index of this `model`, and
    /// starts the threads.
    pub fn open(
        folder: Option<&Path>,
        model: ModelId,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        Self::of(Store::open(folder)?, model, limits, metrics)
    }

    fn of(
        store: Store,
        model: ModelId,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let mut indexes = BTreeMap::new();
        for (name, record) in store.indexes()? {
            let contents = if record.model == model {
                let mut rows = Hnsw::new(model.dim, limits.exact_items_max);
                store.load(&record, |id, row| rows.upsert(id, &row))?;
                Contents::Usable(RwLock::new(rows))
            } else {
                Contents::Foreign(store.count(record.number)?)
            };
            indexes.insert(name, Arc::new(Opened::new(record, contents)));
        }
        let shelf = Arc::new(Shelf {
            model,
            limits: limits.clone(),
            store,
            indexes: RwLock::new(indexes),
            tending: Tending::default(),
            metrics,
            failed: AtomicBool::new(false),
        });
        shelf.report();
        shelf.tending.ask();
        let (sender, receiver) = sync_channel(limits.write_queue_max);
        let (writer, tender) = (Arc::clone(&shelf), Arc::clone(&shelf));
        let named = |name: &str| thread::Builder::new().name(name.into());
        let threads = vec![
            named("writer").spawn(move || writer.write(receiver)).map_err(StoreError::Thread)?,
            named("tender").spawn(move || tender.tend()).map_err(StoreError::Thread)?,
        ];
        Ok(Self { shelf, changes: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Every index, by name.
    pub fn list(&self) -> Vec<IndexInfo> {
        self.shelf.all().iter().map(|(name, opened)| self.shelf.describe(name, opened)).collect()
    }

    /// One index.
    pub fn info(&self, name: &IndexName) -> Result<IndexInfo, IndexError> {
        Ok(self.shelf.describe(name, &*self.shelf.get(name)?))
    }

    /// Whether the index exists and can be searched and filled.
    pub fn check_usable(&self, name: &IndexName) -> Result<(), IndexError> {
        self.shelf.usable(name, &*self.shelf.get(name)?).map(|_| ())
    }

    /// The nearest items, best first, at most `top_k`; `query` has the model's columns.
    pub fn search(
        &self,
        name: &IndexName,
        query: &UnitRow,
        top_k: usize,
    ) -> Result<Vec<Found>, IndexError> {
        let begin = Instant::now();
        let opened = self.shelf.get(name)?;
        let vectors = self.shelf.usable(name, &opened)?;
        let hits = {
            let vectors = vectors.read().unwrap_or_else(PoisonError::into_inner);
            let hits = vectors.search(query, top_k);
            let sampled = vectors.uses_graph(top_k)
                && opened.searches.fetch_add(1, Ordering::Relaxed).is_multiple_of(RECALL_EVERY);
            if sampled {
                let exact = vectors.search_exact(query, top_k);
                let found = hits.iter().filter(|hit| exact.contains(hit)).count();
                let mut recall = opened.recall.lock().unwrap_or_else(PoisonError::into_inner);
                recall.found += found as u64;
                recall.exact += exact.len() as u64;
                let ratio = recall.found as f64 / recall.exact.max(1) as f64;
                self.shelf.metrics.index_recall(name.as_str(), ratio);
            }
            hits
        };
        let metadata = self.shelf.store.metadata(&opened.record, hits.iter().map(|hit| &hit.id))?;
        // An item deleted since the search has no entry any more.
        let found = hits.into_iter().zip(metadata).filter_map(|(hit, metadata)| {
            Some(Found { id: hit.id, cosine: hit.cosine, metadata: metadata? })
        });
        let found = found.collect();
        self.shelf.metrics.stage(Stage::Search, begin);
        Ok(found)
    }

    /// Leaves a change to the writer; the answer comes once it is durable. A change whose answer
    /// nobody waits for any more is not begun.
    pub fn change(
        &self,
        change: Change,
    ) -> Result<oneshot::Receiver<Result<Outcome, IndexError>>, IndexError> {
        if self.shelf.failed.load(Ordering::Acquire) {
            return Err(IndexError::Storage("an earlier write failed".into()));
        }
        let (reply, answer) = oneshot::channel();
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = changes.as_ref().ok_or(IndexError::Stopping)?;
        match sender.try_send(Command { change, reply }) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => {
                self.shelf.metrics.shed(Shed::QueueFull, 1);
                Err(IndexError::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(IndexError::Stopping),
        }
    }

    /// False once a write has failed: what is in memory may be ahead of the disk or behind it.
    pub fn is_well(&self) -> bool {
        !self.shelf.failed.load(Ordering::Acquire)
    }

    /// Finishes the changes that wait, then ends both threads.
    pub fn stop(&self) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shelf.tending.stop();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join(); // a panic was reported by the hook
        }
    }
}

impl Drop for Indexes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Opened {
    fn new(record: Record, contents: Contents) -> Self {
        Self { record, contents, searches: AtomicU64::new(0), recall: Mutex::default() }
    }
}

impl Shelf {
    fn all(&self) -> Vec<(IndexName, Arc<Opened>)> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        indexes.iter().map(|(name, opened)| (name.clone(), Arc::clone(opened))).collect()
    }

    fn get(&self, name: &IndexName) -> Result<Arc<Opened>, IndexError> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        indexes.get(name).map(Arc::clone).ok_or_else(|| IndexError::Unknown(name.clone()))
    }

    fn usable<'a>(
        &self,
        name: &IndexName,
        opened: &'a Opened,
    ) -> Result<&'a RwLock<Hnsw>, IndexError> {
        match &opened.contents {
            Contents::Usable(vectors) => Ok(vectors),
            Contents::Foreign(_) => Err(self.other_model(name, &opened.record)),
        }
    }

    fn other_model(&self, name: &IndexName, record: &Record) -> IndexError {
        IndexError::OtherModel {
            name: name.clone(),
            made_with: record.model.sha256.clone(),
            served: self.model.sha256.clone(),
        }
    }

    fn describe(&self, name: &IndexName, opened: &Opened) -> IndexInfo {
        let items = match &opened.contents {
            Contents::Usable(rows) => rows.read().unwrap_or_else(PoisonError::into_inner).count(),
            Contents::Foreign(items) => *items,
        };
        let usable = matches!(opened.contents, Contents::Usable(_));
        IndexInfo { name: name.clone(), items, model: opened.record.model.clone(), usable }
    }

    fn report(&self) {
        for (name, opened) in self.all() {
            let (items, tombstones) = match &opened.contents {
                Contents::Usable(rows) => {
                    let rows = rows.read().unwrap_or_else(PoisonError::into_inner);
                    (rows.count(), rows.tombstones())
                }
                Contents::Foreign(items) => (*items, 0),
            };
            self.metrics.index(name.as_str(), items, tombstones);
        }
    }
}

mod tender;
mod writer;

#[cfg(test)]
mod tests;

//! A graph over the rows of a large index (Malkov and Yashunin 2018, by hnsw_rs).
//!
//! hnsw_rs ends or panics on vectors that are not finite, of another length or, under its dot
//! product, not of unit length; it cannot delete, and a damaged dump ends the process. So it sees
//! unit rows only, under the Euclidean distance, which for them gives the order of the cosine and
//! asserts nothing; deleted rows are skipped here; and no graph is ever read from a file. Should it
//! panic all the same, the graph is given up and the index is scanned.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hnsw_rs::prelude::DistL2;

use super::{Hit, ItemId, UnitRow, VectorRead, VectorWrite, exact::Exact};

/// Rows, and a graph over the first of them once they are many.
///
/// The graph is made slot by slot, off the path of requests ([`tend`]); the slots that it does not
/// cover yet are scanned. So every item is found from the moment it is upserted.
#[derive(Debug)]
pub struct Hnsw {
    rows: Exact,
    graph: Option<Arc<Graph>>,
    exact_items_max: usize,
}

struct Graph {
    inner: hnsw_rs::prelude::Hnsw<'static, f32, DistL2>,
    /// Slots before this one have been inserted, in their order.
    covered: AtomicUsize,
    /// hnsw_rs panicked: not to be used again.
    broken: AtomicBool,
}

/// Neighbors per row and layer.
const NEIGHBORS: usize = 16;
/// Layers, hnsw_rs's most.
const LAYERS: usize = 16;
/// Candidates looked at when a row is inserted.
const EF_CONSTRUCTION: usize = 200;
/// Candidates looked at in a search, at least; twice as many as hits are asked for.
const EF_SEARCH: usize = 128;
/// Rows that hnsw_rs makes room for at first.
const ROOM: usize = 1 << 14;
/// Rows inserted in one piece of upkeep.
const CHUNK: usize = 64;
/// Slots that may be tombstones before the rows are compacted: 20%.
const TOMBSTONES_OF_SLOTS: (usize, usize) = (1, 5);
/// Tombstones that are never worth a compaction.
const TOMBSTONES_FREE: usize = 64;

/// One bounded piece of upkeep.
enum Work {
    Nothing,
    Compact,
    Begin,
    Insert(Chunk),
}

/// Rows that the graph gets next.
struct Chunk {
    graph: Arc<Graph>,
    rows: Vec<(usize, Vec<f32>)>,
    covers: usize,
}

/// Does one bounded piece of upkeep; false when there is nothing left to do. Rows enter the graph
/// without holding the lock. For one thread at a time.
pub fn tend(index: &RwLock<Hnsw>) -> bool {
    let work = index.read().unwrap_or_else(PoisonError::into_inner).work();
    match work {
        Work::Insert(chunk) => chunk.insert(),
        Work::Nothing => return false,
        work => index.write().unwrap_or_else(PoisonError::into_inner).carry_out(work),
    }
    true
}

impl Hnsw {
    /// Without items; up to `exact_items_max` of them are scanned.
    pub fn new(dim: usize, exact_items_max: usize) -> Self {
        Self { rows: Exact::new(dim), graph: None, exact_items_max }
    }

    /// Whether a search for `top_k` would use the graph. It pays off above `exact_items_max` items
    /// at the usual number of candidates; its cost grows in step with that number.
    pub fn uses_graph(&self, top_k: usize) -> bool {
        let least = self.exact_items_max.saturating_mul(candidates(top_k)) / EF_SEARCH;
        self.count() > least && self.graph().is_some_and(|graph| graph.covered() > 0)
    }

    fn graph(&self) -> Option<&Arc<Graph>> {
        self.graph.as_ref().filter(|graph| !graph.broken.load(Ordering::Acquire))
    }

    fn work(&self) -> Work {
        let (tombstones, slots) = (self.rows.tombstones(), self.rows.slots());
        let (share, of) = TOMBSTONES_OF_SLOTS;
        if tombstones > TOMBSTONES_FREE && tombstones * of > slots * share {
            return Work::Compact;
        }
        match &self.graph {
            None if self.count() > self.exact_items_max => Work::Begin,
            None => Work::Nothing,
            Some(graph) if graph.broken.load(Ordering::Acquire) => Work::Nothing,
            Some(graph) if graph.covered() >= slots => Work::Nothing,
            Some(graph) => {
                let from = graph.covered();
                let covers = (from + CHUNK).min(slots);
                let live = (from..covers).filter(|&slot| self.rows.is_live(slot));
                let rows = live.map(|slot| (slot, self.rows.row(slot).to_vec())).collect();
                Work::Insert(Chunk { graph: Arc::clone(graph), rows, covers })
            }
        }
    }

    fn carry_out(&mut self, work: Work) {
        match work {
            Work::Nothing => {}
            Work::Compact => self.compact(),
            Work::Begin => self.graph = Some(Arc::new(Graph::new())),
            Work::Insert(chunk) => chunk.insert(),
        }
    }

    /// The answer by graph and scan; `None` if the graph gave too few.
    fn search_graph(&self, graph: &Graph, query: &UnitRow, top_k: usize) -> Option<Vec<Hit>> {
        let covered = graph.covered().min(self.rows.slots());
        let found = graph.search(query, candidates(top_k))?;
        let live = found.into_iter().filter(|&slot| slot < covered && self.rows.is_live(slot));
        let candidates: Vec<usize> = live.chain(covered..self.rows.slots()).collect();
        let hits = self.rows.nearest(query, top_k, candidates);
        (hits.len() == top_k.min(self.count())).then_some(hits)
    }
}

fn candidates(top_k: usize) -> usize {
    top_k.saturating_mul(2).max(EF_SEARCH)
}

impl Graph {
    fn new() -> Self {
        let inner = hnsw_rs::prelude::Hnsw::new(NEIGHBORS, ROOM, LAYERS, EF_CONSTRUCTION, DistL2);
        Self { inner, covered: AtomicUsize::new(0), broken: AtomicBool::new(false) }
    }

    fn covered(&self) -> usize {
        self.covered.load(Ordering::Acquire)
    }

    /// Slots near `query`; `None` if hnsw_rs panicked, now or before.
    fn search(&self, query: &UnitRow, ef: usize) -> Option<Vec<usize>> {
        let search = || self.inner.search(query.values(), ef, ef);
        match catch_unwind(AssertUnwindSafe(search)) {
            Ok(found) => Some(found.iter().map(|neighbor| neighbor.d_id).collect()),
            Err(_) => {
                self.broken.store(true, Ordering::Release);
                None
            }
        }
    }
}

impl Chunk {
    fn insert(self) {
        let insert = || {
            self.rows
                .iter()
                .for_each(|(slot, row)| self.graph.inner.insert((row.as_slice(), *slot)))
        };
        match catch_unwind(AssertUnwindSafe(insert)) {
            Ok(()) => self.graph.covered.store(self.covers, Ordering::Release),
            Err(_) => self.graph.broken.store(true, Ordering::Release),
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("covered", &self.covered).finish_non_exhaustive()
    }
}

impl VectorRead for Hnsw {
    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn count(&self) -> usize {
        self.rows.count()
    }

    fn tombstones(&self) -> usize {
        self.rows.tombstones()
    }

    fn search(&self, query: &UnitRow, top_k: usize) -> Vec<Hit> {
        assert_eq!(query.dim(), self.dim(), "queries are checked before they get here");
        let graph = self.graph().filter(|_| self.uses_graph(top_k));
        let by_graph = graph.and_then(|graph| self.search_graph(graph, query, top_k));
        by_graph.unwrap_or_else(|| self.search_exact(query, top_k))
    }

    fn search_exact(&self, query: &UnitRow, top_k: usize) -> Vec<Hit> {
        self.rows.search_exact(query, top_k)
    }
}

impl VectorWrite for Hnsw {
    fn upsert(&mut self, id: ItemId, row: &UnitRow) {
        self.rows.upsert(id, row);
    }

    fn remove(&mut self, id: &ItemId) -> bool {
        self.rows.remove(id)
    }

    /// The slots change their numbers, so the graph begins anew.
    fn compact(&mut self) {
        self.rows.compact();
        self.graph = None;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::conformance::{id, unit_rows},
        *,
    };

    fn tended(index: Hnsw) -> Hnsw {
        let index = RwLock::new(index);
        while tend(&index) {}
        index.into_inner().expect("no thread panicked")
    }

    fn filled(count: usize, dim: usize, exact_items_max: usize) -> (Hnsw, Vec<UnitRow>) {
        let rows = unit_rows(count, dim, 7);
        let mut index = Hnsw::new(dim, exact_items_max);
        rows.iter().enumerate().for_each(|(n, row)| index.upsert(id(n), row));
        (index, rows)
    }

    #[test]
    fn the_graph_finds_what_the_scan_finds() {
        let (index, _) = filled(3000, 16, 1000);
        assert!(!index.uses_graph(10), "not made yet");
        let index = tended(index);
        assert!(index.uses_graph(10));
        let queries = unit_rows(50, 16, 8);
        let mut found = 0;
        for query in &queries {
            let exact = index.search_exact(query, 10);
            let hits = index.search(query, 10);
            assert_eq!(hits.len(), 10);
            found += hits.iter().filter(|hit| exact.contains(hit)).count();
        }
        assert!(found >= 495, "{found} of 500");
    }

    #[test]
    fn an_item_is_found_before_and_after_it_enters_the_graph() {
        let (index, _) = filled(500, 8, 100);
        let mut index = tended(index);
        let new = unit_rows(1, 8, 99).remove(0);
        index.upsert(id(9999), &new);
        assert_eq!(index.search(&new, 1)[0].id, id(9999), "scanned");
        let mut index = tended(index);
        assert_eq!(index.search(&new, 1)[0].id, id(9999), "in the graph");
        assert!(index.remove(&id(9999)));
        assert_ne!(index.search(&new, 1)[0].id, id(9999), "a tombstone");
    }

    #[test]
    fn many_tombstones_are_compacted_and_the_graph_made_anew() {
        let (index, rows) = filled(1000, 8, 100);
        let mut index = tended(index);
        for n in 0..300 {
            assert!(index.remove(&id(n)));
        }
        // All of what is near the query is deleted: the graph's candidates are too few.
        assert_eq!(index.search(&rows[0], 700).len(), 700);
        assert_eq!((index.count(), index.tombstones()), (700, 300));
        let index = tended(index);
        assert_eq!((index.count(), index.tombstones()), (700, 0));
        assert!(index.uses_graph(10));
        for (n, row) in rows.iter().enumerate().skip(300) {
            assert_eq!(index.search(row, 1)[0].id, id(n));
        }
    }

    #[test]
    fn a_graph_that_panics_is_given_up_and_the_index_goes_on() {
        let (index, rows) = filled(500, 8, 100);
        let index = tended(index);
        let graph = index.graph().expect("a graph");
        let other_length = UnitRow::normalize(vec![1.0; 3]).expect("a direction");
        assert_eq!(graph.search(&other_length, 10), None, "hnsw_rs panics on another length");
        assert!(!index.uses_graph(10));
        assert_eq!(index.search(&rows[3], 1)[0].id, id(3));
        assert!(!tend(&RwLock::new(index)), "nothing is left to do");
    }

    #[test]
    fn equal_rows_do_no_harm() {
        let mut index = Hnsw::new(4, 50);
        let row = UnitRow::normalize(vec![1.0, 2.0, 3.0, 4.0]).expect("a direction");
        (0..400).for_each(|n| index.upsert(id(n), &row));
        let index = tended(index);
        let hits = index.search(&row, 20);
        assert_eq!(hits.len(), 20);
        assert!(hits.iter().all(|hit| (hit.cosine - 1.0).abs() < 1e-6));
    }
}

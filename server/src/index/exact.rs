//! All rows of an index in one block of memory, and the scan over them.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

use super::{Hit, ItemId, UnitRow, VectorRead, VectorWrite};

/// Rows in slots: a slot, once given, keeps its row until [`VectorWrite::compact`]. A deleted or
/// replaced item leaves a tombstone.
///
/// `rows.len() == ids.len() * dim`; `slots` has exactly the ids that are `Some` in `ids`.
#[derive(Debug, Clone)]
pub struct Exact {
    dim: usize,
    rows: Vec<f32>,
    ids: Vec<Option<ItemId>>,
    slots: HashMap<ItemId, usize>,
}

impl Exact {
    /// Without items; `dim` is above 0.
    pub fn new(dim: usize) -> Self {
        Self { dim, rows: Vec::new(), ids: Vec::new(), slots: HashMap::new() }
    }

    /// Slots, tombstones included.
    pub fn slots(&self) -> usize {
        self.ids.len()
    }

    /// The row in `slot`, `[D]`, deleted or not.
    pub fn row(&self, slot: usize) -> &[f32] {
        &self.rows[slot * self.dim..][..self.dim]
    }

    /// Whether `slot` holds an item.
    pub fn is_live(&self, slot: usize) -> bool {
        self.ids[slot].is_some()
    }

    /// The nearest items of `slots`, best first, at most `top_k`.
    pub fn nearest(
        &self,
        query: &UnitRow,
        top_k: usize,
        slots: impl IntoIterator<Item = usize>,
    ) -> Vec<Hit> {
        assert_eq!(query.dim(), self.dim, "queries are checked before they get here");
        let mut best: BinaryHeap<Worst<'_>> = BinaryHeap::with_capacity(top_k + 1);
        for slot in slots {
            let Some(id) = &self.ids[slot] else { continue };
            let found = Worst { cosine: dot(query.values(), self.row(slot)), id };
            if best.len() < top_k {
                best.push(found);
            } else if best.peek().is_some_and(|worst| found < *worst) {
                best.pop();
                best.push(found);
            }
        }
        let hit = |found: Worst<'_>| Hit { id: found.id.clone(), cosine: found.cosine };
        best.into_sorted_vec().into_iter().map(hit).collect()
    }

    /// Slots of a range, for [`Exact::nearest`].
    pub fn all(&self) -> Range<usize> {
        0..self.slots()
    }
}

/// Orders found items from best to worst; equals in the order of their ids, so that an answer never
/// depends on history.
struct Worst<'a> {
    cosine: f32,
    id: &'a ItemId,
}

impl Ord for Worst<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.cosine.total_cmp(&self.cosine).then_with(|| self.id.cmp(other.id))
    }
}

impl PartialOrd for Worst<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Worst<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Worst<'_> {}

/// Sums that a dot product is split into, so that the processor can add several at a time.
const LANES: usize = 16;

/// Dot product of two rows of one length. The order of the additions is fixed: a search through a
/// graph and a scan give the same bits.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "rows of one space");
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let rest: f32 = rest.map(|(x, y)| x * y).sum();
    let mut sums = [0.0f32; LANES];
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

impl VectorRead for Exact {
    fn dim(&self) -> usize {
        self.dim
    }

    fn count(&self) -> usize {
        self.slots.len()
    }

    fn tombstones(&self) -> usize {
        self.ids.len() - self.slots.len()
    }

    fn search(&self, query: &UnitRow, top_k: usize) -> Vec<Hit> {
        self.search_exact(query, top_k)
    }

    fn search_exact(&self, query: &UnitRow, top_k: usize) -> Vec<Hit> {
        self.nearest(query, top_k, self.all())
    }
}

impl VectorWrite for Exact {
    fn upsert(&mut self, id: ItemId, row: &UnitRow) {
        assert_eq!(row.dim(), self.dim, "vectors are checked before they get here");
        let slot = self.ids.len();
        self.rows.extend_from_slice(row.values());
        self.ids.push(Some(id.clone()));
        if let Some(replaced) = self.slots.insert(id, slot) {
            self.ids[replaced] = None;
        }
    }

    fn remove(&mut self, id: &ItemId) -> bool {
        match self.slots.remove(id) {
            Some(slot) => {
                self.ids[slot] = None;
                true
            }
            None => false,
        }
    }

    fn compact(&mut self) {
        let mut kept = Self::new(self.dim);
        kept.rows.reserve(self.count() * self.dim);
        for (slot, id) in self.ids.iter().enumerate() {
            if let Some(id) = id {
                kept.slots.insert(id.clone(), kept.ids.len());
                kept.ids.push(Some(id.clone()));
                kept.rows.extend_from_slice(self.row(slot));
            }
        }
        *self = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_dot_product_is_the_plain_one() {
        for length in 0..70usize {
            let a: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..length).map(|i| (i as f32 * 1.3).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-4, "{length}");
        }
    }

    #[test]
    fn equals_are_in_the_order_of_their_ids() {
        let mut index = Exact::new(2);
        let row = UnitRow::normalize(vec![1.0, 1.0]).expect("a direction");
        for id in ["c", "a", "d", "b"] {
            index.upsert(ItemId::parse(id, 9).expect("an id"), &row);
        }
        let hits = index.search(&row, 3);
        let ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }
}

//! Named sets of vectors, kept on disk and searched in memory. Knows nothing of HTTP.
//!
//! The [`store`] is the truth: a change is acknowledged once it is durable there. In memory each
//! index is an [`exact`] set of rows, and above a size a [`hnsw`] graph over them, which is only
//! ever a cache: it is built from the rows, never read from a file. [`embedded`] keeps the three
//! together.

pub mod embedded;
pub mod exact;
pub mod hnsw;
pub mod store;

use std::{fmt, sync::Arc};

use clip::embedding::UnitRows;

pub use embedded::{Change, IndexInfo, Indexes, Outcome};

/// Name of an item inside its index. Cheap to copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(Arc<str>);

impl ItemId {
    /// Not empty, at most `bytes_max` bytes, no control characters; `None` otherwise.
    pub fn parse(text: &str, bytes_max: usize) -> Option<Self> {
        let sound = !text.is_empty() && text.len() <= bytes_max;
        (sound && !text.contains(char::is_control)).then(|| Self(Arc::from(text)))
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Name of an index. Cheap to copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexName(Arc<str>);

/// Longest name of an index.
pub const INDEX_NAME_BYTES_MAX: usize = 64;

impl IndexName {
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first one a letter or a digit; `None` otherwise.
    pub fn parse(text: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let sound = first && text.len() <= INDEX_NAME_BYTES_MAX && text.bytes().all(known);
        sound.then(|| Self(Arc::from(text)))
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[D]` finite values of unit length: the only thing that an index takes.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitRow(Vec<f32>);

impl UnitRow {
    /// Divides by the length; `None` if a value is not finite or all are zero.
    pub fn normalize(values: Vec<f32>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let dim = values.len();
        let row = UnitRows::normalize(values, dim);
        let direction = row.values().iter().any(|&value| value != 0.0);
        direction.then(|| Self(row.values().to_vec()))
    }

    /// Takes values that are of unit length already, up to rounding; `None` if they are not.
    pub fn checked(values: Vec<f32>) -> Option<Self> {
        let square: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        ((square - 1.0).abs() < SQUARE_TOLERANCE).then_some(Self(values))
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// Columns (D).
    pub fn dim(&self) -> usize {
        self.0.len()
    }
}

/// How far the square of a stored row's length may be from 1.
const SQUARE_TOLERANCE: f64 = 1e-4;

/// One answer of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Which item.
    pub id: ItemId,
    /// Its cosine with the query.
    pub cosine: f32,
}

/// What can be asked of a set of vectors.
pub trait VectorRead {
    /// Columns of every vector (D).
    fn dim(&self) -> usize;

    /// Items.
    fn count(&self) -> usize;

    /// Deleted items that still take memory.
    fn tombstones(&self) -> usize;

    /// The nearest items, best first, at most `top_k`; `query` has `dim` columns. May miss some;
    /// the cosines are exact.
    fn search(&self, query: &UnitRow, top_k: usize) -> Vec<Hit>;

    /// Like [`VectorRead::search`], and misses none.
    fn search_exact(&self, query: &UnitRow, top_k: usize) -> Vec<Hit>;
}

/// What can be done to a set of vectors.
pub trait VectorWrite: VectorRead {
    /// Adds an item, or replaces the one of this id; `row` has `dim` columns.
    fn upsert(&mut self, id: ItemId, row: &UnitRow);

    /// Deletes an item; false if there is none of this id.
    fn remove(&mut self, id: &ItemId) -> bool;

    /// Frees what deleted items take.
    fn compact(&mut self);
}

#[cfg(test)]
pub(crate) mod conformance;

//! What an epoch trains on, where that is not all pairs as they are.

use std::sync::Arc;

/// Some of the pairs of a data set, or all; a picture may come with the caption of another pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Data-set rows, in rising order; all if `None`
    pub rows: Option<Arc<[u32]>>,
    /// Of these, those whose pictures come with another caption, in rising order, each with the row
    /// that the caption is of
    pub recaptioned: Arc<[(u32, u32)]>,
}

impl Selection {
    /// The `rows`, and pictures that are none of them with captions of other rows.
    pub fn new(rows: Option<Arc<[u32]>>, pictures: Vec<(u32, u32)>) -> Self {
        if pictures.is_empty() {
            return Self { rows, ..Default::default() };
        }
        let with = |rows: Arc<[u32]>| {
            let all = rows.iter().copied().chain(pictures.iter().map(|&(picture, _)| picture));
            let mut all: Vec<u32> = all.collect();
            all.sort_unstable();
            all.into()
        };
        Self { rows: rows.map(with), recaptioned: pictures.into() }
    }

    /// The row whose caption comes with the picture of `row`.
    pub fn caption_of(&self, row: u32) -> u32 {
        let found = self.recaptioned.binary_search_by_key(&row, |&(picture, _)| picture);
        found.map_or(row, |at| self.recaptioned[at].1)
    }
}

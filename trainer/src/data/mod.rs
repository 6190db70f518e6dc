//! From a manifest to batches.
//!
//! | module | holds |
//! |---|---|
//! | `manifest` · `shards` | tables of pairs · tars of pairs |
//! | `row` · `image` | one pair and what it may hold · where its picture lies |
//! | `store` | decoded pictures, and the rows that are skipped |
//! | `selection` · `sampler` | which pairs an epoch trains on · their order |
//! | `loader` · `batch` | threads that make batches · what a step is given |

mod batch;
mod duplicates;
#[cfg(test)]
mod golden;
mod image;
mod loader;
mod manifest;
mod row;
mod sampler;
mod selection;
mod shards;
mod store;

pub use batch::{Batch, Pixels};
pub use image::{ImageSource, Member, Shard};
#[cfg(test)]
pub(crate) use loader::tests::of_pairs;
pub use loader::{Loader, Shown, Views};
pub use manifest::{Keys, Listing, Manifest, Reading, Skipped};
pub(crate) use row::CAPTION_BYTES_MAX;
pub use row::{Classes, Place, Row};
pub use sampler::order;
pub use selection::Selection;
pub use shards::ShardWriter;
pub use store::Store;

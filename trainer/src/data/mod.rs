//! From a manifest to batches.

pub mod duplicates;
mod loader;
mod manifest;
mod sampler;
mod store;

pub use loader::{Batch, Loader};
pub(crate) use manifest::CAPTION_BYTES_MAX;
pub use manifest::{Manifest, Row};
pub use sampler::order;
pub use store::Store;

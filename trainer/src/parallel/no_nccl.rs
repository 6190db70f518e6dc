//! A build without the feature `cuda`.

use std::sync::Arc;

use clip::ops::Seat;

use super::Collective;
use crate::error::{Error, Result};

/// Ranks with a GPU each, of which there are none in this build.
#[derive(Debug)]
pub enum Nccl {}

impl Nccl {
    /// Refuses.
    pub fn start(_: &Seat) -> Result<Arc<dyn Collective>> {
        let problem = "which this build does not have: \
                       `cargo build --release -p trainer --features cuda` makes one that does";
        Err(Error::Nccl { problem: problem.into() })
    }
}

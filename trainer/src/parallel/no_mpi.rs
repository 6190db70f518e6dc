//! A build without the feature `mpi`.

use std::sync::Arc;

use super::Collective;
use crate::error::{Error, Result};

/// The ranks of an MPI job, of which there are none in this build.
#[derive(Debug)]
pub enum Mpi {}

impl Mpi {
    /// Refuses.
    pub fn start() -> Result<Arc<dyn Collective>> {
        let problem = "which this build does not have: \
                       `cargo build --release -p trainer --features mpi` makes one that does";
        Err(Error::Mpi { problem })
    }
}

//! Training by several processes (ranks), each with its part of every batch.
//!
//! Every rank embeds its part, sees the rows of all, computes the same loss on the whole batch, goes
//! back from its own rows, and moves the same weights by the summed gradient. Rank 0 writes files,
//! evaluates and talks.
//!
//! | file | holds |
//! |---|---|
//! | `single` · `mpi` · `nccl` | who carries it out: one process · the ranks of an MPI job · ranks with a GPU each |
//! | `exchange` | what a step and a run exchange, out of [`Collective`]'s operations |
//! | `launch` | what started this process, by its environment |
//! | `watch` | with NCCL: which rank is gone |

mod exchange;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
#[path = "no_mpi.rs"]
mod mpi;
#[cfg(feature = "cuda")]
mod nccl;
#[cfg(not(feature = "cuda"))]
#[path = "no_nccl.rs"]
mod nccl;
mod single;
#[cfg(any(test, feature = "cuda"))]
mod watch;

use std::{env, sync::Arc};

use clip::ops::Peers;

pub use launch::check_launch;
pub use mpi::Mpi;
pub use nccl::Nccl;
pub use single::Single;

use crate::{
    config,
    error::Result,
    gpu::{self, Gpu},
};

/// What ranks can do together, beside the sums of [`Peers`].
///
/// All of them make the same calls in the same order; each waits for the others. A rank that is
/// gone ends them all.
pub trait Collective: Peers {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// The values of all ranks, rank after rank; each gives as many.
    fn gather(&self, own: &[f32]) -> Vec<f32>;

    /// [`Collective::gather`] of numbers.
    fn gather_numbers(&self, own: &[u32]) -> Vec<u32>;

    /// The GPU of this rank, opened: that of its number among the ranks of its machine, modulo the
    /// count of GPUs.
    fn gpu(&self) -> Result<Gpu> {
        gpu::open(launch::local_rank(variable))
    }

    /// Ends this process with this exit code and with it, by itself or by its launcher, those of all
    /// ranks; returns where there is one alone.
    fn abort(&self, code: u8);
}

/// Of the environment.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// Finds the other ranks.
pub fn open(parallel: config::Parallel) -> Result<Arc<dyn Collective>> {
    match parallel {
        config::Parallel::Single => Ok(Arc::new(Single)),
        config::Parallel::Mpi => Mpi::start(),
        config::Parallel::Nccl => Nccl::start(&launch::seat(variable)?),
    }
}

//! The ranks of an MPI job, started by `mpirun` or by Slurm.

use std::{fmt, sync::Arc, thread};

use clip::ops::Peers;
use mpi::{
    Threading,
    collective::SystemOperation,
    environment::{Universe, initialize_with_threading},
    topology::SimpleCommunicator,
    traits::{Communicator, CommunicatorCollectives, Equivalence},
};

use super::Collective;
use crate::error::{Error, Result};

/// Values that are summed by one call: a copy of them is needed, and MPI counts in C's `int`.
const SUMMED_MAX: usize = 1 << 22;

/// All processes of the job. MPI is left when it is dropped.
pub struct Mpi {
    rank: usize,
    ranks: usize,
    _universe: Universe,
}

impl Mpi {
    /// Joins the job; without a launcher, a job of one. To be called once.
    pub fn start() -> Result<Arc<dyn Collective>> {
        let refuse = |problem| Error::Mpi { problem };
        // The steps run on a thread of their own, one call at a time.
        let (universe, threading) = initialize_with_threading(Threading::Serialized)
            .ok_or(refuse("which this process has joined already"))?;
        if threading < Threading::Serialized {
            return Err(refuse("whose library may be called from the first thread only"));
        }
        let (rank, ranks) = (world().rank() as usize, world().size() as usize);
        Ok(Arc::new(Self { rank, ranks, _universe: universe }))
    }

    fn gathered<T: Equivalence + Clone + Default>(&self, own: &[T]) -> Vec<T> {
        let mut all = vec![T::default(); self.ranks * own.len()];
        world().all_gather_into(own, &mut all[..]);
        all
    }
}

/// A handle without state; that of the universe may not change threads.
fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

impl Peers for Mpi {
    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, values: &mut [f32]) {
        for values in values.chunks_mut(SUMMED_MAX) {
            let own = values.to_vec();
            world().all_reduce_into(&own[..], values, SystemOperation::sum());
        }
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        self.gathered(own)
    }

    fn gather_numbers(&self, own: &[u32]) -> Vec<u32> {
        self.gathered(own)
    }

    fn abort(&self, code: u8) {
        if self.ranks > 1 {
            world().abort(code.into())
        }
    }
}

impl Drop for Mpi {
    /// MPI is left together; after a panic the others would wait for this rank for ever.
    fn drop(&mut self) {
        if thread::panicking() {
            terminal::say(format!("error: rank {} of {} has a bug", self.rank, self.ranks));
            self.abort(101);
        }
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} of {}", self.rank, self.ranks)
    }
}

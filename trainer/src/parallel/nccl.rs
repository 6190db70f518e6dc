//! Ranks with a GPU each, which reach one another by NCCL; started by torchrun, `mpirun` or Slurm.

use std::{process, sync::Arc};

use clip::ops::{Peers, Seat};
use terminal::Exit;

use super::{Collective, launch, variable};
use crate::{
    error::Result,
    gpu::{self, Gpu},
};

/// All processes that a launcher has started.
#[derive(Debug)]
pub struct Nccl {
    gpu: Gpu,
    rank: usize,
    ranks: usize,
}

impl Nccl {
    /// Opens the GPU of this rank and joins those of the others. To be called before there are other
    /// threads.
    pub fn start(seat: &Seat) -> Result<Arc<dyn Collective>> {
        let gpu = gpu::join(launch::local_rank(variable), seat)?;
        Ok(Arc::new(Self { gpu, rank: seat.rank, ranks: seat.ranks }))
    }

    /// What came of an exchange. If nothing did, nothing can: the others wait for it.
    fn must<T>(&self, outcome: clip::Result<T>) -> T {
        outcome.unwrap_or_else(|error| {
            let Self { rank, ranks, .. } = self;
            terminal::say(format!("error: rank {rank} of {ranks} cannot go on: {error}"));
            process::exit(Exit::Refused.code().into())
        })
    }

    fn gathered<const N: usize>(&self, own: impl Iterator<Item = [u8; N]>) -> Vec<[u8; N]> {
        let own: Vec<u8> = own.flatten().collect();
        let all = if own.is_empty() { own } else { self.must(self.gpu.gather(&own)) };
        let (values, _) = all.as_chunks();
        values.to_vec()
    }
}

impl Peers for Nccl {
    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, values: &mut [f32]) {
        if !values.is_empty() {
            self.must(self.gpu.sum_over_ranks(values));
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        let all = self.gathered(own.iter().map(|value| value.to_ne_bytes()));
        all.into_iter().map(f32::from_ne_bytes).collect()
    }

    fn gather_numbers(&self, own: &[u32]) -> Vec<u32> {
        let all = self.gathered(own.iter().map(|value| value.to_ne_bytes()));
        all.into_iter().map(u32::from_ne_bytes).collect()
    }

    fn gpu(&self) -> Result<Gpu> {
        Ok(self.gpu.clone())
    }

    /// Ends this one; its launcher then ends the others.
    fn abort(&self, code: u8) {
        if self.ranks > 1 {
            process::exit(code.into())
        }
    }
}

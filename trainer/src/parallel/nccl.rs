//! Ranks with a GPU each, which reach one another by NCCL; started by torchrun, `mpirun` or Slurm.

use std::{process, sync::Arc, thread, time::Duration};

use clip::ops::{Peers, Seat};
use terminal::Exit;

use super::{
    Collective, launch, variable,
    watch::{Loss, Pace, Watch},
};
use crate::{
    error::{Error, Result},
    gpu::{self, Gpu},
};

/// How long CUDA may take to leave a card on which an exchange waits for ever.
const END_WAIT: Duration = Duration::from_secs(3);

/// Ends this process as soon as another is gone: what waits for that one waits for ever.
fn watch(seat: &Seat, (host, port): &(String, u16)) -> Result<Watch> {
    let Seat { rank, ranks, .. } = *seat;
    let (place, pace) = (format!("`{host}`, port {}", port + 1), Pace::USUAL);
    let end = move |loss| {
        let why = match loss {
            Loss::Gone(gone) if gone as usize == rank => {
                "the others have not heard of it for too long".to_owned()
            }
            Loss::Gone(gone) => format!("rank {gone} is gone"),
            Loss::Late(late) => {
                format!("rank {late} did not come to {place} within {} s", pace.start.as_secs())
            }
        };
        Nccl::end(rank, ranks, &why)
    };
    let found = Watch::start(seat, (host, port + 1), pace, end);
    found.map_err(|problem| Error::Nccl { problem })
}

/// All processes that a launcher has started.
#[derive(Debug)]
pub struct Nccl {
    gpu: Gpu,
    rank: usize,
    ranks: usize,
    /// Dropped last: NCCL is left while the others are watched.
    _watch: Watched,
}

/// The watch over the others, if there are any; they are told goodbye when it is dropped.
#[derive(Debug)]
struct Watched(Option<Watch>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(watch) = self.0.take().filter(|_| !thread::panicking()) {
            watch.leave();
        }
    }
}

impl Nccl {
    /// Opens the GPU of this rank and joins those of the others. To be called before there are other
    /// threads.
    pub fn start(seat: &Seat) -> Result<Arc<dyn Collective>> {
        let watch = seat.meeting.as_ref().map(|meeting| watch(seat, meeting)).transpose()?;
        let gpu = gpu::join(launch::local_rank(variable), seat)?;
        Ok(Arc::new(Self { gpu, rank: seat.rank, ranks: seat.ranks, _watch: Watched(watch) }))
    }

    /// Says why, and ends this process.
    fn end(rank: usize, ranks: usize, why: &str) -> ! {
        Self::end_in_time();
        terminal::say(format!("error: rank {rank} of {ranks} cannot go on: {why}"));
        process::exit(Exit::Refused.code().into())
    }

    /// Lets this process end soon, whatever CUDA waits for: the others see it alive as long as it is
    /// there.
    fn end_in_time() {
        let guard = || {
            thread::sleep(END_WAIT);
            process::abort()
        };
        let _ = thread::Builder::new().spawn(guard); // without one, it ends unless it hangs
    }

    /// What came of an exchange. If nothing did, nothing can: the others wait for it.
    fn must<T>(&self, outcome: clip::Result<T>) -> T {
        outcome.unwrap_or_else(|error| Self::end(self.rank, self.ranks, &error.to_string()))
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

    /// Ends this one; those that watch it end, too.
    fn abort(&self, code: u8) {
        if self.ranks > 1 {
            Self::end_in_time();
            process::exit(code.into())
        }
    }
}

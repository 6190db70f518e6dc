//! Ranks that are threads of one process.

use std::{
    panic,
    sync::{Arc, Barrier, Mutex, PoisonError},
    thread,
};

use clip::ops::Peers;
use trainer::parallel::Collective;

/// One of the threads.
#[derive(Debug)]
pub(crate) struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    /// Bits of the values of each rank.
    slots: Mutex<Vec<Vec<u32>>>,
}

impl Threads {
    /// What `work` gives on each of `ranks` threads, in their order.
    pub(crate) fn run<T: Send>(
        ranks: usize,
        work: impl Fn(Arc<dyn Collective>) -> T + Sync,
    ) -> Vec<T> {
        let (barrier, slots) = (Barrier::new(ranks), Mutex::new(vec![Vec::new(); ranks]));
        let (shared, work) = (Arc::new(Shared { barrier, slots }), &work);
        thread::scope(|scope| {
            let start = |rank| {
                let shared = shared.clone();
                scope.spawn(move || work(Arc::new(Self { rank, shared })))
            };
            let threads: Vec<_> = (0..ranks).map(start).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, T>| {
                thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }
}

impl Peers for Threads {
    fn ranks(&self) -> usize {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn sum(&self, values: &mut [f32]) {
        let all = self.gather(values);
        values.fill(0.0);
        for part in all.chunks_exact(values.len().max(1)) {
            values.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn gather(&self, own: &[f32]) -> Vec<f32> {
        let bits: Vec<u32> = own.iter().map(|value| value.to_bits()).collect();
        self.gather_numbers(&bits).into_iter().map(f32::from_bits).collect()
    }

    fn gather_numbers(&self, own: &[u32]) -> Vec<u32> {
        let slots = || self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots()[self.rank] = own.to_vec();
        self.shared.barrier.wait();
        let all = slots().concat();
        self.shared.barrier.wait(); // the next values come when all have these
        all
    }

    fn abort(&self, code: u8) {
        panic!("rank {} ends all with {code}", self.rank);
    }
}

//! Plain threads with a bounded queue of jobs, for work that must not hold up the async threads.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that run jobs in the order of their arrival.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// As many jobs wait as may wait, or the pool has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

struct Shared {
    state: Mutex<State>,
    ready: Condvar,
    waiting_max: usize,
}

struct State {
    waiting: VecDeque<Job>,
    stopped: bool,
}

impl Pool {
    /// Starts `threads` threads called `name`; at most `waiting_max` jobs wait for them.
    pub fn start(name: &str, threads: usize, waiting_max: usize) -> io::Result<Self> {
        let state = Mutex::new(State { waiting: VecDeque::new(), stopped: false });
        let shared = Arc::new(Shared { state, ready: Condvar::new(), waiting_max });
        let pool = Self { shared: Arc::clone(&shared), threads: Mutex::default() };
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            let thread =
                thread::Builder::new().name(name.to_owned()).spawn(move || shared.work())?;
            pool.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(pool)
    }

    /// Leaves `job` to a thread. A job that panics harms no other: what it would have answered
    /// with is dropped.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Full> {
        let mut state = self.shared.lock();
        if state.stopped || state.waiting.len() >= self.shared.waiting_max {
            return Err(Full);
        }
        state.waiting.push_back(Box::new(job));
        drop(state);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// Leaves `work` to a thread and gives the place where its result will be. Work whose result
    /// nobody waits for any more is not begun.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Full> {
        let (reply, result) = oneshot::channel();
        self.submit(move || {
            if !reply.is_closed() {
                let _ = reply.send(work()); // the client may have left meanwhile
            }
        })?;
        Ok(result)
    }

    /// Takes no more jobs, finishes those that wait, and ends the threads.
    pub fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.ready.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join(); // jobs are caught: a thread does not panic
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let job = loop {
                if let Some(job) = state.waiting.pop_front() {
                    break job;
                }
                if state.stopped {
                    return;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let _ = catch_unwind(AssertUnwindSafe(job)); // reported by the panic hook
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("waiting_max", &self.waiting_max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_job_and_no_thread() {
        let pool = Pool::start("test", 1, 8).expect("threads");
        let lost = pool.run(|| -> u32 { panic!("a broken job") }).expect("a place");
        let kept = pool.run(|| 7).expect("a place");
        assert!(lost.blocking_recv().is_err());
        assert_eq!(kept.blocking_recv(), Ok(7));
    }

    #[test]
    fn a_full_pool_refuses_and_a_stopped_one_finishes_its_jobs() {
        let pool = Pool::start("test", 1, 2).expect("threads");
        let (open, gate) = oneshot::channel::<()>();
        let (begun, running) = oneshot::channel::<()>();
        let first = pool.run(move || {
            let _ = begun.send(());
            gate.blocking_recv().is_ok()
        });
        let first = first.expect("a place");
        running.blocking_recv().expect("the thread took the job");
        let waiting: Vec<_> = (0..2).map(|n| pool.run(move || n).expect("a place")).collect();
        assert_eq!(pool.run(|| 0).err(), Some(Full));
        open.send(()).expect("the job waits for it");
        pool.stop();
        assert_eq!(first.blocking_recv(), Ok(true));
        for (n, result) in waiting.into_iter().enumerate() {
            assert_eq!(result.blocking_recv(), Ok(n));
        }
        assert_eq!(pool.run(|| 0).err(), Some(Full));
    }
}

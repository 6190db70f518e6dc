//! The tender: moves rows into graphs and frees tombstones whenever a change asks for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{super::hnsw, Contents, Shelf};

/// Whether there may be upkeep to do.
#[derive(Debug, Default)]
pub(super) struct Tending {
    state: Mutex<TendState>,
    ready: Condvar,
    /// Held by whoever tends: a row enters a graph once.
    at_work: Mutex<()>,
}

#[derive(Debug, Default)]
struct TendState {
    asked: bool,
    stopped: bool,
}

impl Shelf {
    /// The tender's thread.
    pub(super) fn tend(&self) {
        while self.tending.wait() {
            while self.tend_all() && !self.tending.is_stopped() {}
            self.report();
        }
    }

    /// One piece of upkeep for each index; false when nothing was left to do.
    pub(super) fn tend_all(&self) -> bool {
        let _alone = self.tending.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let mut worked = false;
        for (_, opened) in self.all() {
            if let Contents::Usable(vectors) = &opened.contents {
                worked |= hnsw::tend(vectors);
            }
        }
        worked
    }
}

impl Tending {
    pub(super) fn ask(&self) {
        self.lock().asked = true;
        self.ready.notify_all();
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.ready.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Until there may be work; false at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        while !state.asked && !state.stopped {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asked = false;
        !state.stopped
    }

    fn lock(&self) -> MutexGuard<'_, TendState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One bounded queue per tower; every place is taken before any work is done for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use clip::{image::PixelBatch, text::TokenBatch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Fault, Tower, batcher};
use crate::observe::{
    Metrics,
    metrics::{Shed, Stage},
};

/// One row to be embedded.
#[derive(Debug)]
pub struct Entry {
    /// What to embed.
    pub input: Input,
    /// Where the row goes, `[D]` of unit length; closed once the client has left.
    pub reply: Reply,
    /// When the answer is no longer wanted.
    pub deadline: Instant,
    /// When the entry began to wait.
    pub queued: Instant,
    /// Its request's places: taken until the last of its rows has left, client or no client.
    pub places: Arc<Places>,
}

impl Entry {
    /// Frees the place, then answers: who sends again at once finds it free.
    pub fn answer(self, row: Result<Vec<f32>, Fault>) {
        let Self { reply, places, .. } = self;
        drop(places);
        let _ = reply.send(row); // the client may have left
    }
}

/// Where the embedding of one row goes.
pub type Reply = oneshot::Sender<Result<Vec<f32>, Fault>>;

/// One row of input for one tower.
#[derive(Debug)]
pub enum Input {
    /// `[1, 3, H, W]`.
    Image(PixelBatch),
    /// `[1, T]`.
    Text(TokenBatch),
}

impl Input {
    fn tower(&self) -> Tower {
        match self {
            Self::Image(_) => Tower::Image,
            Self::Text(_) => Tower::Text,
        }
    }
}

/// Both queues. Workers pull from the one whose first entry has waited longest.
#[derive(Debug)]
pub struct Queues {
    state: Mutex<State>,
    ready: Condvar,
    image: Lane,
    text: Lane,
    metrics: Arc<Metrics>,
}

/// The numbers of one queue.
#[derive(Debug)]
pub struct Lane {
    places: Arc<Semaphore>,
    capacity: usize,
    batch_max: usize,
}

#[derive(Debug, Default)]
struct State {
    image: VecDeque<Entry>,
    text: VecDeque<Entry>,
    closed: bool,
}

/// Places in a queue, free again when this is dropped.
#[derive(Debug)]
pub struct Places {
    /// Rows that may be in the queue at one time; the rest of a request follows when they are done.
    pub rows: usize,
    _permit: OwnedSemaphorePermit,
}

#[cfg(test)]
impl Places {
    /// No places, for tests that need no queue.
    pub(super) fn none() -> Arc<Self> {
        let permit = Arc::new(Semaphore::new(0)).try_acquire_many_owned(0);
        Arc::new(Self { rows: 0, _permit: permit.expect("nothing was asked for") })
    }
}

impl Lane {
    /// At most `capacity` rows wait; a worker takes at most `batch_max` of them at once.
    pub fn new(capacity: usize, batch_max: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize);
        Self { places: Arc::new(Semaphore::new(capacity)), capacity, batch_max }
    }

    /// Places that one request may hold: a quarter, so that a large request cannot shut out others.
    fn share(&self) -> usize {
        (self.capacity / 4).max(self.batch_max).min(self.capacity)
    }
}

impl Queues {
    /// Two empty queues.
    pub fn new(image: Lane, text: Lane, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), image, text, metrics }
    }

    /// Takes places for a request of `rows` rows, or refuses at once.
    pub fn admit(&self, tower: Tower, rows: usize) -> Result<Arc<Places>, Fault> {
        let lane = self.lane(tower);
        let rows = rows.min(lane.share());
        let wanted = u32::try_from(rows).expect("a share is at most `u32::MAX`");
        match Arc::clone(&lane.places).try_acquire_many_owned(wanted) {
            Ok(permit) => Ok(Arc::new(Places { rows, _permit: permit })),
            Err(_) => {
                self.metrics.shed(Shed::QueueFull, 1);
                Err(Fault::Overloaded(tower))
            }
        }
    }

    /// Queues a row; its request holds a place for it.
    pub fn push(&self, entry: Entry) {
        let tower = entry.input.tower();
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return entry.answer(Err(Fault::Stopping));
        }
        let waiting = state.waiting(tower);
        waiting.push_back(entry);
        self.metrics.queue_depth(tower.name(), waiting.len());
        drop(state);
        self.ready.notify_one();
    }

    /// Waits for work; `None` once the queues are closed and empty.
    pub fn pull(&self) -> Option<Vec<Entry>> {
        let mut state = self.lock();
        loop {
            let Some(tower) = state.oldest() else {
                if state.closed {
                    return None;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            let waiting = state.waiting(tower);
            let taken = batcher::take(waiting, self.lane(tower).batch_max, now);
            self.metrics.queue_depth(tower.name(), waiting.len());
            self.metrics.shed(Shed::Gone, taken.gone);
            self.metrics.shed(Shed::Deadline, taken.expired.len());
            for entry in taken.expired {
                entry.answer(Err(Fault::Deadline));
            }
            if !taken.batch.is_empty() {
                drop(state);
                for entry in &taken.batch {
                    self.metrics.stage(Stage::Queue, entry.queued);
                }
                return Some(taken.batch);
            }
        }
    }

    /// Takes no more rows; workers finish those that wait.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Closes the queues and answers every row that waits with `fault`: no worker is left.
    pub fn abandon(&self, fault: impl Fn() -> Fault) {
        let mut state = self.lock();
        state.closed = true;
        let left: Vec<Entry> = {
            let State { image, text, .. } = &mut *state;
            image.drain(..).chain(text.drain(..)).collect()
        };
        drop(state);
        self.ready.notify_all();
        for entry in left {
            entry.answer(Err(fault()));
        }
    }

    fn lane(&self, tower: Tower) -> &Lane {
        match tower {
            Tower::Image => &self.image,
            Tower::Text => &self.text,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&mut self, tower: Tower) -> &mut VecDeque<Entry> {
        match tower {
            Tower::Image => &mut self.image,
            Tower::Text => &mut self.text,
        }
    }

    /// The tower whose first entry has waited longest.
    fn oldest(&self) -> Option<Tower> {
        let image = self.image.front().map(|entry| (entry.queued, Tower::Image));
        let text = self.text.front().map(|entry| (entry.queued, Tower::Text));
        [image, text].into_iter().flatten().min_by_key(|&(queued, _)| queued).map(|(_, t)| t)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queues() -> Queues {
        Queues::new(Lane::new(8, 2), Lane::new(8, 4), Arc::new(Metrics::new()))
    }

    fn entry(input: Input, age_ms: u64) -> (Entry, oneshot::Receiver<Result<Vec<f32>, Fault>>) {
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let queued = now - Duration::from_millis(age_ms);
        let deadline = now + Duration::from_secs(60);
        (Entry { input, reply, deadline, queued, places: Places::none() }, answer)
    }

    fn text() -> Input {
        Input::Text(TokenBatch::from_ids(vec![1, 2], 2))
    }

    fn image() -> Input {
        Input::Image(PixelBatch::from_values(vec![0.0; 3 * 4], 2))
    }

    #[test]
    fn a_full_queue_refuses_and_a_dropped_place_is_free_again() {
        let queues = queues();
        let places: Vec<Arc<Places>> =
            (0..4).map(|_| queues.admit(Tower::Image, 2).expect("a place")).collect();
        assert!(matches!(queues.admit(Tower::Image, 1), Err(Fault::Overloaded(Tower::Image))));
        assert!(queues.admit(Tower::Text, 1).is_ok(), "each tower has its own");
        drop(places);
        assert!(queues.admit(Tower::Image, 1).is_ok());
    }

    #[test]
    fn a_row_keeps_its_place_when_its_client_leaves() {
        let queues = queues();
        let places = queues.admit(Tower::Image, 2).expect("places");
        let (mut waiting, answer) = entry(image(), 0);
        waiting.places = places;
        queues.push(waiting);
        drop(answer);
        let rest: Vec<Arc<Places>> =
            (0..3).map(|_| queues.admit(Tower::Image, 2).expect("a place")).collect();
        assert!(queues.admit(Tower::Image, 1).is_err());
        queues.close();
        assert!(queues.pull().is_none(), "the row of a gone client is not computed");
        assert!(queues.admit(Tower::Image, 2).is_ok());
        drop(rest);
    }

    #[test]
    fn a_large_request_holds_its_share_only() {
        let queues = queues();
        assert_eq!(queues.admit(Tower::Image, 1000).expect("a share").rows, 2);
        assert_eq!(queues.admit(Tower::Text, 1000).expect("a share").rows, 4);
        assert_eq!(queues.admit(Tower::Text, 3).expect("all of it").rows, 3);
    }

    #[test]
    fn the_longest_waiting_tower_is_served_first() {
        let queues = queues();
        let (young, _young) = entry(image(), 1);
        let (old, _old) = entry(text(), 500);
        queues.push(young);
        queues.push(old);
        let towers: Vec<Tower> =
            (0..2).map(|_| queues.pull().expect("work")[0].input.tower()).collect();
        assert_eq!(towers, [Tower::Text, Tower::Image]);
        queues.close();
        assert!(queues.pull().is_none());
    }

    #[test]
    fn an_expired_entry_is_told_so() {
        let queues = queues();
        let (mut late, mut answer) = entry(text(), 10);
        late.deadline = late.queued;
        queues.push(late);
        queues.close();
        assert!(queues.pull().is_none());
        assert!(matches!(answer.try_recv(), Ok(Err(Fault::Deadline))));
    }

    #[test]
    fn after_the_end_every_row_gets_an_answer() {
        let queues = queues();
        let (waiting, mut first) = entry(text(), 0);
        queues.push(waiting);
        queues.abandon(|| Fault::Stopping);
        let (late, mut second) = entry(image(), 0);
        queues.push(late);
        assert!(matches!(first.try_recv(), Ok(Err(Fault::Stopping))));
        assert!(matches!(second.try_recv(), Ok(Err(Fault::Stopping))));
    }
}

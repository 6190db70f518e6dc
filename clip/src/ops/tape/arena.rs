//! Memory of a step that the next step uses again.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Gives out buffers and takes them back; steps that are alike need nothing new from the system.
///
/// Steps that differ, as captions do, leave buffers of sizes that nobody may ask for again. So no
/// more is kept than a quarter above the most that was ever in use at one time: beyond, what has
/// waited longest goes back to the system.
#[derive(Debug, Default)]
pub(crate) struct Arena(Mutex<Store>);

#[derive(Default)]
struct Store {
    /// By size; those that wait longest first, each with the time at which it came back.
    free: BTreeMap<usize, VecDeque<(u64, Vec<f32>)>>,
    /// Counts what came back.
    time: u64,
    /// Values that wait, that are lent, and that were lent at most.
    waiting: usize,
    lent: usize,
    lent_max: usize,
}

impl Store {
    fn lend(&mut self, size: usize) -> Vec<f32> {
        // Of a larger one up to a half is left unused, so that captions of many lengths do not each
        // keep buffers of their own.
        let found =
            self.free.range_mut(size..=2 * size).find_map(|(_, buffers)| buffers.pop_back());
        let values = match found {
            Some((_, values)) => {
                self.waiting -= values.len();
                values
            }
            None => vec![0.0; size],
        };
        self.lent += values.len();
        self.lent_max = self.lent_max.max(self.lent);
        values
    }

    fn take_back(&mut self, values: Vec<f32>) {
        let size = values.len();
        self.time += 1;
        self.lent -= size;
        self.waiting += size;
        self.free.entry(size).or_default().push_back((self.time, values));
        while self.waiting + self.lent > self.lent_max + self.lent_max / 4 {
            let front = |buffers: &VecDeque<(u64, _)>| buffers.front().map(|(time, _)| *time);
            let oldest = self.free.values_mut().filter(|buffers| !buffers.is_empty());
            let oldest = oldest.min_by_key(|buffers| front(buffers));
            let Some((_, values)) = oldest.and_then(VecDeque::pop_front) else { break };
            self.waiting -= values.len();
        }
    }
}

impl Arena {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer whose values are left over from its last use: all of them must be written.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut values = self.store().lend(size(length));
        if cfg!(test) {
            values.fill(f32::NAN); // a test sees what is read before it is written
        }
        Buffer { values, length, arena: self.clone() }
    }

    /// A buffer of zeros.
    pub(super) fn zeros(self: &Arc<Self>, length: usize) -> Buffer {
        let mut buffer = self.take(length);
        buffer.fill(0.0);
        buffer
    }

    /// A buffer with these values.
    pub(super) fn copy(self: &Arc<Self>, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Store of {} values, {} lent", self.waiting + self.lent, self.lent)
    }
}

/// Sizes in steps of an eighth, so that batches of nearly equal captions share buffers.
fn size(length: usize) -> usize {
    let step = (length.next_power_of_two() / 16).max(16);
    length.next_multiple_of(step)
}

/// Borrowed from an [`Arena`].
pub(crate) struct Buffer {
    values: Vec<f32>,
    length: usize,
    arena: Arc<Arena>,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.arena.store().take_back(std::mem::take(&mut self.values));
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer of {}", self.length)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn steps_of_many_lengths_keep_little_more_than_the_longest_needs() {
        let (arena, mut rng) = (Arc::new(Arena::default()), ChaCha8Rng::seed_from_u64(1));
        let mut longest = 0;
        for _ in 0..500 {
            let length = rng.random_range(3..78);
            let step: Vec<_> = (1..20).map(|layer| arena.take(length * layer * 100)).collect();
            longest = longest.max(step.iter().map(|buffer| buffer.values.len()).sum());
            drop(step);
            let store = arena.store();
            assert_eq!((store.lent, store.lent_max), (0, longest));
            assert!(store.waiting <= longest + longest / 4, "{} of {longest}", store.waiting);
        }
    }

    #[test]
    fn steps_that_are_alike_ask_for_nothing_new() {
        let arena = Arc::new(Arena::default());
        let step = || [5000, 70, 5000].map(|length| arena.take(length).as_ptr());
        assert_eq!(step(), step());
        let (a, b) = (arena.take(5000), arena.take(5000));
        assert_ne!(a.as_ptr(), b.as_ptr());
    }
}

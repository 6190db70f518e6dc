//! Memory of a step that the next step uses again.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// Gives out buffers and takes them back; steps that are alike need nothing new from the system.
#[derive(Debug, Default)]
pub(crate) struct Arena(Mutex<BTreeMap<usize, Vec<Vec<f32>>>>);

impl Arena {
    /// A buffer whose values are left over from its last use: all of them must be written.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let size = size(length);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a larger one up to a half is left unused, so that captions of many lengths do not each
        // keep buffers of their own.
        let found = free.range_mut(size..=2 * size).find_map(|(_, buffers)| buffers.pop());
        drop(free);
        let mut values = found.unwrap_or_else(|| vec![0.0; size]);
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
        let values = std::mem::take(&mut self.values);
        let mut free = self.arena.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(values.len()).or_default().push(values);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer of {}", self.length)
    }
}

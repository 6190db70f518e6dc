//! Other processes that train the same model.

use std::fmt::Debug;

/// The processes (ranks) that compute a batch together, each a part of it.
///
/// All of them make the same calls in the same order, with as many values.
pub trait Peers: Debug + Send + Sync {
    /// Processes, this one counted.
    fn ranks(&self) -> usize;

    /// Puts in the place of each value its sum over all ranks; the same bits on all of them.
    fn sum(&self, values: &mut [f32]);
}

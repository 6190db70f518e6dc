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

/// One of several processes, as whoever started them says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// From 0
    pub rank: usize,
    /// Of all
    pub ranks: usize,
    /// Host and port where the first waits for the others; one alone needs none
    pub meeting: Option<(String, u16)>,
}

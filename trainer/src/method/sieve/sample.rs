//! What is drawn: each purpose has a random stream of its own, beside those of order and
//! augmentation.

use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Of the references; with the epoch.
pub(super) const REFERENCES: u64 = 1 << 63;
/// Of those who may be neighbors.
pub(super) const CANDIDATES: u64 = 3 << 62;
/// Of other captions; a pool's noise has the same, which no run with a scout has.
pub(super) const CAPTIONS: u64 = 5 << 61;

/// The generator of a stream.
pub(super) fn rng(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// All `rows` in their order, or of more than `most` so many, in any.
pub(super) fn at_most(most: usize, rows: &[u32], rng: &mut ChaCha8Rng) -> Vec<u32> {
    match rows.len() {
        all if all <= most => rows.to_vec(),
        all => index::sample(rng, all, most).into_iter().map(|at| rows[at]).collect(),
    }
}

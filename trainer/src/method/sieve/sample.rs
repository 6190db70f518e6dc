//! What is drawn: each purpose has a random stream of its own, beside those of order and
//! augmentation.

use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Of the references; with the epoch.
pub(super) const REFERENCES_STREAM: u64 = 1 << 63;
/// Of those who may be neighbors.
pub(super) const CANDIDATES_STREAM: u64 = 3 << 62;
/// Of other captions; a pool's noise has the same, which no run with a scout has.
pub(super) const CAPTIONS_STREAM: u64 = 5 << 61;

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

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn of_few_all_are_taken_and_of_many_so_many_each_once() {
        let rows = [2, 3, 5, 7, 11, 13];
        let take = |most, seed| at_most(most, &rows, &mut rng(seed, CANDIDATES_STREAM));
        assert_eq!(take(6, 1), rows);
        assert_eq!(take(9, 1), rows);
        let mut all = Vec::new();
        for seed in 0..20 {
            let mut some = take(3, seed);
            assert_eq!(some, take(3, seed), "the seed decides");
            some.sort_unstable();
            some.dedup();
            assert_eq!(some.len(), 3, "{some:?}");
            all.extend(some);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, rows, "each is taken by some seed");
    }

    #[test]
    fn each_stream_has_its_own_numbers() {
        let streams = [0, 1, REFERENCES_STREAM, REFERENCES_STREAM | 1, CANDIDATES_STREAM];
        let mut numbers: Vec<u64> = streams.map(|stream| rng(7, stream).random()).to_vec();
        numbers.push(rng(7, CAPTIONS_STREAM).random());
        numbers.push(rng(8, CAPTIONS_STREAM).random());
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        assert_eq!(rng(7, 3).random::<u64>(), rng(7, 3).random::<u64>());
    }
}

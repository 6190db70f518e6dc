//! The order of rows in an epoch.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// All of `rows`, shuffled by (seed, epoch) and by nothing else.
pub fn order(rows: &[u32], seed: u64, epoch: u32) -> Vec<u32> {
    let mut order = rows.to_vec();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(epoch) << 2);
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let rows: Vec<u32> = (0..100).collect();
        let (first, second) = (order(&rows, 7, 1), order(&rows, 7, 2));
        assert_ne!(first, second);
        assert_eq!(first, order(&rows, 7, 1));
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, rows);
        }
    }
}

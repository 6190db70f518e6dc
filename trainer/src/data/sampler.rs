//! The order of rows in an epoch.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// `count` of `rows`, shuffled by (seed, epoch) and by nothing else; each comes once before any
/// comes again.
pub fn order(rows: &[u32], count: usize, seed: u64, epoch: u32) -> Vec<u32> {
    assert!(!rows.is_empty() || count == 0, "something to choose from");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(epoch) << 2);
    let (mut order, mut round) = (Vec::with_capacity(count), rows.to_vec());
    while order.len() < count {
        round.shuffle(&mut rng);
        order.extend(round.iter().take(count - order.len()));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let rows: Vec<u32> = (0..100).collect();
        let (first, second) = (order(&rows, 100, 7, 1), order(&rows, 100, 7, 2));
        assert_ne!(first, second);
        assert_eq!(first, order(&rows, 100, 7, 1));
        assert_eq!(first[..60], order(&rows, 60, 7, 1));
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, rows);
        }
    }

    #[test]
    fn too_few_rows_come_again_when_all_have_come() {
        let rows = [3, 5, 8];
        let order = order(&rows, 8, 7, 1);
        for round in order.chunks(3) {
            let mut round = round.to_vec();
            round.sort_unstable();
            round.dedup();
            assert!(round == rows || round.len() == 2, "{order:?}");
        }
    }
}

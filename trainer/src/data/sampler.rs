//! The order of rows in an epoch.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// `count` of `rows` in batches of `batch`, shuffled by (seed, epoch) and by nothing else. Too few
/// rows come again, in another order: never twice in a batch that they can fill.
pub fn order(rows: &[u32], count: usize, batch: usize, seed: u64, epoch: u32) -> Vec<u32> {
    assert!(!rows.is_empty() || count == 0, "something to choose from");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(epoch) << 2);
    let (mut order, mut round) = (Vec::with_capacity(count), rows.to_vec());
    let whole = if rows.len() < batch { rows.len() } else { rows.len() / batch * batch };
    while order.len() < count {
        round.shuffle(&mut rng);
        order.extend(round.iter().take(whole.min(count - order.len())));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let rows: Vec<u32> = (0..100).collect();
        let (first, second) = (order(&rows, 100, 10, 7, 1), order(&rows, 100, 10, 7, 2));
        assert_ne!(first, second);
        assert_eq!(first, order(&rows, 100, 10, 7, 1));
        assert_eq!(first[..60], order(&rows, 60, 10, 7, 1));
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, rows);
        }
    }

    #[test]
    fn too_few_rows_come_again_in_batches_of_their_own() {
        let check = |rows: u32, batch: usize| {
            let rows: Vec<u32> = (0..rows).collect();
            let order = order(&rows, 12 * batch, batch, 7, 1);
            assert_eq!(order.len(), 12 * batch);
            for batch in order.chunks(batch) {
                let mut distinct = batch.to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), batch.len().min(rows.len()), "{order:?}");
            }
        };
        check(7, 3);
        check(9, 3);
        check(3, 3);
        check(2, 3);
    }
}

//! The nearest of many rows to each of many, without a table of them all.

use rayon::prelude::*;

use super::cpu::{Matrix, MatrixMut, Threads, matmul};
use crate::UnitRows;

/// Queries of a thread at one time.
const QUERIES: usize = if cfg!(test) { 3 } else { 16 };
/// Keys whose products are in memory at one time.
const KEYS: usize = if cfg!(test) { 5 } else { 512 };

/// For each of Q queries the `count` of K keys with the greatest cosines, the nearest first: Q
/// times `count` numbers below K. `own` holds, for each query, the number of a key that is passed
/// over: the query itself. Of equal cosines the first counts. The same for any number of threads.
///
/// Panics unless there are more keys than `count`.
pub fn neighbors(
    queries: &UnitRows,
    keys: &UnitRows,
    own: &[Option<u32>],
    count: usize,
) -> Vec<u32> {
    assert_eq!((queries.dim(), queries.count()), (keys.dim(), own.len()), "rows of one space");
    assert!(count < keys.count(), "more keys than are asked for");
    let dim = keys.dim();
    let parts = queries.values().par_chunks(QUERIES * dim).zip(own.par_chunks(QUERIES));
    let parts = parts.map(|(queries, own)| {
        let mut nearest = vec![Nearest::new(count); own.len()];
        let mut products = vec![0.0; own.len() * KEYS];
        let queries = Matrix::new(queries, own.len(), dim);
        for (block, keys) in keys.values().chunks(KEYS * dim).enumerate() {
            let (first, all) = (block * KEYS, keys.len() / dim);
            let products = &mut products[..own.len() * all];
            let target = MatrixMut::new(&mut *products, own.len(), all);
            matmul(target, queries, Matrix::new(keys, all, dim).t(), 1.0, false, Threads::One);
            let each = nearest.iter_mut().zip(own).zip(products.chunks_exact(all));
            for ((nearest, own), products) in each {
                for (key, &product) in (first as u32..).zip(products) {
                    if product > nearest.least() && *own != Some(key) {
                        nearest.insert(product, key);
                    }
                }
            }
        }
        nearest.into_iter().flat_map(|nearest| nearest.keys).collect::<Vec<u32>>()
    });
    parts.flatten_iter().collect()
}

/// The greatest products so far, in falling order.
#[derive(Clone)]
struct Nearest {
    products: Vec<f32>,
    keys: Vec<u32>,
}

impl Nearest {
    fn new(count: usize) -> Self {
        Self { products: vec![f32::NEG_INFINITY; count], keys: vec![0; count] }
    }

    /// What a product must be above.
    fn least(&self) -> f32 {
        self.products.last().copied().unwrap_or(f32::INFINITY)
    }

    /// Of equal products the earlier stays in front.
    fn insert(&mut self, product: f32, key: u32) {
        let at = self.products.partition_point(|&other| other >= product);
        let last = self.products.len() - 1;
        self.products.copy_within(at..last, at + 1);
        self.keys.copy_within(at..last, at + 1);
        (self.products[at], self.keys[at]) = (product, key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::embedding::cosine;

    /// All keys sorted.
    fn one_by_one(
        queries: &UnitRows,
        keys: &UnitRows,
        own: &[Option<u32>],
        count: usize,
    ) -> Vec<u32> {
        let of_query = |(query, own): (&[f32], &Option<u32>)| -> Vec<u32> {
            let mut all: Vec<u32> =
                (0..keys.count() as u32).filter(|key| Some(*key) != *own).collect();
            all.sort_by(|&a, &b| {
                let of = |key: u32| cosine(query, keys.row(key as usize));
                of(b).total_cmp(&of(a))
            });
            all.truncate(count);
            all
        };
        queries.rows().zip(own).flat_map(of_query).collect()
    }

    proptest! {
        /// Rows along the axes: cosines are 0 or 1, and many are equal.
        #[test]
        fn as_all_sorted(
            (keys, queries) in (vec(0usize..4, 8..17), vec((0usize..4, 0u32..20), 1..8)),
            count in 1usize..7,
        ) {
            let rows = |axes: &mut dyn Iterator<Item = usize>| {
                let row = |axis| (0..4).map(move |at| if at == axis { 2.0 } else { 0.0 });
                UnitRows::normalize(axes.flat_map(row).collect(), 4)
            };
            let keys = rows(&mut keys.into_iter());
            let own: Vec<_> = queries.iter().map(|(_, own)| (*own < 17).then_some(*own)).collect();
            let queries = rows(&mut queries.into_iter().map(|(axis, _)| axis));
            let expected = one_by_one(&queries, &keys, &own, count);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("threads");
                let found = pool.install(|| neighbors(&queries, &keys, &own, count));
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn the_nearest_comes_first_and_none_is_its_own() {
        let angles = [0.0f32, 0.1, 0.3, 0.7, 1.5, 1.6, 3.0];
        let rows = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        let rows = UnitRows::normalize(rows, 2);
        let own: Vec<_> = (0..7).map(Some).collect();
        let found = neighbors(&rows, &rows, &own, 2);
        assert_eq!(found[..6], [1, 2, 0, 2, 1, 0]);
        assert_eq!(found[12..], [5, 4]);
        assert_eq!(neighbors(&rows, &rows, &own, 0), [0; 0]);
    }
}

//! Keys that are drawn by their softmax.

use rayon::prelude::*;

use super::cpu::{Matrix, MatrixMut, Threads, matmul};
use crate::UnitRows;

/// Queries of a thread at one time.
const QUERIES: usize = if cfg!(test) { 3 } else { 16 };

/// For each of Q queries as many of K `keys` as it has `chances`: Q C numbers from 0 up to but not
/// 1, by which they are drawn with replacement. The probability of a key is its share in the
/// softmax of the dot products of the query with all keys; `queries` are `[Q, D]`, row-major. Q C
/// numbers below K, all of a query one after the other. The same for any number of threads, each of
/// which holds K numbers for each of a few queries.
///
/// Panics unless there are keys and as many chances for each query.
pub fn draw(queries: &[f32], keys: &UnitRows, chances: &[f64]) -> Vec<u32> {
    let (dim, count) = (keys.dim(), keys.count());
    assert!(count > 0 && queries.len().is_multiple_of(dim), "keys, and queries in their space");
    let times = chances.len().checked_div(queries.len() / dim).unwrap_or_default();
    assert_eq!(chances.len(), times * (queries.len() / dim), "as many chances for each query");
    if times == 0 {
        return Vec::new();
    }
    let parts = queries.par_chunks(QUERIES * dim).zip(chances.par_chunks(QUERIES * times));
    let parts = parts.map(|(queries, chances)| {
        let all = queries.len() / dim;
        let mut logits = vec![0.0; all * count];
        let target = MatrixMut::new(&mut logits, all, count);
        let (queries, keys) =
            (Matrix::new(queries, all, dim), Matrix::new(keys.values(), count, dim));
        matmul(target, queries, keys.t(), 1.0, false, Threads::One);
        let mut up_to = vec![0.0; count]; // sums of the weights
        let mut found = Vec::with_capacity(chances.len());
        for (logits, chances) in logits.chunks_exact(count).zip(chances.chunks_exact(times)) {
            let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (up_to, logit) in up_to.iter_mut().zip(logits) {
                sum += f64::from(logit - greatest).exp();
                *up_to = sum;
            }
            let at = |chance: &f64| up_to.partition_point(|&up_to| up_to <= chance * sum) as u32;
            found.extend(chances.iter().map(at));
        }
        found
    });
    parts.flatten_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(angles: &[f32]) -> UnitRows {
        let rows = angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        UnitRows::normalize(rows, 2)
    }

    #[test]
    fn a_key_is_drawn_as_often_as_its_softmax_says() {
        let (queries, keys) = (rows(&[0.0, 2.0, 1.0, 4.0]), rows(&[0.1, 0.7, 1.5, 3.0, 0.2]));
        let times = 10_000;
        let chances: Vec<f64> =
            (0..4).flat_map(|_| (0..times).map(|at| at as f64 / times as f64)).collect();
        for scale in [0.0, 1.0, 100.0] {
            let queries: Vec<f32> = queries.values().iter().map(|value| scale * value).collect();
            let drawn = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.expect("threads").install(|| draw(&queries, &keys, &chances))
            };
            let found = drawn(1);
            assert_eq!(found, drawn(3));
            for (query, found) in queries.chunks(2).zip(found.chunks(times)) {
                let weight = |key: &[f32]| {
                    let logit = query.iter().zip(key).map(|(x, y)| f64::from(x * y)).sum::<f64>();
                    (logit - f64::from(scale)).exp()
                };
                let all: f64 = keys.rows().map(weight).sum();
                for (number, key) in keys.rows().enumerate() {
                    let count = found.iter().filter(|found| **found as usize == number).count();
                    let expected = weight(key) / all * times as f64;
                    assert!((count as f64 - expected).abs() <= 2.0, "{scale} {number} {count}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_drawn_for_nobody() {
        assert_eq!(draw(&[], &rows(&[1.0]), &[]), [0; 0]);
        assert_eq!(draw(&[1.0, 0.0], &rows(&[1.0]), &[]), [0; 0]);
        assert_eq!(draw(&[1.0, 0.0], &rows(&[1.0]), &[0.5, 0.99]), [0, 0]);
    }
}

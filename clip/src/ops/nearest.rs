//! The greatest of many dot products, without a table of them all.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::{
    borrow,
    cpu::{Matrix, MatrixMut, Threads, keep_greater, matmul},
    is_fused,
};

/// Keys whose products are in memory at one time: on the CPU for each thread, so that they and their
/// products stay in its cache.
const KEYS: usize = if cfg!(test) { 8 } else { 512 };
/// Keys at one time elsewhere, where starting an operation costs more.
const KEYS_ELSEWHERE: usize = if cfg!(test) { 8 } else { 8192 };
/// Queries at one time: as many as the matrix product takes up in one stride of AVX-512.
const QUERIES: usize = if cfg!(test) { 5 } else { 64 };

/// For each query the key with the greatest dot product: `[B, D]` and `[P, D]` -> B numbers below P.
///
/// A key is passed over if its group, one of P, is the query's, one of B. Of equal products the
/// first counts; 0 where no key is left. The answer is the same for any number of threads. No
/// gradient: a choice has none.
pub fn nearest(queries: &Tensor, keys: &Tensor, own: &[u32], groups: &[u32]) -> Result<Vec<u32>> {
    let ((count, dim), (all, width)) = (queries.dims2()?, keys.dims2()?);
    assert_eq!(dim, width, "queries and keys of one width");
    assert_eq!((own.len(), groups.len()), (count, all), "one group each");
    assert!(all > 0 && dim > 0, "something to choose from");
    let (queries, keys) = (queries.detach(), keys.detach());
    if !is_fused(&queries) || !is_fused(&keys) {
        return by_tensors(&queries, &keys, own, groups);
    }
    let (queries, keys) = (queries.contiguous()?, keys.contiguous()?);
    let (queries, keys) = (borrow("nearest", &queries)?, borrow("nearest", &keys)?);
    Ok(by_slices(&queries, &keys, own, groups))
}

/// The first of each block of at most `size` numbers below `all`. All blocks have one size, so that
/// equal keys get products that are equal to the last bit: the last may begin in the one before.
fn blocks(all: usize, size: usize) -> (usize, impl Fn(usize) -> usize) {
    let last = all - size.min(all);
    (all.div_ceil(size), move |block| (block * size).min(last))
}

fn by_slices(queries: &[f32], keys: &[f32], own: &[u32], groups: &[u32]) -> Vec<u32> {
    let (dim, size) = (keys.len() / groups.len(), KEYS.min(groups.len()));
    let (count, first) = blocks(groups.len(), KEYS);
    let panels = panels(queries, dim);
    let nothing = || (Greatest::new(own.len()), vec![0.0; size * QUERIES.min(own.len())]);
    let search = (0..count).into_par_iter().fold(nothing, |(mut greatest, mut products), block| {
        let first = first(block);
        let keys = Matrix::new(&keys[first * dim..][..size * dim], size, dim);
        let groups = &groups[first..][..size];
        for (at, (panel, own)) in panels.chunks(QUERIES * dim).zip(own.chunks(QUERIES)).enumerate()
        {
            let products = &mut products[..size * own.len()];
            let target = MatrixMut::new(&mut *products, size, own.len());
            let panel = Matrix::new(panel, dim, own.len());
            matmul(target, keys, panel, 1.0, false, Threads::One);
            let (values, kept) = greatest.part(at * QUERIES, own.len());
            keep_greater(products, first as u32, (groups, own), values, kept);
        }
        (greatest, products)
    });
    search.map(|(greatest, _)| greatest).reduce(|| Greatest::new(own.len()), Greatest::or).keys
}

/// The queries that are looked at together, each such `[Q, D]` turned to `[D, Q]`: else the matrix
/// product would turn them for each block of keys.
fn panels(queries: &[f32], dim: usize) -> Vec<f32> {
    let mut panels = Vec::with_capacity(queries.len());
    for queries in queries.chunks(QUERIES * dim) {
        for column in 0..dim {
            panels.extend(queries.chunks_exact(dim).map(|query| query[column]));
        }
    }
    panels
}

/// The greatest product of each query so far, and its key.
struct Greatest {
    values: Vec<f32>,
    keys: Vec<u32>,
}

impl Greatest {
    fn new(count: usize) -> Self {
        Self { values: vec![f32::NEG_INFINITY; count], keys: vec![0; count] }
    }

    fn part(&mut self, from: usize, count: usize) -> (&mut [f32], &mut [u32]) {
        (&mut self.values[from..][..count], &mut self.keys[from..][..count])
    }

    /// The greater of each, ours where they are equal: `later` saw later blocks.
    fn or(mut self, later: Self) -> Self {
        let ours = self.values.iter_mut().zip(&mut self.keys);
        for ((value, key), (later, at)) in ours.zip(later.values.into_iter().zip(later.keys)) {
            if later > *value {
                (*value, *key) = (later, at);
            }
        }
        self
    }
}

fn by_tensors(queries: &Tensor, keys: &Tensor, own: &[u32], groups: &[u32]) -> Result<Vec<u32>> {
    let (device, count) = (queries.device(), own.len());
    let own = Tensor::from_slice(own, (count, 1), device)?;
    let groups = Tensor::from_slice(groups, (1, groups.len()), device)?;
    let lowest = |shape| Tensor::full(f32::NEG_INFINITY, shape, device)?.to_dtype(queries.dtype());
    let mut greatest = (lowest((count, 1))?, own.zeros_like()?);
    let (number, first) = blocks(groups.elem_count(), KEYS_ELSEWHERE);
    for first in (0..number).map(first) {
        let size = KEYS_ELSEWHERE.min(groups.elem_count());
        let products = queries.matmul(&keys.narrow(0, first, size)?.t()?)?; // [B, K]
        let hidden = groups.narrow(1, first, size)?.broadcast_eq(&own)?;
        let products = hidden.where_cond(&lowest((count, size))?, &products)?;
        let value = products.max_keepdim(D::Minus1)?; // [B, 1]
        let at = Tensor::arange(first as u32, (first + size) as u32, device)?.unsqueeze(0)?;
        let beyond = Tensor::full(u32::MAX, (count, size), device)?;
        let key = products.broadcast_eq(&value)?;
        let key = key.where_cond(&at.broadcast_as((count, size))?.contiguous()?, &beyond)?;
        let key = key.min_keepdim(D::Minus1)?; // `argmax` does not say which of two it takes
        let is_greater = value.gt(&greatest.0)?;
        greatest = (
            is_greater.where_cond(&value, &greatest.0)?,
            is_greater.where_cond(&key, &greatest.1)?,
        );
    }
    greatest.1.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The plain loop.
    fn one_by_one(queries: &[f32], keys: &[f32], own: &[u32], groups: &[u32]) -> Vec<u32> {
        let dim = queries.len() / own.len();
        let each = queries.chunks_exact(dim).zip(own);
        let nearest = each.map(|(query, own)| {
            let mut best = (f32::NEG_INFINITY, 0);
            for (at, (key, group)) in keys.chunks_exact(dim).zip(groups).enumerate() {
                let product = query.iter().zip(key).map(|(a, b)| a * b).sum();
                if group != own && product > best.0 {
                    best = (product, at as u32);
                }
            }
            best.1
        });
        nearest.collect()
    }

    fn tensor(values: &[f32], rows: usize) -> Result<Tensor> {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu)
    }

    fn on(
        threads: usize,
        queries: &Tensor,
        keys: &Tensor,
        own: &[u32],
        groups: &[u32],
    ) -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| nearest(queries, keys, own, groups)).expect("candle can")
    }

    proptest! {
        /// Small whole numbers: products are exact, and many are equal.
        #[test]
        fn as_the_plain_loop(
            (dim, own, groups) in (1usize..5, vec(0u32..4, 1..13), vec(0u32..4, 1..40)),
            seed in any::<u32>(),
        ) {
            let numbers = |count: usize, step: u32| -> Vec<f32> {
                let mix = |at: usize| (at as u32 ^ seed).wrapping_mul(step) >> 28;
                (0..count).map(|at| (mix(at) % 5) as f32 - 2.0).collect()
            };
            let queries = numbers(own.len() * dim, 2_654_435_761);
            let keys = numbers(groups.len() * dim, 2_246_822_519);
            let expected = one_by_one(&queries, &keys, &own, &groups);
            let queries = tensor(&queries, own.len()).expect("whole rows");
            let keys = tensor(&keys, groups.len()).expect("whole rows");
            for threads in [1, 3] {
                prop_assert_eq!(&on(threads, &queries, &keys, &own, &groups), &expected);
            }
            let exact = |x: &Tensor| x.to_dtype(DType::F64).expect("candle can");
            let found = nearest(&exact(&queries), &exact(&keys), &own, &groups);
            prop_assert_eq!(&found.expect("candle can"), &expected);
        }
    }

    /// Values whose products are rounded: equal keys are equal wherever they lie.
    #[test]
    fn of_equal_keys_the_first() -> Result<()> {
        let dim = 37;
        let values: Vec<f32> = (0..11 * dim).map(|at| (at as f32 * 0.7).sin()).collect();
        for all in [1, 7, 8, 9, 15, 16, 17, 30] {
            for twin in 0..all {
                let mut keys: Vec<f32> = (0..all * dim).map(|at| (at as f32 * 1.3).sin()).collect();
                for (at, key) in keys.chunks_exact_mut(dim).enumerate() {
                    if at >= twin && at % 3 == twin % 3 {
                        key.iter_mut().zip(&values).for_each(|(key, value)| *key = 2.0 * value);
                    }
                }
                let (own, groups) = ([1; 11], vec![0; all]);
                let (queries, keys) = (tensor(&values, 11)?, tensor(&keys, all)?);
                for threads in [1, 2, 3] {
                    let found = on(threads, &queries, &keys, &own, &groups);
                    assert_eq!(found[0] as usize, twin, "{all} keys, {threads} threads");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn where_no_key_is_left_the_first_is_named() -> Result<()> {
        let rows = tensor(&[1.0, 2.0, 3.0, 4.0], 2)?;
        assert_eq!(nearest(&rows, &rows, &[7, 8], &[7, 7])?, [0, 1]);
        Ok(())
    }
}

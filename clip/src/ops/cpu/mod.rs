//! Loops on slices behind the operators; the only place of this crate where `unsafe` is allowed.

mod math;
mod matmul;

use rayon::prelude::*;

pub(super) use math::{erf, exp};
pub(super) use matmul::{Matrix, MatrixMut, Threads, matmul};

/// Runs `kernel`, a function that is always inlined, with the widest vectors that this processor
/// has; the results are those of any other.
#[inline(always)]
pub(super) fn vectorized<A, K: Kernel<A>>(kernel: K, arguments: A) {
    pulp::Arch::new().dispatch(Call(kernel, arguments));
}

/// A function that takes the tuple `A` as its arguments. (A closure in its place would be compiled
/// once, for the narrowest vectors, as nothing makes the compiler inline it.)
pub(super) trait Kernel<A> {
    fn run(self, arguments: A);
}

macro_rules! kernel {
    ($($argument:ident),*) => {
        impl<F: FnOnce($($argument),*), $($argument),*> Kernel<($($argument,)*)> for F {
            #[inline(always)]
            #[expect(non_snake_case, reason = "values are named as their types")]
            fn run(self, ($($argument,)*): ($($argument,)*)) {
                self($($argument),*);
            }
        }
    };
}

kernel!(A);
kernel!(A, B);
kernel!(A, B, C);
kernel!(A, B, C, D);
kernel!(A, B, C, D, E);

struct Call<K, A>(K, A);

impl<A, K: Kernel<A>> pulp::NullaryFnOnce for Call<K, A> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.run(self.1);
    }
}

/// Rows in one unit of parallel work: fixed, so that sums do not depend on the number of threads.
pub(super) const ROWS: usize = if cfg!(test) { 3 } else { 256 };
/// Values in one unit of parallel work that knows no rows.
pub(super) const CHUNK: usize = if cfg!(test) { 7 } else { 1 << 14 };

/// `y += x`
pub(super) fn add(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorized(add_some, (x, y));
    });
}

#[inline(always)]
fn add_some(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// `row += x` for every row of `x`
#[inline(always)]
pub(super) fn add_rows(x: &[f32], row: &mut [f32]) {
    for x in x.chunks_exact(row.len()) {
        row.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}

/// Sums over all rows, chunk by chunk: `find(first row, rows, sums)` adds what it finds in a chunk
/// to `count` sums.
pub(super) fn sums(
    x: &[f32],
    columns: usize,
    count: usize,
    find: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let parts = x.par_chunks(columns * ROWS).enumerate().map(|(chunk, x)| {
        let mut sums = vec![0.0; count];
        find(chunk * ROWS, x, &mut sums);
        sums
    });
    let mut total = vec![0.0; count];
    for part in parts.collect::<Vec<_>>() {
        total.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    total
}

/// Keeps the greatest product of each query and its key: `products` holds one row per key, `first`
/// is the number of the first, `groups` and `own` name groups of keys and of queries. A key of the
/// query's own group is passed over; of equal products the earlier one stays.
pub(super) fn keep_greater(
    products: &[f32],
    first: u32,
    (groups, own): (&[u32], &[u32]),
    values: &mut [f32],
    keys: &mut [u32],
) {
    assert_eq!(products.len(), groups.len() * own.len(), "one product of each pair");
    vectorized(keep_greater_of_some, (products, first, (groups, own), values, keys));
}

#[inline(always)]
fn keep_greater_of_some(
    products: &[f32],
    first: u32,
    (groups, own): (&[u32], &[u32]),
    values: &mut [f32],
    keys: &mut [u32],
) {
    for ((products, group), key) in products.chunks_exact(own.len()).zip(groups).zip(first..) {
        let kept = values.iter_mut().zip(keys.iter_mut());
        for ((product, own), (value, kept)) in products.iter().zip(own).zip(kept) {
            let is_greater = (own != group) & (*product > *value);
            *value = if is_greater { *product } else { *value };
            *kept = if is_greater { key } else { *kept };
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use pulp::x86::{Arch, V3, V4};

    use super::*;

    #[inline(always)]
    fn values(x: &[f32], y: &mut [f32], row: &mut [f32]) {
        for (x, y) in x.iter().zip(&mut *y) {
            let (erf, density) = erf(*x);
            *y = exp(*x) * erf + density;
        }
        add_some(x, y);
        add_rows(y, row);
    }

    fn bits(width: Arch, count: usize) -> Vec<u32> {
        let x: Vec<f32> = (0..3 * count).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let (mut y, mut row) = (vec![0.0; x.len()], vec![0.0; count]);
        width.dispatch(Call(values, (&*x, &mut *y, &mut *row)));
        let groups: Vec<u32> = (0..count as u32).map(|i| i % 3).collect();
        let (mut best, mut keys) = (vec![f32::NEG_INFINITY; count], vec![u32::MAX; count]);
        let of = (&[0u32, 1, 2][..], &*groups);
        width.dispatch(Call(keep_greater_of_some, (&*y, 5, of, &mut *best, &mut *keys)));
        let all = y.into_iter().chain(row).chain(best).map(f32::to_bits);
        all.chain(keys).collect()
    }

    /// What a processor without AVX-512, or without AVX2, computes.
    #[test]
    fn each_width_of_vectors_gives_the_same_bits() {
        let wide = [V3::try_new().map(Arch::V3), V4::try_new().map(Arch::V4)];
        for width in wide.into_iter().flatten() {
            for count in 1..=257 {
                let (found, expected) = (bits(width, count), bits(Arch::Scalar, count));
                assert_eq!(found, expected, "{width:?}, {count} values a row");
            }
        }
    }
}

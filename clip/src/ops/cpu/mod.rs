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

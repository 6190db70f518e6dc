//! Matrix products on slices, by the kernels that candle uses, into memory that is reused.
#![expect(unsafe_code, reason = "the kernels take pointers; every bound is asserted before")]

use gemm::Parallelism;

/// A view of row-major values.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values, one after the other.
    pub(in super::super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "a full matrix");
        Self::within(values, rows, columns, columns)
    }

    /// `rows` rows of `columns` values that begin `stride` values apart.
    pub(in super::super) fn within(
        values: &'a [f32],
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Self {
        check(values.len(), rows, columns, stride);
        Self { values, rows, columns, stride, transposed: false }
    }

    /// The transposed view.
    pub(in super::super) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns of the view.
    fn size(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// From one row of the view to the next, and from one column to the next.
    fn strides(&self) -> (isize, isize) {
        let stride = self.stride as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

/// Where a product goes.
#[derive(Debug)]
pub(in super::super) struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// `rows` rows of `columns` values, one after the other.
    pub(in super::super) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns), "a full matrix");
        Self::within(values, rows, columns, columns)
    }

    /// `rows` rows of `columns` values that begin `stride` values apart.
    pub(in super::super) fn within(
        values: &'a mut [f32],
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Self {
        check(values.len(), rows, columns, stride);
        Self { values, rows, columns, stride }
    }
}

fn check(length: usize, rows: usize, columns: usize, stride: usize) {
    assert!(columns <= stride, "rows that do not overlap");
    let fits = rows == 0 || columns <= length && (rows - 1) <= (length - columns) / stride.max(1);
    assert!(fits, "all rows inside");
}

/// Whether a product may use all threads of the pool, or is one of many that run at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Threads {
    /// All of the pool
    All,
    /// The one that calls
    One,
}

/// `c = factor a b`, or `c += factor a b`.
pub(in super::super) fn matmul(
    c: MatrixMut<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    add: bool,
    threads: Threads,
) {
    let ((m, k), (inner, n)) = (a.size(), b.size());
    assert_eq!(k, inner, "as many columns of a as rows of b");
    assert_eq!((c.rows, c.columns), (m, n), "room for the product");
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    let count = if threads == Threads::All { rayon::current_num_threads() } else { 1 };
    let parallelism = if count > 1 { Parallelism::Rayon(count) } else { Parallelism::None };
    // SAFETY: the constructors and the assertions above hold every index (i, j) below the sizes
    // inside its slice at `i * row + j * column`; `c` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.values.as_mut_ptr(),
            1,
            c.stride as isize,
            add,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The safe twin.
    fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
        let ((m, k), (_, n)) = (a.size(), b.size());
        let at = |matrix: &Matrix<'_>, row: usize, column: usize| {
            let (down, along) = matrix.strides();
            matrix.values[row * down as usize + column * along as usize]
        };
        let cell = |(i, j)| (0..k).map(|p| at(&a, i, p) * at(&b, p, j)).sum();
        (0..m * n).map(|index| cell((index / n, index % n))).collect()
    }

    proptest! {
        #[test]
        fn as_the_safe_twin(
            (m, k, n) in (1usize..40, 1usize..40, 1usize..40),
            (flip_a, flip_b, add) in any::<(bool, bool, bool)>(),
        ) {
            let numbers = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin()).collect()
            };
            let (left, right) = (numbers(m * k, 0.7), numbers(k * n, 1.3));
            let a = if flip_a { Matrix::new(&left, k, m).t() } else { Matrix::new(&left, m, k) };
            let b = if flip_b { Matrix::new(&right, n, k).t() } else { Matrix::new(&right, k, n) };
            let mut c = vec![2.0; m * n];
            matmul(MatrixMut::new(&mut c, m, n), a, b, 0.5, add, Threads::All);
            for (fast, exact) in c.iter().zip(product(a, b)) {
                let exact = exact * 0.5 + if add { 2.0 } else { 0.0 };
                prop_assert!((fast - exact).abs() < 1e-4, "{fast} vs {exact}");
            }
        }
    }

    /// Some columns of wider arrays, and more work than one thread takes.
    #[test]
    fn windows_and_threads() {
        let (m, k, n, wide) = (96, 300, 80, 331);
        let values = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
        let (left, right) = (values(m * wide), values(k * wide));
        let (a, b) = (&left[7..], &right[11..]);
        let (a, b) = (Matrix::within(a, m, k, wide), Matrix::within(b, k, n, wide));
        let exact = product(a, b);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        for threads in [Threads::One, Threads::All] {
            let mut c = vec![2.0; m * wide];
            let target = MatrixMut::within(&mut c[5..], m, n, wide);
            pool.install(|| matmul(target, a, b, 1.0, false, threads));
            for (row, exact) in exact.chunks(n).enumerate() {
                let (before, after) = c[row * wide..][..wide].split_at(5);
                assert!(before.iter().chain(&after[n..]).all(|value| *value == 2.0));
                let near = |(fast, exact): (&f32, &f32)| (fast - exact).abs() < 1e-3;
                assert!(after.iter().zip(exact).all(near));
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let refused = |rows, columns, stride| {
            std::panic::catch_unwind(|| Matrix::within(&[0.0; 6], rows, columns, stride)).is_err()
        };
        assert!(!refused(2, 3, 3) && !refused(2, 2, 4) && !refused(0, 9, 9));
        assert!(refused(2, 3, 4) && refused(3, 2, 1) && refused(1 << 63, 2, 2));
    }
}

//! Matrix products on slices, by the kernels that candle uses, into memory that is reused.
#![expect(unsafe_code, reason = "the kernels take pointers; every bound is asserted before")]

use gemm::Parallelism;

/// A view of row-major values.
#[derive(Clone, Copy)]
pub(in super::super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values.
    pub(in super::super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a full matrix");
        Self { values, rows, columns, transposed: false }
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
        let stride = self.columns as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

/// `c = a b`, or `c += a b`; c is row-major.
pub(in super::super) fn matmul(c: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    let ((m, k), (inner, n)) = (a.size(), b.size());
    assert_eq!(k, inner, "as many columns of a as rows of b");
    assert_eq!(c.len(), m * n, "room for the product");
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: `Matrix::new` and the assertions above hold every index (i, j) below the sizes
    // inside its slice at `i * row + j * column`; `c` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            1.0,
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
            matmul(&mut c, a, b, add);
            for (fast, exact) in c.iter().zip(product(a, b)) {
                let exact = if add { exact + 2.0 } else { exact };
                prop_assert!((fast - exact).abs() < 1e-4, "{fast} vs {exact}");
            }
        }
    }
}

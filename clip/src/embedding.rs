//! Rows of unit length.

/// `[B, D]` rows of Euclidean length 1, row-major f32.
///
/// A zero or non-finite row cannot be normalised; it becomes all zeros, whose cosine with
/// everything is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitRows {
    values: Vec<f32>,
    dim: usize,
}

impl UnitRows {
    /// Divides each row by its length. Panics unless `dim` divides the number of values.
    pub fn normalize(mut values: Vec<f32>, dim: usize) -> Self {
        assert!(dim > 0 && values.len().is_multiple_of(dim), "rows of {dim} values");
        for row in values.chunks_exact_mut(dim) {
            let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            if length.is_finite() && length > 0.0 {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            } else {
                row.fill(0.0);
            }
        }
        Self { values, dim }
    }

    /// Columns (D).
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows (B).
    pub fn count(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Row `index`, `[D]`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..][..self.dim]
    }

    /// Row after row, each `[D]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Appends the rows of `other`. Panics if the widths differ.
    pub fn extend(&mut self, other: &Self) {
        assert_eq!(self.dim, other.dim, "rows of one space");
        self.values.extend_from_slice(&other.values);
    }

    /// The rows of these numbers, in their order.
    pub fn select(&self, numbers: &[usize]) -> Self {
        let values = numbers.iter().flat_map(|&number| self.row(number)).copied().collect();
        Self { values, dim: self.dim }
    }

    /// Mean of all rows, normalised again: a prompt ensemble's `[1, D]` (CLIP, section 3.1.4).
    pub fn ensemble(&self) -> Self {
        let mut mean = vec![0.0; self.dim];
        for row in self.rows() {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        Self::normalize(mean, self.dim)
    }
}

/// Cosine of two unit rows of one width.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len(), "rows of one space");
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_has_no_direction_becomes_zero() {
        let rows = UnitRows::normalize(vec![3.0, 4.0, 0.0, 0.0, f32::NAN, 1.0], 2);
        assert_eq!(rows.values(), [0.6, 0.8, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(cosine(rows.row(0), rows.row(1)), 0.0);
    }

    #[test]
    fn selected_rows_are_the_same_to_the_bit() {
        let rows = UnitRows::normalize(vec![3.0, 4.0, 0.3, 0.7, 1.0, 0.0], 2);
        let selected = rows.select(&[2, 1, 1]);
        assert_eq!(selected.values(), [rows.row(2), rows.row(1), rows.row(1)].concat());
        assert_eq!(rows.select(&[]).count(), 0);
    }

    #[test]
    fn an_ensemble_is_the_unit_mean() {
        let rows = UnitRows::normalize(vec![1.0, 0.0, 0.0, 1.0], 2);
        let half = 0.5f32.sqrt();
        assert_eq!(rows.ensemble().values(), [half, half]);
    }
}

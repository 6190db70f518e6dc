//! Image embeddings with the length that they had before it became 1, as a linear probe wants them.

use candle_core::Tensor;

use super::{Clip, EVALUATION_ROWS, Mode};
use crate::{
    Result, UnitRows,
    image::PixelBatch,
    ops::{Graph, Tape, is_fused},
};

/// What an image tower projects pictures to: row i is `lengths[i]` times the unit row i.
#[derive(Debug, Clone, PartialEq)]
pub struct Projections {
    /// `[B, D]`, what [`Encoder::embed_images`](crate::Encoder::embed_images) gives.
    pub rows: UnitRows,
    /// `[B]`, Euclidean.
    pub lengths: Vec<f32>,
}

impl Projections {
    /// No row of width `dim`.
    pub fn none(dim: usize) -> Self {
        Self { rows: UnitRows::normalize(Vec::new(), dim), lengths: Vec::new() }
    }

    /// Appends the rows of `other`. Panics if the widths differ.
    pub fn extend(&mut self, other: &Self) {
        self.rows.extend(&other.rows);
        self.lengths.extend_from_slice(&other.lengths);
    }

    /// `[D]`, row `index` at its length.
    pub fn row(&self, index: usize) -> impl Iterator<Item = f32> {
        self.rows.row(index).iter().map(move |value| value * self.lengths[index])
    }
}

impl Clip {
    /// `[B, 3, H, W]` preprocessed pixels -> `[B, D]` unit rows and their lengths before.
    ///
    /// For f32 on the CPU; panics elsewhere.
    pub fn project_images(&self, pixels: &PixelBatch) -> Result<Projections> {
        #[cfg(any(test, feature = "cuda"))]
        assert!(self.gpu.is_none(), "towers on a GPU give unit rows only");
        let (side, dim) = (pixels.side(), self.config.dim);
        let (mut rows, mut lengths) = (Vec::new(), Vec::new());
        for values in pixels.values().chunks(EVALUATION_ROWS * 3 * side * side) {
            let shape = (values.len() / (3 * side * side), 3, side, side);
            let pixels = Tensor::from_slice(values, shape, &self.device)?;
            assert!(is_fused(&pixels), "towers on the CPU");
            let tape = Tape::forgetful(std::sync::Arc::default());
            let projected = self.image.projections(&tape, &pixels, Mode::Evaluate)?;
            lengths.extend(projected.values().chunks_exact(dim).map(length));
            rows.extend_from_slice(tape.normalize(&projected)?.values());
        }
        Ok(Projections { rows: UnitRows::normalize(rows, dim), lengths })
    }
}

fn length(row: &[f32]) -> f32 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt() as f32
}

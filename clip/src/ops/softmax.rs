//! Softmax with a backward pass, for attention.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, borrow, is_fused, values};

/// `softmax(scale * x)` over the last axis: `[.., Q, K]` -> `[.., Q, K]`.
///
/// `causal`: query q sees keys 0..=q only; Q = K then.
pub fn softmax(x: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op1(Softmax { scale: scale as f32, causal });
    }
    let mut x = (x * scale)?;
    if causal {
        let keys = x.dim(D::Minus1)?;
        let seen = Tensor::tril2(keys, DType::U8, x.device())?.broadcast_as(x.shape())?;
        let hidden = x.ones_like()?.affine(0.0, f64::from(f32::MIN))?;
        x = seen.where_cond(&x, &hidden)?;
    }
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    x.broadcast_div(&x.sum_keepdim(D::Minus1)?)
}

struct Softmax {
    scale: f32,
    causal: bool,
}

impl Softmax {
    /// Keys that query `row` (counted over the whole tensor) sees.
    fn seen(&self, row: usize, queries: usize, keys: usize) -> usize {
        if self.causal { row % queries + 1 } else { keys }
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, layout)?;
        let (queries, keys) = (layout.dim(D::Minus2)?, layout.dim(D::Minus1)?);
        let mut y = vec![0.0; x.len()];
        let chunks = y.par_chunks_mut(keys * ROWS).zip(x.par_chunks(keys * ROWS));
        chunks.enumerate().for_each(|(chunk, (y, x))| {
            for (row, (y, x)) in y.chunks_exact_mut(keys).zip(x.chunks_exact(keys)).enumerate() {
                let seen = self.seen(chunk * ROWS + row, queries, keys);
                let (y, x) = (&mut y[..seen], &x[..seen]);
                let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
                let mut sum = 0.0;
                for (y, x) in y.iter_mut().zip(x) {
                    *y = ((x - max) * self.scale).exp();
                    sum += *y;
                }
                y.iter_mut().for_each(|y| *y /= sum);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    // dx = scale * y (dy - sum(y dy))
    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (ys, dys) = (borrow(self.name(), y)?, borrow(self.name(), &dy)?);
        let keys = x.dim(D::Minus1)?;
        let mut dx = vec![0.0; ys.len()];
        let chunks = ys.par_chunks(keys * ROWS).zip(dys.par_chunks(keys * ROWS));
        dx.par_chunks_mut(keys * ROWS).zip(chunks).for_each(|(dx, (y, dy))| {
            let rows = y.chunks_exact(keys).zip(dy.chunks_exact(keys));
            for (dx, (y, dy)) in dx.chunks_exact_mut(keys).zip(rows) {
                let dot: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = self.scale * y * (dy - dot);
                }
            }
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::assert_gradients;
    use super::*;

    #[test]
    fn gradients() -> Result<()> {
        for causal in [false, true] {
            assert_gradients(&[&[2, 4, 4]], |x| softmax(&x[0], 0.7, causal))?;
        }
        assert_gradients(&[&[2, 1, 4]], |x| softmax(&x[0], 0.7, false))
    }
}

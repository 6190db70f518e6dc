//! Layer normalisation (Ba et al. 2016).

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, add_up, borrow, is_fused, values};

/// Added to the variance, as in every CLIP.
const EPSILON: f64 = 1e-5;

/// `(x - mean) / sqrt(var + 1e-5) * weight + bias` over the last axis: `[.., C]`, `[C]`, `[C]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op3(weight, bias, LayerNorm);
    }
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    let x = x.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    x.broadcast_mul(weight)?.broadcast_add(bias)
}

struct LayerNorm;

/// Mean and 1 / standard deviation of a row.
fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    (mean, 1.0 / (variance + EPSILON as f32).sqrt())
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, x_layout)?;
        let weight = values(self.name(), weight, weight_layout)?;
        let bias = values(self.name(), bias, bias_layout)?;
        let columns = weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(columns * ROWS).zip(x.par_chunks(columns * ROWS)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                let (mean, scale) = moments(x);
                for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * scale * w + b;
                }
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    // With n = (x - mean) / std and g = dy * weight: dx = (g - mean(g) - n mean(g n)) / std.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, dys) = (borrow(self.name(), x)?, borrow(self.name(), &dy)?);
        let weights = borrow(self.name(), weight)?;
        let columns = weights.len();
        let mut dx = vec![0.0; xs.len()];
        let chunks = xs.par_chunks(columns * ROWS).zip(dys.par_chunks(columns * ROWS));
        let rows = dx.par_chunks_mut(columns * ROWS).zip(chunks).map(|(dx, (x, dy))| {
            let mut sums = vec![0.0; 2 * columns]; // d weight, then d bias
            let (dw, db) = sums.split_at_mut(columns);
            let rows = x.chunks_exact(columns).zip(dy.chunks_exact(columns));
            for (dx, (x, dy)) in dx.chunks_exact_mut(columns).zip(rows) {
                let (mean, scale) = moments(x);
                let (mut mean_g, mut mean_gn) = (0.0, 0.0);
                for i in 0..columns {
                    let (n, g) = ((x[i] - mean) * scale, dy[i] * weights[i]);
                    mean_g += g;
                    mean_gn += g * n;
                    dw[i] += dy[i] * n;
                    db[i] += dy[i];
                }
                mean_g /= columns as f32;
                mean_gn /= columns as f32;
                for i in 0..columns {
                    let (n, g) = ((x[i] - mean) * scale, dy[i] * weights[i]);
                    dx[i] = (g - mean_g - n * mean_gn) * scale;
                }
            }
            sums
        });
        let mut dw = add_up(rows.collect(), 2 * columns);
        let db = dw.split_off(columns);
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, weight.shape(), x.device())?),
            Some(Tensor::from_vec(db, bias.shape(), x.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::assert_gradients;
    use super::*;

    #[test]
    fn gradients() -> Result<()> {
        assert_gradients(&[&[2, 3, 5], &[5], &[5]], |x| layer_norm(&x[0], &x[1], &x[2]))
    }
}

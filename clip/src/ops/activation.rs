//! Activations of the MLP.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{borrow, is_fused, values};

/// Slope of OpenAI's approximation.
const SLOPE: f32 = 1.702;
/// Elements in one unit of parallel work.
const CHUNK: usize = 1 << 14;

/// `x * sigmoid(1.702 x)`, the activation of OpenAI's weights; same shape out.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op1(QuickGelu);
    }
    // sigmoid(a) = (1 + tanh(a / 2)) / 2; with exp(-a) the gradient would be NaN far below 0.
    (x * ((x * f64::from(SLOPE / 2.0))?.tanh()? + 1.0)?)? * 0.5
}

/// `x * Phi(x)` with the exact normal distribution; same shape out.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

struct QuickGelu;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick_gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * sigmoid(SLOPE * x));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    // dy/dx = s (1 + 1.702 x (1 - s)), s = sigmoid(1.702 x)
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xs, dys) = (borrow(self.name(), x)?, borrow(self.name(), &dy)?);
        let mut dx = vec![0.0; xs.len()];
        let chunks = xs.par_chunks(CHUNK).zip(dys.par_chunks(CHUNK));
        dx.par_chunks_mut(CHUNK).zip(chunks).for_each(|(dx, (x, dy))| {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                let s = sigmoid(SLOPE * x);
                *dx = dy * s * (1.0 + SLOPE * x * (1.0 - s));
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
    fn gradients_of_both() -> Result<()> {
        assert_gradients(&[&[3, 5]], |x| quick_gelu(&x[0]))?;
        assert_gradients(&[&[3, 5]], |x| gelu(&x[0]))
    }
}

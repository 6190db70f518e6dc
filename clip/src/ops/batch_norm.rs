//! Batch normalisation (Ioffe & Szegedy 2015) over `[.., C]`, with the ReLU that follows it.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, add_up, borrow, cpu::vectorized, is_fused, values};

/// Added to the variance, as in every CLIP.
const EPSILON: f64 = 1e-5;

/// Mean and (biased) variance of each channel, both `[C]`.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// `[C]`
    pub mean: Tensor,
    /// `[C]`, divided by the number of rows.
    pub variance: Tensor,
}

/// `relu?((x - mean) / sqrt(var + 1e-5) * weight + bias)`: `[.., C]`, `[C]`, `[C]`.
///
/// With `fixed` statistics they are constants (evaluation). Without, they are those of this batch,
/// take part in the gradient, and are returned for the running average.
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    fixed: Option<&BatchStatistics>,
    relu: bool,
) -> Result<(Tensor, BatchStatistics)> {
    if is_fused(x) {
        let op = BatchNorm { fixed: fixed.map(host).transpose()?, relu, seen: Arc::default() };
        let seen = op.seen.clone();
        let y = x.contiguous()?.apply_op3(weight, bias, op)?;
        let (mean, variance) = seen.lock().expect("no thread panics with it").clone();
        let tensor = |values| Tensor::from_vec(values, weight.shape(), x.device());
        return Ok((y, BatchStatistics { mean: tensor(mean)?, variance: tensor(variance)? }));
    }
    let rows = x.reshape(((), x.dim(D::Minus1)?))?;
    let statistics = match fixed {
        Some(statistics) => statistics.clone(),
        None => {
            let mean = rows.mean(0)?;
            let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
            BatchStatistics { mean, variance }
        }
    };
    let scale = (&statistics.variance + EPSILON)?.sqrt()?.recip()?;
    let n = rows.broadcast_sub(&statistics.mean)?.broadcast_mul(&scale)?;
    let y = n.broadcast_mul(weight)?.broadcast_add(bias)?.reshape(x.shape())?;
    let y = if relu { y.relu()? } else { y };
    let BatchStatistics { mean, variance } = statistics;
    Ok((y, BatchStatistics { mean: mean.detach(), variance: variance.detach() }))
}

type Moments = (Vec<f32>, Vec<f32>);

fn host(statistics: &BatchStatistics) -> Result<Moments> {
    Ok((statistics.mean.to_vec1()?, statistics.variance.to_vec1()?))
}

struct BatchNorm {
    fixed: Option<Moments>,
    relu: bool,
    /// Statistics that the forward pass used.
    seen: Arc<Mutex<Moments>>,
}

/// Two passes: the variance about the mean, so that nothing cancels.
fn moments(x: &[f32], columns: usize) -> Moments {
    let rows = (x.len() / columns) as f32;
    let mut mean = sums(x, columns, add_rows);
    mean.iter_mut().for_each(|sum| *sum /= rows);
    let mut variance = sums(x, columns, |x, sums| add_squares(x, &mean, sums));
    variance.iter_mut().for_each(|sum| *sum /= rows);
    (mean, variance)
}

/// Sums over all rows, chunk by chunk, of what `add` finds in a chunk.
fn sums(x: &[f32], columns: usize, add: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let chunks = x.par_chunks(columns * ROWS).map(|x| {
        let mut sums = vec![0.0; columns];
        vectorized(|| add(x, &mut sums));
        sums
    });
    add_up(chunks.collect(), columns)
}

#[inline(always)]
fn add_rows(x: &[f32], sums: &mut [f32]) {
    for row in x.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

#[inline(always)]
fn add_squares(x: &[f32], mean: &[f32], sums: &mut [f32]) {
    for row in x.chunks_exact(sums.len()) {
        for ((sum, x), mean) in sums.iter_mut().zip(row).zip(mean) {
            *sum += (x - mean) * (x - mean);
        }
    }
}

/// `y = max(x a + c, floor)`
#[inline(always)]
fn affine(x: &[f32], a: &[f32], c: &[f32], floor: f32, y: &mut [f32]) {
    for (y, x) in y.chunks_exact_mut(a.len()).zip(x.chunks_exact(a.len())) {
        for (((y, x), a), c) in y.iter_mut().zip(x).zip(a).zip(c) {
            *y = (x * a + c).max(floor);
        }
    }
}

/// Input, output and its gradient in some rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    relu: bool,
}

impl Rows<'_> {
    /// Adds to the gradients of weight and bias.
    #[inline(always)]
    fn add_gradients(&self, (mean, scale): (&[f32], &[f32]), dw: &mut [f32], db: &mut [f32]) {
        let columns = mean.len();
        let (scale, dw, db) = (&scale[..columns], &mut dw[..columns], &mut db[..columns]);
        for at in (0..self.x.len()).step_by(columns) {
            let [x, y, dy] = [self.x, self.y, self.dy].map(|values| &values[at..][..columns]);
            for i in 0..columns {
                let g = self.passed(y[i], dy[i]);
                dw[i] += g * (x[i] - mean[i]) * scale[i];
                db[i] += g;
            }
        }
    }

    /// `dx = p g + q x + r`, per channel
    #[inline(always)]
    fn dx(&self, p: &[f32], q: &[f32], r: &[f32], dx: &mut [f32]) {
        let columns = p.len();
        let (q, r) = (&q[..columns], &r[..columns]);
        for at in (0..self.x.len()).step_by(columns) {
            let [x, y, dy] = [self.x, self.y, self.dy].map(|values| &values[at..][..columns]);
            let dx = &mut dx[at..][..columns];
            for i in 0..columns {
                dx[i] = p[i] * self.passed(y[i], dy[i]) + q[i] * x[i] + r[i];
            }
        }
    }

    /// Gradient before the ReLU: where it cut, y is 0 and so is the gradient.
    #[inline(always)]
    fn passed(&self, y: f32, dy: f32) -> f32 {
        if !self.relu || y > 0.0 { dy } else { 0.0 }
    }
}

fn scales(variance: &[f32]) -> Vec<f32> {
    variance.iter().map(|v| 1.0 / (v + EPSILON as f32).sqrt()).collect()
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
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
        let (mean, variance) = match &self.fixed {
            Some(moments) => moments.clone(),
            None => moments(x, columns),
        };
        // y = x a + c
        let a: Vec<f32> = scales(&variance).iter().zip(weight).map(|(s, w)| s * w).collect();
        let c: Vec<f32> = bias.iter().zip(&mean).zip(&a).map(|((b, m), a)| b - m * a).collect();
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(columns * ROWS).zip(x.par_chunks(columns * ROWS)).for_each(|(y, x)| {
            vectorized(|| affine(x, &a, &c, floor, y));
        });
        *self.seen.lock().expect("no thread panics with it") = (mean, variance);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    // With n = (x - mean) s, g = dy where the ReLU let through, w the weight:
    // fixed statistics: dx = g w s; those of the batch: dx = w s (g - mean(g) - n mean(g n)).
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, ys) = (borrow(self.name(), x)?, borrow(self.name(), y)?);
        let (dys, weights) = (borrow(self.name(), &dy)?, borrow(self.name(), weight)?);
        let columns = weights.len();
        let (mean, variance) = self.seen.lock().expect("no thread panics with it").clone();
        let scale = scales(&variance);
        let chunk = columns * ROWS;
        let part = |at: usize| {
            let end = (at * chunk + chunk).min(xs.len());
            let [x, y, dy] = [&*xs, &*ys, &*dys].map(|values| &values[at * chunk..end]);
            Rows { x, y, dy, relu: self.relu }
        };
        // A frozen tower's weights are constants, and with fixed statistics nothing else asks.
        let (mut dw, mut db) = (vec![0.0; columns], vec![0.0; columns]);
        if weight.track_op() || self.fixed.is_none() {
            let parts = (0..xs.len().div_ceil(chunk)).into_par_iter().map(|at| {
                let (mut dw, mut db) = (vec![0.0; columns], vec![0.0; columns]);
                vectorized(|| part(at).add_gradients((&mean, &scale), &mut dw, &mut db));
                (dw, db)
            });
            let (dws, dbs) = parts.unzip();
            (dw, db) = (add_up(dws, columns), add_up(dbs, columns));
        }
        let rows = if self.fixed.is_some() { f32::INFINITY } else { (xs.len() / columns) as f32 };
        let p: Vec<f32> = (0..columns).map(|i| weights[i] * scale[i]).collect();
        let q: Vec<f32> = (0..columns).map(|i| -p[i] * scale[i] * dw[i] / rows).collect();
        let r: Vec<f32> = (0..columns).map(|i| -p[i] * db[i] / rows - q[i] * mean[i]).collect();
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(chunk).enumerate().for_each(|(at, dx)| {
            vectorized(|| part(at).dx(&p, &q, &r, dx));
        });
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, weight.shape(), x.device())?),
            Some(Tensor::from_vec(db, bias.shape(), x.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::proof::{assert_gradients, numbers};
    use super::*;

    #[test]
    fn gradients_with_the_statistics_of_the_batch() -> Result<()> {
        for relu in [false, true] {
            assert_gradients(&[&[7, 2, 3], &[3], &[3]], |x| {
                Ok(batch_norm(&x[0], &x[1], &x[2], None, relu)?.0)
            })?;
        }
        Ok(())
    }

    #[test]
    fn gradients_with_fixed_statistics() -> Result<()> {
        assert_gradients(&[&[7, 3], &[3], &[3]], |x| {
            let tensor = |seed| {
                let values: Vec<f64> = numbers(3, seed).iter().map(|v| v.abs() + 0.1).collect();
                Tensor::new(values, &Device::Cpu)?.to_dtype(x[0].dtype())
            };
            let fixed = BatchStatistics { mean: tensor(7)?, variance: tensor(8)? };
            Ok(batch_norm(&x[0], &x[1], &x[2], Some(&fixed), true)?.0)
        })
    }

    #[test]
    fn statistics_are_those_of_the_batch() -> Result<()> {
        let x = Tensor::new(&[[1f32, 10.0], [3.0, 30.0]], &Device::Cpu)?;
        let (one, zero) = (Tensor::ones(2, DType::F32, &Device::Cpu)?, x.get(0)?.zeros_like()?);
        let (_, seen) = batch_norm(&x, &one, &zero, None, false)?;
        assert_eq!(seen.mean.to_vec1::<f32>()?, [2.0, 20.0]);
        assert_eq!(seen.variance.to_vec1::<f32>()?, [1.0, 100.0]);
        Ok(())
    }
}

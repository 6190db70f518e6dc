//! Batch normalisation (Ioffe & Szegedy 2015) over `[.., C]`, with the ReLU that follows it.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, add_up, borrow, is_fused, values};

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

/// Sums over all rows, chunk by chunk: `add(row, sums)`.
fn sums(
    x: &[f32],
    columns: usize,
    count: usize,
    add: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let chunks = x.par_chunks(columns * ROWS).enumerate().map(|(chunk, rows)| {
        let mut sums = vec![0.0; count];
        for (row, values) in rows.chunks_exact(columns).enumerate() {
            add(chunk * ROWS + row, values, &mut sums);
        }
        sums
    });
    add_up(chunks.collect(), count)
}

/// Two passes: the variance about the mean, so that nothing cancels.
fn moments(x: &[f32], columns: usize) -> Moments {
    let rows = (x.len() / columns) as f32;
    let mut mean = sums(x, columns, columns, |_, row, sums| {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    });
    mean.iter_mut().for_each(|sum| *sum /= rows);
    let mut variance = sums(x, columns, columns, |_, row, sums| {
        for ((sum, x), mean) in sums.iter_mut().zip(row).zip(&mean) {
            *sum += (x - mean) * (x - mean);
        }
    });
    variance.iter_mut().for_each(|sum| *sum /= rows);
    (mean, variance)
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
            for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                for (((y, x), a), c) in y.iter_mut().zip(x).zip(&a).zip(&c) {
                    *y = (x * a + c).max(floor);
                }
            }
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
        // Where the ReLU cut, y is 0 and so is the gradient.
        let passes = |y: f32| if self.relu { f32::from(u8::from(y > 0.0)) } else { 1.0 };
        let mut dw = sums(&xs, columns, 2 * columns, |row, x, sums| {
            let (dw, db) = sums.split_at_mut(columns);
            let (dy, y) = (&dys[row * columns..][..columns], &ys[row * columns..][..columns]);
            for i in 0..columns {
                let g = dy[i] * passes(y[i]);
                dw[i] += g * (x[i] - mean[i]) * scale[i];
                db[i] += g;
            }
        });
        let db = dw.split_off(columns);
        let rows = if self.fixed.is_some() { f32::INFINITY } else { (xs.len() / columns) as f32 };
        // dx = p g + q x + r, per channel
        let p: Vec<f32> = (0..columns).map(|i| weights[i] * scale[i]).collect();
        let q: Vec<f32> = (0..columns).map(|i| -p[i] * scale[i] * dw[i] / rows).collect();
        let r: Vec<f32> = (0..columns).map(|i| -p[i] * db[i] / rows - q[i] * mean[i]).collect();
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(columns * ROWS).enumerate().for_each(|(chunk, dx)| {
            let start = chunk * columns * ROWS;
            for (row, dx) in dx.chunks_exact_mut(columns).enumerate() {
                let at = start + row * columns;
                let (x, y) = (&xs[at..][..columns], &ys[at..][..columns]);
                let dy = &dys[at..][..columns];
                for i in 0..columns {
                    dx[i] = p[i] * dy[i] * passes(y[i]) + q[i] * x[i] + r[i];
                }
            }
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

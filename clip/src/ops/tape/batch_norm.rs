//! Batch normalisation and the ReLU after it, as passes over rows of channels.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Flow;
use crate::ops::{
    borrow,
    cpu::{ROWS, add_rows, sums, vectorized},
    graph::EPSILON,
    peers::Peers,
};

/// Mean and variance of each channel, in two passes: the variance about the mean, so that nothing
/// cancels. With `peers` they are those of the rows of all ranks, as many on each.
pub(super) fn moments(
    x: &[f32],
    columns: usize,
    peers: Option<&dyn Peers>,
) -> (Vec<f32>, Vec<f32>) {
    let rows = (x.len() / columns * peers.map_or(1, |peers| peers.ranks())) as f32;
    let over_all = |sums: &mut [f32]| {
        if let Some(peers) = peers {
            peers.sum(sums);
        }
    };
    let mut mean = sums(x, columns, columns, |_, x, sums| vectorized(add_rows, (x, sums)));
    over_all(&mut mean);
    mean.iter_mut().for_each(|sum| *sum /= rows);
    let mut variance = sums(x, columns, columns, |_, x, sums| {
        vectorized(add_squares, (x, &*mean, sums));
    });
    over_all(&mut variance);
    variance.iter_mut().for_each(|sum| *sum /= rows);
    (mean, variance)
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

/// A batch normalisation as `x factor + shift`, each per channel.
pub(super) struct Norm {
    pub(super) mean: Vec<f32>,
    /// 1 / standard deviation
    scale: Vec<f32>,
    factor: Vec<f32>,
    shift: Vec<f32>,
    relu: bool,
}

impl Norm {
    pub(super) fn new(
        mean: Vec<f32>,
        variance: &[f32],
        weight: &Tensor,
        bias: &Tensor,
        relu: bool,
    ) -> Result<Self> {
        let (w, b) = (borrow("batch_norm", weight)?, borrow("batch_norm", bias)?);
        let scale = variance.iter().map(|v| 1.0 / (v + EPSILON as f32).sqrt()).collect::<Vec<_>>();
        let factor = scale.iter().zip(&*w).map(|(s, w)| s * w).collect::<Vec<_>>();
        let shift = b.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        Ok(Self { mean, scale, factor, shift, relu })
    }

    /// `y = relu?(x factor + shift)`
    pub(super) fn forward(&self, x: &[f32], y: &mut [f32]) {
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let chunk = self.mean.len() * ROWS;
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            vectorized(affine, (x, &*self.factor, &*self.shift, floor, y));
        });
    }

    /// From the gradient of the output to that of `x`, in its place.
    ///
    /// With n = (x - mean) scale and g the gradient where the ReLU let through: with fixed
    /// statistics dx = factor g, with those of the batch
    /// dx = factor (g - mean(g) - n mean(g n)).
    pub(super) fn back(
        &self,
        x: &[f32],
        gradient: &mut [f32],
        [weight, bias]: [&Tensor; 2],
        fixed: bool,
        flow: &mut Flow<'_>,
    ) {
        let columns = self.mean.len();
        let mut both = vec![0.0; 2 * columns];
        if !fixed || flow.wants(weight) {
            both = sums(x, columns, 2 * columns, |row, x, sums| {
                let gradient = &gradient[row * columns..][..x.len()];
                vectorized(Self::add_gradients, (self, x, gradient, sums));
            });
            flow.add(weight, 0, &both[..columns]);
            flow.add(bias, 0, &both[columns..]);
        }
        let mut rows = if fixed { f32::INFINITY } else { (x.len() / columns) as f32 };
        if let (false, Some(peers)) = (fixed, &flow.peers) {
            peers.sum(&mut both); // the mean over the rows of all ranks, as in `moments`
            rows *= peers.ranks() as f32;
        }
        let (dw, db) = both.split_at(columns);
        // dx = factor g + q x + r
        let q: Vec<f32> =
            (0..columns).map(|i| -self.factor[i] * self.scale[i] * dw[i] / rows).collect();
        let r: Vec<f32> =
            (0..columns).map(|i| -self.factor[i] * db[i] / rows - q[i] * self.mean[i]).collect();
        let chunk = columns * ROWS;
        gradient.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(gradient, x)| {
            vectorized(Self::dx, (self, x, &*q, &*r, gradient));
        });
    }

    /// The gradient at one place of channel i where the ReLU let through.
    #[inline(always)]
    fn passed(relu: bool, y: f32, gradient: f32) -> f32 {
        if !relu || y > 0.0 { gradient } else { 0.0 }
    }

    /// Adds to the gradients of weight and bias, which lie one after the other.
    #[inline(always)]
    fn add_gradients(&self, x: &[f32], gradient: &[f32], sums: &mut [f32]) {
        let columns = self.mean.len();
        let (dw, db) = sums.split_at_mut(columns);
        let (scale, mean) = (&self.scale[..columns], &self.mean[..columns]);
        let (factor, shift) = (&self.factor[..columns], &self.shift[..columns]);
        let (dw, db) = (&mut dw[..columns], &mut db[..columns]);
        for (x, dy) in x.chunks_exact(columns).zip(gradient.chunks_exact(columns)) {
            for i in 0..columns {
                let g = Self::passed(self.relu, x[i] * factor[i] + shift[i], dy[i]);
                dw[i] += g * (x[i] - mean[i]) * scale[i];
                db[i] += g;
            }
        }
    }

    #[inline(always)]
    fn dx(&self, x: &[f32], q: &[f32], r: &[f32], gradient: &mut [f32]) {
        let columns = q.len();
        let (factor, shift) = (&self.factor[..columns], &self.shift[..columns]);
        let r = &r[..columns];
        for (x, dy) in x.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns)) {
            for i in 0..columns {
                let g = Self::passed(self.relu, x[i] * factor[i] + shift[i], dy[i]);
                dy[i] = factor[i] * g + q[i] * x[i] + r[i];
            }
        }
    }
}

//! Layer normalisation and unit length: rows on their own.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Tape, Value};
use crate::ops::{
    borrow,
    cpu::{self, ROWS, vectorized},
    graph::{EPSILON, SQUARE_MIN},
};

impl Tape {
    pub(super) fn layer_norm(&self, x: &Value, weight: &Tensor, bias: &Tensor) -> Result<Value> {
        let chunk = x.columns() * ROWS;
        let mut y = self.arena.take(x.data.len());
        let (w, b) = (borrow("layer_norm", weight)?, borrow("layer_norm", bias)?);
        y.par_chunks_mut(chunk).zip(x.data.par_chunks(chunk)).for_each(|(y, x)| {
            vectorized(layer_norm, (x, &*w, &*b, y));
        });
        drop((w, b));
        let (step, input) = (x.step, x.data.clone());
        let parameters = (weight.clone(), bias.clone());
        Ok(self.output(y, x.dims.clone(), &[x], &[weight, bias], move |mut gradient, flow| {
            let (weight, bias) = parameters;
            let w = borrow("layer_norm", &weight)?;
            let columns = w.len();
            let chunks = gradient.par_chunks_mut(chunk).zip(input.par_chunks(chunk));
            if !flow.wants(&weight) {
                chunks.for_each(|(gradient, x)| {
                    vectorized(layer_norm_back::<false>, (x, &*w, gradient, &mut [][..]));
                });
            } else {
                let parts = chunks.map(|(gradient, x)| {
                    let mut sums = vec![0.0; 2 * columns];
                    vectorized(layer_norm_back::<true>, (x, &*w, gradient, &mut *sums));
                    sums
                });
                let parts: Vec<_> = parts.collect();
                let mut sums = vec![0.0; 2 * columns];
                parts.iter().for_each(|part| cpu::add(part, &mut sums));
                flow.add(&weight, 0, &sums[..columns]);
                flow.add(&bias, 0, &sums[columns..]);
            }
            drop(w);
            flow.give(step, gradient);
            Ok(())
        }))
    }

    pub(super) fn normalize(&self, x: &Value) -> Result<Value> {
        let columns = x.columns();
        let mut y = self.arena.copy(&x.data);
        for row in y.chunks_exact_mut(columns) {
            let length = length(row);
            row.iter_mut().for_each(|value| *value /= length);
        }
        let (step, input) = (x.step, x.data.clone());
        // dx = (dy - y <y, dy>) / |x|, y = x / |x|
        Ok(self.output(y, x.dims.clone(), &[x], &[], move |mut gradient, flow| {
            let rows = gradient.chunks_exact_mut(columns).zip(input.chunks_exact(columns));
            for (gradient, x) in rows {
                let length = length(x);
                let dot: f32 = x.iter().zip(&*gradient).map(|(x, dy)| x * dy).sum();
                let share = dot / (length * length);
                for (dy, x) in gradient.iter_mut().zip(x) {
                    *dy = (*dy - x * share) / length;
                }
            }
            flow.give(step, gradient);
            Ok(())
        }))
    }
}

fn length(row: &[f32]) -> f32 {
    (row.iter().map(|x| x * x).sum::<f32>() + SQUARE_MIN as f32).sqrt()
}

/// Sums are taken in so many parts, which a processor adds at one time.
const LANES: usize = 16;

/// Sum of `term` over the places of rows of one length.
#[inline(always)]
fn sum<const N: usize>(rows: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let parts = rows.map(<[f32]>::as_chunks::<LANES>);
    for at in 0..parts[0].0.len() {
        let parts = parts.map(|(whole, _)| &whole[at]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(parts.map(|part| part[lane]));
        }
    }
    let rest: f32 = (0..parts[0].1.len()).map(|at| term(parts.map(|(_, rest)| rest[at]))).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Mean and 1 / standard deviation of a row.
#[inline(always)]
fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum([row], |[x]| x) / count;
    let variance = sum([row], |[x]| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + EPSILON as f32).sqrt())
}

#[inline(always)]
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let columns = weight.len();
    for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
        let (mean, scale) = moments(x);
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * scale * w + b;
        }
    }
}

/// With n = (x - mean) / std and g = dy * weight: dx = (g - mean(g) - n mean(g n)) / std, written
/// over dy. If they are trained, adds to the gradients of weight and bias, one after the other.
#[inline(always)]
fn layer_norm_back<const TRAINED: bool>(
    x: &[f32],
    weight: &[f32],
    gradient: &mut [f32],
    sums: &mut [f32],
) {
    let columns = weight.len();
    let (dw, db) = sums.split_at_mut(if TRAINED { columns } else { 0 });
    for (dy, x) in gradient.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
        let (mean, scale) = moments(x);
        let count = columns as f32;
        let mean_g = sum([dy, weight], |[dy, w]| dy * w) / count;
        let mean_gn = sum([dy, weight, x], |[dy, w, x]| dy * w * (x - mean)) * scale / count;
        if TRAINED {
            for (((dw, db), dy), x) in dw.iter_mut().zip(&mut *db).zip(&*dy).zip(x) {
                *dw += dy * ((x - mean) * scale);
                *db += dy;
            }
        }
        for ((dy, x), w) in dy.iter_mut().zip(x).zip(weight) {
            let n = (x - mean) * scale;
            *dy = (*dy * w - mean_g - n * mean_gn) * scale;
        }
    }
}

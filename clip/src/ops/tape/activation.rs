//! The activation of an MLP.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use candle_core::Result;
use rayon::prelude::*;

use super::{Tape, Value};
use crate::{
    config::Activation,
    ops::{
        cpu::{CHUNK, erf, exp, vectorized},
        graph::SLOPE,
    },
};

impl Tape {
    pub(super) fn activate(&self, x: &Value, activation: Activation) -> Result<Value> {
        let mut y = self.arena.take(x.data.len());
        y.par_chunks_mut(CHUNK).zip(x.data.par_chunks(CHUNK)).for_each(|(y, x)| match activation {
            Activation::QuickGelu => vectorized(quick_gelu, (x, y)),
            Activation::Gelu => vectorized(gelu, (x, y)),
        });
        let (step, input) = (x.step, x.data.clone());
        Ok(self.output(y, x.dims.clone(), &[x], &[], move |mut gradient, flow| {
            let chunks = gradient.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
            chunks.for_each(|(gradient, x)| match activation {
                Activation::QuickGelu => vectorized(quick_gelu_back, (x, gradient)),
                Activation::Gelu => vectorized(gelu_back, (x, gradient)),
            });
            flow.give(step, gradient);
            Ok(())
        }))
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn quick_gelu(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * sigmoid(SLOPE as f32 * x));
}

/// `dy/dx = s (1 + 1.702 x (1 - s))`, s = sigmoid(1.702 x)
#[inline(always)]
fn quick_gelu_back(x: &[f32], gradient: &mut [f32]) {
    for (gradient, &x) in gradient.iter_mut().zip(x) {
        let s = sigmoid(SLOPE as f32 * x);
        *gradient *= s * (1.0 + SLOPE as f32 * x * (1.0 - s));
    }
}

/// `x * Phi(x)`, Phi to 2e-7.
#[inline(always)]
fn gelu(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2).0));
}

/// `dy/dx = Phi(x) + x phi(x)`
#[inline(always)]
fn gelu_back(x: &[f32], gradient: &mut [f32]) {
    let height = 1.0 / (2.0 * PI).sqrt();
    for (gradient, &x) in gradient.iter_mut().zip(x) {
        let (erf, density) = erf(x * FRAC_1_SQRT_2);
        *gradient *= 0.5 * (1.0 + erf) + x * height * density;
    }
}

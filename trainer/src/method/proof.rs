//! What losses are compared with: plain sums in f64, on rows of two numbers.

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use clip::ops::Engine;

use super::{Pairs, Second};
use crate::error::Result;

/// `[B, 2]`
pub(super) fn tensor<const B: usize>(rows: &[[f64; 2]; B]) -> Result<Tensor> {
    let rows = rows.map(|row| row.map(|value| value as f32));
    Ok(Tensor::new(&rows, &Device::Cpu)?)
}

/// Each `[B, 2]`.
pub(super) fn vars<const B: usize, const N: usize>(all: [[[f64; 2]; B]; N]) -> Result<[Var; N]> {
    let vars = all.iter().map(|rows| Ok(Var::from_tensor(&tensor(rows)?)?));
    let vars = vars.collect::<Result<Vec<_>>>()?;
    Ok(vars.try_into().expect("as many as there are rows"))
}

/// The first step of `epoch`; every pair has a caption of its own.
pub(super) fn pairs<const B: usize>(
    image: &Var,
    text: &Var,
    second: Option<Second>,
    rows: [u32; B],
    epoch: u32,
) -> Pairs {
    let (image, text) = (image.as_tensor().clone(), text.as_tensor().clone());
    let (rows, captions) = (rows.to_vec(), rows.to_vec());
    let engine = Engine::default();
    Pairs { image, text, engine, second, rows, captions, epoch, step: 0 }
}

/// The mean over `rows` of `-ln` of the share of its own among `others`, in nats; `scale` is the
/// logarithm of the factor on cosines.
pub(super) fn one_way(rows: &[[f64; 2]], others: &[[f64; 2]], scale: f64) -> f64 {
    let logit = |a: &[f64; 2], b: &[f64; 2]| scale.exp() * (a[0] * b[0] + a[1] * b[1]);
    let losses = rows.iter().zip(others).map(|(row, own)| {
        let sum: f64 = others.iter().map(|other| logit(row, other).exp()).sum();
        sum.ln() - logit(row, own)
    });
    losses.sum::<f64>() / rows.len() as f64
}

/// Whether `var` has a gradient that is not zero.
pub(super) fn moves(gradients: &GradStore, var: &Var) -> Result<bool> {
    let Some(gradient) = gradients.get(var) else { return Ok(false) };
    Ok(gradient.abs()?.sum_all()?.to_scalar::<f32>()? > 1e-6)
}

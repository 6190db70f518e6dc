//! A linear layer on frozen embeddings.
//!
//! A head is a slice: its weight `[C, D]`, row-major, then its bias `[C]`.

use candle_core::{Device, Tensor};
use clip::Rate;
use rayon::prelude::*;

use crate::Result;

/// Rows whose logits are in memory at one time.
const ROWS: usize = if cfg!(test) { 7 } else { 4096 };

/// What heads are trained and tested on.
#[derive(Debug, Clone)]
pub(in super::super) struct Inputs {
    /// `[N, D]`, f64.
    values: Tensor,
    /// Class of each row.
    classes: Vec<u32>,
}

impl Inputs {
    /// Rows of width `dim`, one for each class.
    pub(in super::super) fn new(values: Vec<f64>, classes: Vec<u32>, dim: usize) -> Result<Self> {
        let values = Tensor::from_vec(values, (classes.len(), dim), &Device::Cpu)?;
        Ok(Self { values, classes })
    }

    /// Rows (N).
    pub(super) fn count(&self) -> usize {
        self.classes.len()
    }

    /// Class of each row.
    pub(super) fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// The same rows with other classes.
    pub(super) fn with_classes(&self, classes: Vec<u32>) -> Self {
        Self { values: self.values.clone(), classes }
    }

    /// Columns (D).
    pub(super) fn dim(&self) -> usize {
        self.values.dims()[1]
    }

    /// The rows of these numbers.
    pub(super) fn select(&self, rows: &[u32]) -> Result<Self> {
        let numbers = Tensor::from_slice(rows, rows.len(), &Device::Cpu)?;
        let classes = rows.iter().map(|&row| self.classes[row as usize]).collect();
        Ok(Self { values: self.values.index_select(&numbers, 0)?, classes })
    }

    /// Some rows after the others.
    fn blocks(&self) -> impl Iterator<Item = Result<(Tensor, &[u32])>> {
        self.classes.chunks(ROWS).enumerate().map(|(block, classes)| {
            Ok((self.values.narrow(0, block * ROWS, classes.len())?, classes))
        })
    }
}

/// `[B, D]` -> `[B, C]`.
fn logits(head: &[f64], inputs: &Tensor) -> Result<Vec<f64>> {
    let dim = inputs.dim(1)?;
    let classes = head.len() / (dim + 1);
    let (weight, bias) = head.split_at(classes * dim);
    let weight = Tensor::from_slice(weight, (classes, dim), &Device::Cpu)?;
    let mut logits = inputs.matmul(&weight.t()?)?.flatten_all()?.to_vec1::<f64>()?;
    for row in logits.chunks_exact_mut(classes) {
        row.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
    }
    Ok(logits)
}

/// Mean cross-entropy over the rows, in nats; its gradient is added to `gradient`, which is laid out
/// as the head is.
pub(super) fn cross_entropy(head: &[f64], inputs: &Inputs, gradient: &mut [f64]) -> Result<f64> {
    let (mut sum, count, dim) = (0.0, inputs.count() as f64, inputs.dim());
    let classes = head.len() / (dim + 1);
    let (weight, bias) = gradient.split_at_mut(classes * dim);
    for block in inputs.blocks() {
        let (values, own) = block?;
        let mut shares = logits(head, &values)?;
        let rows = shares.par_chunks_exact_mut(classes).zip(own);
        let losses: Vec<f64> = rows.map(|(row, &own)| loss(row, own as usize, count)).collect();
        sum += losses.iter().sum::<f64>();
        for row in shares.chunks_exact(classes) {
            bias.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
        }
        let shares = Tensor::from_vec(shares, (own.len(), classes), &Device::Cpu)?;
        let block = shares.t()?.matmul(&values)?.flatten_all()?.to_vec1::<f64>()?;
        weight.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
    }
    Ok(sum / count)
}

/// Cross-entropy of one row, whose logits become its gradient at them over `count`.
fn loss(row: &mut [f64], own: usize, count: f64) -> f64 {
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|logit| (logit - highest).exp()).sum();
    let loss = sum.ln() + highest - row[own];
    row.iter_mut().for_each(|logit| *logit = (*logit - highest).exp() / (sum * count));
    row[own] -= 1.0 / count;
    loss
}

/// Rows whose highest logit, the first of equals, is that of their class.
pub(super) fn accuracy(head: &[f64], inputs: &Inputs) -> Result<Rate> {
    let (mut rate, classes) = (Rate::default(), head.len() / (inputs.dim() + 1));
    for block in inputs.blocks() {
        let (values, own) = block?;
        for (row, &own) in logits(head, &values)?.chunks_exact(classes).zip(own) {
            let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            rate.count(row.iter().position(|&logit| logit == highest) == Some(own as usize));
        }
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_central_differences() -> Result<()> {
        let wave = |count: usize, step: f64| (0..count).map(move |i| (i as f64 * step).sin());
        let inputs = Inputs::new(wave(20 * 3, 0.7).collect(), (0..20).map(|i| i % 4).collect(), 3)?;
        let mut head: Vec<f64> = wave(4 * 3 + 4, 1.3).collect();
        let mut gradient = vec![0.0; head.len()];
        cross_entropy(&head, &inputs, &mut gradient)?;
        for place in 0..head.len() {
            let mut at = |moved: f64| {
                let kept = head[place];
                head[place] = kept + moved;
                let value = cross_entropy(&head, &inputs, &mut vec![0.0; gradient.len()]);
                head[place] = kept;
                value
            };
            let slope = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            assert!((slope - gradient[place]).abs() < 1e-9, "{place}: {slope}");
        }
        Ok(())
    }

    #[test]
    fn nothing_known_costs_the_logarithm_of_the_classes() -> Result<()> {
        let inputs = Inputs::new(vec![1.0; 10], vec![0, 1, 2, 0, 1], 2)?;
        let value = cross_entropy(&[0.0; 9], &inputs, &mut [0.0; 9])?;
        assert!((value - 3f64.ln()).abs() < 1e-12);
        let first = accuracy(&[0.0; 9], &inputs)?;
        assert_eq!(first, Rate { hits: 2, trials: 5 });
        Ok(())
    }
}

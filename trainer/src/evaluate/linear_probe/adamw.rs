//! The recipe of RoCLIP's released code (`model/src/evaluate.py`): AdamW, cosine to 0.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::head::{Inputs, cross_entropy};
use crate::{Result, data, optim::Schedule};

const EPOCHS: u32 = 32;
const BATCH_SIZE: usize = 512;
const LR: f64 = 0.005;
/// Of the weight; the bias has none.
const WEIGHT_DECAY: f64 = 0.01;
/// Of the mean of the gradient, and of that of its square.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
/// Decides the first weights and the order of rows.
const SEED: u64 = 0;

/// Trains a head for `classes` classes.
pub(super) fn fit(inputs: &Inputs, classes: usize) -> Result<Vec<f64>> {
    let rows: Vec<u32> = (0..inputs.count() as u32).collect();
    let orders = (0..EPOCHS).map(|epoch| data::order(&rows, rows.len(), rows.len(), SEED, epoch));
    let start = start(classes, inputs.dim());
    train(inputs, start, orders.collect(), BATCH_SIZE)
}

/// Uniform within one over the root of the width, the bias as well: PyTorch's `nn.Linear`.
fn start(classes: usize, dim: usize) -> Vec<f64> {
    let bound = 1.0 / (dim as f64).sqrt();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    (0..classes * (dim + 1)).map(|_| rng.random_range(-bound..bound)).collect()
}

/// One epoch for each order of rows; a smaller batch may be its last.
fn train(
    inputs: &Inputs,
    mut head: Vec<f64>,
    orders: Vec<Vec<u32>>,
    batch_size: usize,
) -> Result<Vec<f64>> {
    let batches = inputs.count().div_ceil(batch_size);
    let schedule = Schedule::new(LR, 0.0, (batches * orders.len()) as u64);
    let weights = head.len() / (inputs.dim() + 1) * inputs.dim();
    let (mut mean, mut square) = (vec![0.0; head.len()], vec![0.0; head.len()]);
    let batches = orders.iter().flat_map(|order| order.chunks(batch_size));
    for (step, rows) in (0..).zip(batches) {
        let mut gradient = vec![0.0; head.len()];
        cross_entropy(&head, &inputs.select(rows)?, &mut gradient)?;
        let (lr, past) = (schedule.lr(step), step as i32 + 1);
        let whole = (1.0 - BETAS.0.powi(past), 1.0 - BETAS.1.powi(past));
        for (place, slope) in gradient.into_iter().enumerate() {
            mean[place] += (1.0 - BETAS.0) * (slope - mean[place]);
            square[place] += (1.0 - BETAS.1) * (slope * slope - square[place]);
            let decay = if place < weights { WEIGHT_DECAY } else { 0.0 };
            let root = (square[place] / whole.1).sqrt() + EPSILON;
            head[place] -= lr * (decay * head[place] + mean[place] / whole.0 / root);
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{golden, linear_probe::head::accuracy};

    #[test]
    fn as_pytorch_trains() -> Result<()> {
        let golden = golden::open("linear_probe.json");
        let torch = &golden["adamw"];
        let (inputs, test) = (golden::inputs(&golden["train"]), golden::inputs(&golden["test"]));
        let orders = torch["orders"].as_array().expect("epochs").iter().map(golden::numbers);
        let orders = orders.map(|order| order.iter().map(|&row| row as u32).collect()).collect();
        let start = golden::numbers(&torch["start"]);
        let head = train(&inputs, start, orders, golden::index(&torch["batch_size"]))?;
        golden::assert_near(&head, &golden::numbers(&torch["end"]), 1e-9);
        assert_eq!(accuracy(&head, &test)?, golden::rate(&torch["accuracy"]));
        Ok(())
    }

    #[test]
    fn what_can_be_told_apart_is() -> Result<()> {
        const ROWS: u32 = 20_000;
        let corner = |row: u32| [row % 2, row / 2 % 2].map(|side| 2.0 * f64::from(side) - 1.0);
        let values = (0..ROWS).flat_map(corner).collect();
        let inputs = Inputs::new(values, (0..ROWS).map(|row| row % 4).collect(), 2)?;
        let head = fit(&inputs, 4)?;
        assert_eq!(accuracy(&head, &inputs)?.hits, u64::from(ROWS));
        assert_eq!(head, fit(&inputs, 4)?, "the same again");
        Ok(())
    }
}

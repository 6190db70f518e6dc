//! Weights whose gradients can be compared.

use clip::weights::{Array, Weights};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Greatest change of a parameter that would begin as a constant.
const NOISE: f32 = 0.1;
/// Mean distance of a ReLU's inputs from 0, in their standard deviations.
const KINK_DISTANCE: f32 = 6.0;

/// Changes new weights until their gradients can be compared: no parameter begins as one constant, so
/// that every block has a gradient; no input of a ReLU lies near 0, where two roundings of one
/// number may fall on either side and move a gradient by a hundredth; and the positions that the
/// attention pool compares differ.
pub(crate) fn checkable(mut weights: Weights, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, Array { shape, values }) in &mut weights {
        let constant = values.iter().all(|value| *value == values[0]);
        if constant && !shape.is_empty() && !name.contains("running_") {
            for value in &mut *values {
                *value += rng.random_range(-NOISE..NOISE);
            }
        }
        if name.starts_with("visual.") && name.contains(".bn") && name.ends_with(".bias") {
            move_off_zero(name, values);
        }
        if name == "visual.attnpool.positional_embedding" {
            for value in values {
                *value *= (shape[1] as f32).sqrt();
            }
        }
    }
    weights
}

/// Switches every second channel off by its bias of batch normalisation, and the others on. What a
/// block adds to a channel that is on already leaves it on.
fn move_off_zero(name: &str, values: &mut [f32]) {
    let adds = name.ends_with("bn3.bias") && name.contains(".layer") && !name.contains(".0.");
    for (channel, value) in values.iter_mut().enumerate() {
        match channel % 2 {
            0 if adds => {}
            0 => *value += KINK_DISTANCE,
            _ => *value -= KINK_DISTANCE,
        }
    }
}

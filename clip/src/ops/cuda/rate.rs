//! How fast a machine multiplies: the ceiling that a training step is compared with.

use std::{sync::Arc, time::Instant};

use candle_core::Result;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Machine, Operand, Precision, Product};

/// Products between two looks at the clock.
const PRODUCTS: usize = 16;
/// Different values of a matrix; zeros would be multiplied faster than numbers are.
const VALUES: usize = 1 << 16;

/// Floating-point operations per second in products of two `[size, size]` matrices of bf16: the
/// best of `turns`.
pub(crate) fn product_rate<M: Machine>(machine: &Arc<M>, size: usize, turns: usize) -> Result<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let bf16 = |value: f32| ((value.to_bits() >> 16) as u16).to_ne_bytes();
    let some: Vec<u8> = (0..VALUES).flat_map(|_| bf16(rng.random_range(-1.0..1.0))).collect();
    let bytes: Vec<u8> = some.iter().copied().cycle().take(2 * size * size).collect();
    let (factor, result) = (machine.take(bytes.len())?, machine.take(bytes.len())?);
    machine.write(&factor, 0, &bytes)?;
    let operand = Operand::new(M::address(&factor), size);
    let product = Product::new([size; 3], operand, operand, M::address(&result));
    let multiply = |count: usize| -> Result<f64> {
        let began = Instant::now();
        (0..count).try_for_each(|_| machine.multiply(Precision::Bf16, &product))?;
        machine.read(&result, 0, &mut [0; 2])?; // waits
        Ok(began.elapsed().as_secs_f64())
    };
    multiply(1)?; // looks for the way to compute it
    let mut best = f64::INFINITY;
    for _ in 0..turns {
        best = best.min(multiply(PRODUCTS)?);
    }
    Ok((2 * PRODUCTS * size.pow(3)) as f64 / best)
}

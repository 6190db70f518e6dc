//! What a GPU computes beside what the CPU does, and how fast it multiplies.

use std::time::Instant;

use clip::weights::Weights;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use terminal::Report;
use trainer::{
    data::Batch,
    gpu::{Gpu, Timed},
    step::Trainer,
};

use crate::case::{Case, Optimizer, Pairs};

/// Sides of the matrices that a GPU multiplies: of its largest and of the towers' size.
const SIDES: [usize; 3] = [2048, 4096, 8192];
/// Turns of each side.
const TURNS: usize = 5;
/// So far above any gradient that AdamW without memory takes the gradient off each weight, nearly:
/// `FAR g / (|g| + FAR)`.
const FAR: f64 = 1e4;

/// FLOP per second in products of bf16.
pub(crate) fn ceiling(gpu: &Gpu) -> Result<Value, Report> {
    let mut rates = Vec::new();
    for side in SIDES {
        rates.push(json!({ "side": side, "flop_per_second": gpu.product_rate(side, TURNS)? }));
    }
    Ok(json!({ "device": gpu.name(), "rates": rates }))
}

/// Seconds of the third step, and of what the GPU did in it.
pub(crate) fn profile(
    trainer: &mut Trainer,
    batch: impl Fn() -> Result<Batch, Report>,
    gpu: &Gpu,
) -> Result<Value, Report> {
    trainer.step(batch()?)?;
    trainer.step(batch()?)?;
    let third = batch()?;
    let began = Instant::now();
    trainer.step(third)?;
    let seconds = began.elapsed().as_secs_f64();
    let fourth = batch()?;
    let (done, all) = gpu.profile(|| trainer.step(fourth))?;
    done?;
    let part =
        |one: &Timed| json!({ "name": one.name, "calls": one.calls, "seconds": one.seconds });
    let busy: f64 = all.iter().map(|one| one.seconds).sum();
    let parts: Vec<_> = all.iter().map(part).collect();
    Ok(json!({ "step_seconds": seconds, "busy_seconds": busy, "parts": parts }))
}

/// Loss and gradient of the checked weights, which the folder has from the CPU in f32: shares by
/// which they are apart. A model on a GPU shows its gradient only in what a step does.
pub(crate) fn apart(
    case: &Case,
    weights: &Weights,
    pairs: &Pairs,
    expected: &SafeTensors<'_>,
    gpu: Option<&Gpu>,
) -> Result<Value, Report> {
    let Optimizer { logit_scale_max, .. } = case.optimizer;
    let (lr, epsilon) = (FAR, FAR);
    let optimizer =
        Optimizer { lr, epsilon, weight_decay: 0.0, beta1: 0.0, beta2: 0.0, logit_scale_max };
    let mut trainer = optimizer.trainer(&case.config, weights, gpu)?;
    let report = trainer.step(pairs.batch(case.config.text.end()))?;
    let after = trainer.model.weights()?;
    let mut all = Distance::default();
    let mut worst = (String::new(), 0.0);
    for parameter in trainer.model.parameters() {
        let name = &parameter.name;
        if !parameter.is_image() && !parameter.is_text() {
            continue; // the logit scale, which stays on the CPU
        }
        let expected = expected.tensor(name)?;
        let (expected, _) = expected.data().as_chunks();
        let moved = weights[name].values.iter().zip(&after[name].values);
        let mut one = Distance::default();
        for ((before, after), expected) in moved.zip(expected) {
            one.add(f64::from(before - after), f64::from(f32::from_le_bytes(*expected)));
        }
        all.add_all(&one);
        // A bias that changes no loss has a gradient of rounding alone: measured by its kind.
        if one.relative() > worst.1 && !name.ends_with("bias") {
            worst = (name.clone(), one.relative());
        }
    }
    let loss = f64::from(case.checked_loss);
    Ok(json!({
        "loss": report.loss,
        "loss_relative": (f64::from(report.loss) - loss).abs() / loss,
        "gradient_relative": all.relative(),
        "worst_parameter": worst.0,
        "worst_relative": worst.1,
    }))
}

/// Between two vectors.
#[derive(Default)]
struct Distance {
    off: f64,
    size: f64,
}

impl Distance {
    fn add(&mut self, found: f64, expected: f64) {
        self.off += (found - expected).powi(2);
        self.size += expected.powi(2);
    }

    fn add_all(&mut self, other: &Self) {
        self.off += other.off;
        self.size += other.size;
    }

    /// As a share of the second one's length.
    fn relative(&self) -> f64 {
        (self.off / self.size.max(f64::MIN_POSITIVE)).sqrt()
    }
}

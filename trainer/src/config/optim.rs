//! `[optim]`: how weights move.

use serde::{Deserialize, Serialize};

use super::Problems;

/// `[optim]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optim {
    /// Passes over the data, at least 1
    pub epochs: u32,
    /// Highest learning rate
    pub lr: f64,
    /// Share of all steps over which the learning rate rises, 0 to 1
    pub warmup_share: f64,
    /// Steps over which it rises, in the place of that share; more than there are are never over
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Decoupled weight decay of matrices and kernels
    pub weight_decay: f64,
    /// Decay of the gradient's mean
    pub beta1: f64,
    /// Decay of the gradient's square
    pub beta2: f64,
    /// Added to the root of the square
    pub epsilon: f64,
    /// Greatest factor on cosines
    pub logit_scale_max: f64,
    /// Greatest Euclidean norm of the whole gradient (Pascanu et al. 2013); without, any
    pub grad_clip_norm: Option<f64>,
    /// Pairs that go through the towers at once (GradCache, Gao et al. 2021); without, all of a
    /// batch. Of several ranks, of each
    pub micro_batch: Option<usize>,
}

impl Default for Optim {
    fn default() -> Self {
        Self {
            epochs: 20,
            lr: 2e-3,
            warmup_share: 0.05,
            warmup_steps: None,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-8,
            logit_scale_max: 100.0,
            grad_clip_norm: None,
            micro_batch: None,
        }
    }
}

impl Optim {
    /// Adds everything that is wrong, each with its key and its limits.
    pub(super) fn check(&self, problems: &mut Problems) {
        let positive = |value: f64| value.is_finite() && value > 0.0; // false for NaN
        let warmup = (0.0..=1.0).contains(&self.warmup_share);
        problems.require(warmup, "optim.warmup_share", "between 0 and 1");
        problems.require(self.epochs >= 1, "optim.epochs", "at least 1");
        problems.require(positive(self.lr), "optim.lr", "above 0");
        let decay = self.weight_decay.is_finite() && self.weight_decay >= 0.0;
        problems.require(decay, "optim.weight_decay", "at least 0");
        for (beta, key) in [(self.beta1, "optim.beta1"), (self.beta2, "optim.beta2")] {
            problems.require((0.0..1.0).contains(&beta), key, "at least 0, below 1");
        }
        problems.require(positive(self.epsilon), "optim.epsilon", "above 0");
        let scale = self.logit_scale_max.is_finite() && self.logit_scale_max >= 1.0;
        problems.require(scale, "optim.logit_scale_max", "at least 1");
        let norm = self.grad_clip_norm.is_none_or(positive);
        problems.require(norm, "optim.grad_clip_norm", "above 0");
        problems.require(self.micro_batch != Some(0), "optim.micro_batch", "at least 1");
    }
}

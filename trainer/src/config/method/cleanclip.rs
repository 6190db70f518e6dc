//! `[method.cleanclip]`: the two weights of its loss.

use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// `[method.cleanclip]`; sources in `docs/safeclip-cleanclip.md`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cleanclip {
    /// Weight of the InfoNCE of images and captions, at least 0 (CleanCLIP's released code,
    /// `clip_weight`: 1)
    pub clip_weight: f64,
    /// Weight of the InfoNCE of both with their augmented selves, at least 0 (CleanCLIP's λ; its
    /// released code, `inmodal_weight`: 1)
    pub unimodal_weight: f64,
}

impl Default for Cleanclip {
    fn default() -> Self {
        Self { clip_weight: 1.0, unimodal_weight: 1.0 }
    }
}

impl Cleanclip {
    pub(super) fn check(&self, problems: &mut Problems) {
        let weights = [
            (self.clip_weight, "method.cleanclip.clip_weight"),
            (self.unimodal_weight, "method.cleanclip.unimodal_weight"),
        ];
        for (weight, key) in weights {
            problems.require(weight.is_finite() && weight >= 0.0, key, "at least 0, finite");
        }
        let some = weights.iter().any(|(weight, _)| *weight != 0.0);
        problems.require(some, weights[0].1, "above 0 where `unimodal_weight` is 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_limits() {
        let check = |clip_weight: f64, unimodal_weight: f64, complaint: Option<&str>| {
            let mut problems = Problems::default();
            Cleanclip { clip_weight, unimodal_weight }.check(&mut problems);
            let expected: Vec<_> =
                complaint.iter().map(|limits| format!("`method.cleanclip.{limits}")).collect();
            assert_eq!(problems.into_lines(), expected, "{clip_weight}, {unimodal_weight}");
        };
        check(1.0, 8.0, None);
        check(0.0, 1.0, None);
        check(1.0, 0.0, None);
        check(0.0, 0.0, Some("clip_weight` must be above 0 where `unimodal_weight` is 0"));
        check(-1.0, 1.0, Some("clip_weight` must be at least 0, finite"));
        check(f64::NAN, 1.0, Some("clip_weight` must be at least 0, finite"));
        check(1.0, f64::INFINITY, Some("unimodal_weight` must be at least 0, finite"));
    }
}

//! `[monitor]`: what is watched, and from where on it is worth an alarm.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Problems;

/// `[monitor]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// CSV of test images with the column `class`, evaluated after epochs; without, the rest of
    /// the table is refused, but for `alarms`
    pub test: Option<PathBuf>,
    /// Class names, one per line
    pub classes: Option<PathBuf>,
    /// Prompt templates, one per line
    pub templates: Option<PathBuf>,
    /// Ledger of an experiment: attack rates are recorded; the method never sees it
    pub ledger: Option<PathBuf>,
    /// Epochs from one evaluation to the next; the last epoch always is
    pub every_epochs: Option<u32>,
    /// Limits, each a share; `inf` silences an alarm, and 0 `distinct_neighbors`
    pub alarms: Alarms,
}

/// `[monitor.alarms]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alarms {
    /// Stamped test pictures taken for the target class, less those that are without the stamp:
    /// above
    pub backdoor_asr: f64,
    /// Targeted pictures taken for their target class: above
    pub targeted_psr: f64,
    /// Clean top-1 below its best of the run: by more than
    pub top1_drop: f64,
    /// Distinct captions among the nearest of a matched batch, per image, on average: below
    pub distinct_neighbors: f64,
    /// Matches of an epoch that are with one and the same pooled caption: above
    pub pool_row: f64,
    /// Poisoned images whose nearest pooled caption is a poisoned pair's: above
    pub poison_matches: f64,
    /// Matches with noise or a caption older than one refill of the pool: above
    pub stale_matches: f64,
    /// Steps of an epoch that end with the logit scale at its maximum: this or above
    pub logit_scale_steps: f64,
    /// Matched steps that move the text tower, though it learns nothing from them: above
    pub text_moves: f64,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            backdoor_asr: 0.1,
            targeted_psr: 0.1,
            top1_drop: 0.05,
            distinct_neighbors: 0.5,
            pool_row: 0.01,
            poison_matches: 0.1,
            stale_matches: 0.0,
            logit_scale_steps: 1.0,
            text_moves: 0.0,
        }
    }
}

impl Monitor {
    /// Adds everything that is wrong.
    pub(super) fn check(&self, problems: &mut Problems) {
        let rest = Self { alarms: Alarms::default(), ..self.clone() };
        let test = self.test.is_some() || rest == Self::default();
        problems.require(test, "monitor.test", "given when anything else of `[monitor]` is");
        let classes = self.test.is_none() || self.classes.is_some();
        problems.require(classes, "monitor.classes", "given when `monitor.test` is");
        problems.require(self.every_epochs != Some(0), "monitor.every_epochs", "at least 1");
        let Alarms {
            backdoor_asr,
            targeted_psr,
            top1_drop,
            distinct_neighbors,
            pool_row,
            poison_matches,
            stale_matches,
            logit_scale_steps,
            text_moves,
        } = self.alarms;
        for (limit, key) in [
            (backdoor_asr, "monitor.alarms.backdoor_asr"),
            (targeted_psr, "monitor.alarms.targeted_psr"),
            (top1_drop, "monitor.alarms.top1_drop"),
            (distinct_neighbors, "monitor.alarms.distinct_neighbors"),
            (pool_row, "monitor.alarms.pool_row"),
            (poison_matches, "monitor.alarms.poison_matches"),
            (stale_matches, "monitor.alarms.stale_matches"),
            (logit_scale_steps, "monitor.alarms.logit_scale_steps"),
            (text_moves, "monitor.alarms.text_moves"),
        ] {
            problems.require(limit >= 0.0, key, "at least 0"); // false for NaN
        }
        let finite = distinct_neighbors != f64::INFINITY; // nothing is at least that
        problems.require(finite, "monitor.alarms.distinct_neighbors", "finite: 0 silences it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_need_no_test_images_and_are_no_less_than_nothing() {
        let check = |line: &str, expected: &[&str]| {
            let monitor: Monitor = toml::from_str(&format!("[alarms]\n{line}")).expect("TOML");
            let mut problems = Problems::default();
            monitor.check(&mut problems);
            assert_eq!(problems.into_lines(), expected, "{line}");
        };
        check("pool_row = 0.5", &[]);
        check("pool_row = inf", &[]);
        check("pool_row = 0.0", &[]);
        check("pool_row = -0.1", &["`monitor.alarms.pool_row` must be at least 0"]);
        check("top1_drop = nan", &["`monitor.alarms.top1_drop` must be at least 0"]);
    }
}

//! `[method.safeclip]`: when its phases are, and how the pairs are split.

use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// `[method.safeclip]`; sources in `docs/safeclip-cleanclip.md`. "Released" is SafeCLIP's code.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Safeclip {
    /// First epochs, in which images learn from images and captions from captions alone (released,
    /// `inmodal_warmup`: 5)
    pub unimodal_epochs: u32,
    /// Epochs of CLIP on all pairs that follow, at least 1; all epochs after these are split
    /// (released, `multimodal_warmup`: 1)
    pub clip_epochs: u32,
    /// Learning rate of these as a share of `optim.lr`, constant, above 0 and at most 1 (released,
    /// `filter_lr` of 5e-6 over 5e-4: 0.01)
    pub clip_lr_share: f64,
    /// Least chance of the upper group that makes a pair safe in the first split, above 0 and at
    /// most 1 (released: 0.9)
    pub safe_chance: f64,
    /// By how much of all pairs the safe ones grow from epoch to epoch, 0 to 1 (released,
    /// `update_filter_ratio`: 0.01)
    pub growth: f64,
    /// Greatest share of safe pairs, from the second split on, above 0 and at most 1 (released,
    /// `cap_filter_ratio`: 0.85)
    pub safe_max: f64,
    /// Share of the data-set rows that each of both pools holds, above 0 and at most 0.5; unless
    /// given as for `method.roclip.pool_share` (the authors' command for a million pairs: 0.02184)
    pub pool_share: Option<f64>,
}

impl Default for Safeclip {
    fn default() -> Self {
        Self {
            unimodal_epochs: 5,
            clip_epochs: 1,
            clip_lr_share: 0.01,
            safe_chance: 0.9,
            growth: 0.01,
            safe_max: 0.85,
            pool_share: None,
        }
    }
}

impl Safeclip {
    /// First epoch that is split, counted from 1.
    pub fn split_from(&self) -> u32 {
        self.unimodal_epochs.saturating_add(self.clip_epochs).saturating_add(1)
    }

    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let split_from = self.split_from();
        let is_long = split_from <= epochs; // else nothing is defended
        let limits = format!(
            "at least {split_from} for `safeclip`: `unimodal_epochs` ({}), `clip_epochs` ({}) \
             and one that is defended",
            self.unimodal_epochs, self.clip_epochs,
        );
        problems.require(is_long || epochs == 0, "optim.epochs", &limits);
        let mut require = |sound: bool, key: &str, limits: &str| {
            problems.require(sound, &format!("method.safeclip.{key}"), limits);
        };
        let share = |value: f64| 0.0 < value && value <= 1.0; // false for NaN
        require(self.clip_epochs >= 1, "clip_epochs", "at least 1");
        require(share(self.clip_lr_share), "clip_lr_share", "above 0, at most 1");
        require(share(self.safe_chance), "safe_chance", "above 0, at most 1");
        require((0.0..=1.0).contains(&self.growth), "growth", "between 0 and 1");
        require(share(self.safe_max), "safe_max", "above 0, at most 1");
        let pool = self.pool_share.is_none_or(|share| 0.0 < share && share <= 0.5);
        require(pool, "pool_share", "above 0, at most 0.5");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_limits() {
        let check = |line: &str, complaint: Option<&str>| {
            let settings: Safeclip = toml::from_str(line).expect("well-formed");
            let mut problems = Problems::default();
            settings.check(7, &mut problems);
            let key = |limits: &&str| match limits.starts_with("optim.") {
                true => format!("`{limits}"),
                false => format!("`method.safeclip.{limits}"),
            };
            assert_eq!(
                problems.into_lines(),
                complaint.iter().map(key).collect::<Vec<_>>(),
                "{line}"
            );
        };
        check("", None);
        check("unimodal_epochs = 0\nclip_epochs = 6", None);
        let least = "optim.epochs` must be at least 8 for `safeclip`: `unimodal_epochs` (6), \
                     `clip_epochs` (1) and one that is defended";
        check("unimodal_epochs = 6", Some(least));
        let least = "optim.epochs` must be at least 4294967295 for `safeclip`: `unimodal_epochs` (5), \
                     `clip_epochs` (4294967295) and one that is defended";
        check("clip_epochs = 4294967295", Some(least));
        check("clip_epochs = 0", Some("clip_epochs` must be at least 1"));
        check("clip_lr_share = 1.0", None);
        check("clip_lr_share = 0.0", Some("clip_lr_share` must be above 0, at most 1"));
        check("safe_chance = nan", Some("safe_chance` must be above 0, at most 1"));
        check("growth = 0.0", None);
        check("growth = 1.1", Some("growth` must be between 0 and 1"));
        check("safe_max = 0.0", Some("safe_max` must be above 0, at most 1"));
        check("pool_share = 0.5", None);
        check("pool_share = 0.6", Some("pool_share` must be above 0, at most 0.5"));
    }
}

//! `[method]` and one struct for each method that has settings.

use serde::{Deserialize, Serialize};

use super::Problems;

/// `[method]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Method {
    /// `clip` or `roclip`
    pub name: MethodName,
    /// Settings of `roclip`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roclip: Option<Roclip>,
}

/// Which loss is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// InfoNCE of each image and its own caption
    #[default]
    Clip,
    /// InfoNCE of each image and its nearest pooled caption, every K-th epoch
    Roclip,
}

/// `[method.roclip]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roclip {
    /// Share of the rows that the pool holds, above 0 and at most 0.5
    pub pool_share: f64,
    /// K: from `match_from_epoch` on every K-th epoch is matched, at least 1
    pub match_every_epochs: u32,
    /// First epoch that is matched, counted from 1: at least 2, when the pool is full, and at most
    /// `optim.epochs`
    pub match_from_epoch: u32,
}

impl Default for Roclip {
    fn default() -> Self {
        Self { pool_share: 0.02, match_every_epochs: 2, match_from_epoch: 2 }
    }
}

impl Method {
    /// Settings of `roclip`, defaults where none are given.
    pub fn roclip(&self) -> Roclip {
        self.roclip.clone().unwrap_or_default()
    }

    /// `epochs`: those of the whole run.
    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let chosen = self.roclip.is_none() || self.name == MethodName::Roclip;
        problems.require(chosen, "method.roclip", "left out unless `method.name` is `roclip`");
        if self.name == MethodName::Roclip {
            self.roclip().check(epochs, problems);
        }
    }
}

impl Roclip {
    fn check(&self, epochs: u32, problems: &mut Problems) {
        let share = 0.0 < self.pool_share && self.pool_share <= 0.5; // false for NaN
        problems.require(share, "method.roclip.pool_share", "above 0, at most 0.5");
        let every = self.match_every_epochs >= 1;
        problems.require(every, "method.roclip.match_every_epochs", "at least 1");
        let from = (2..=epochs).contains(&self.match_from_epoch); // else nothing is ever matched
        let limits = "at least 2, at most `optim.epochs`";
        problems.require(from, "method.roclip.match_from_epoch", limits);
    }
}

//! `[method]` and one struct for each method that has settings.

use serde::{Deserialize, Serialize};

use super::Problems;

/// `[method]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Method {
    /// `clip`, `roclip` or `sieve`
    pub name: MethodName,
    /// Settings of `roclip`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roclip: Option<Roclip>,
    /// Settings of `sieve`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sieve: Option<Sieve>,
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
    /// InfoNCE of each image and its own caption, without the pairs in doubt
    Sieve,
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

/// `[method.sieve]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sieve {
    /// First epoch that leaves out the pairs in doubt, counted from 1: at least 2, when the towers
    /// know something, and at most `optim.epochs`
    pub from_epoch: u32,
    /// Augmented views of each image that are asked, 1 or 2: the lesser answer counts
    pub views: u32,
    /// Pairs with which each pair is compared, at least 2
    pub references: usize,
    /// Share of the earlier scores in a pair's score, at least 0, below 1
    pub smoothing: f64,
}

impl Default for Sieve {
    fn default() -> Self {
        Self { from_epoch: 6, views: 2, references: 1024, smoothing: 0.5 }
    }
}

impl Method {
    /// Settings of `sieve`, defaults where none are given.
    pub fn sieve(&self) -> Sieve {
        self.sieve.clone().unwrap_or_default()
    }

    /// Settings of `roclip`, defaults where none are given.
    pub fn roclip(&self) -> Roclip {
        self.roclip.clone().unwrap_or_default()
    }

    /// `epochs`: those of the whole run.
    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let chosen = self.roclip.is_none() || self.name == MethodName::Roclip;
        problems.require(chosen, "method.roclip", "left out unless `method.name` is `roclip`");
        let chosen = self.sieve.is_none() || self.name == MethodName::Sieve;
        problems.require(chosen, "method.sieve", "left out unless `method.name` is `sieve`");
        match self.name {
            MethodName::Clip => {}
            MethodName::Roclip => self.roclip().check(epochs, problems),
            MethodName::Sieve => self.sieve().check(epochs, problems),
        }
    }
}

impl Sieve {
    fn check(&self, epochs: u32, problems: &mut Problems) {
        let from = (2..=epochs).contains(&self.from_epoch);
        let limits = "at least 2, at most `optim.epochs`";
        problems.require(from, "method.sieve.from_epoch", limits);
        let views = (1..=2).contains(&self.views);
        problems.require(views, "method.sieve.views", "1 or 2");
        problems.require(self.references >= 2, "method.sieve.references", "at least 2");
        let smoothing = (0.0..1.0).contains(&self.smoothing); // false for NaN
        problems.require(smoothing, "method.sieve.smoothing", "at least 0, below 1");
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

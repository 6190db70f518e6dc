//! `[method.sieve]`: the defence, and its ingredients, each of which can be exchanged.

use serde::{Deserialize, Serialize};

use crate::config::{Problems, is_default};

/// `[method.sieve]`; `docs/sieve.md` has the formulae.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sieve {
    /// Epochs of a scout that is asked in the model's place and then given up. They come before
    /// the `optim.epochs` of the model; 0 for no scout
    #[serde(skip_serializing_if = "is_default")]
    pub scout_epochs: u32,
    /// First epoch that leaves out the pairs in doubt, counted from 1: at least 2, when the towers
    /// know something, and at most `optim.epochs` or, with a scout, the first of the model
    pub from_epoch: u32,
    /// What pairs are compared with: `references` before each epoch, or the captions of a `pool` in
    /// each step, which needs no pass of its own
    pub score: Score,
    /// Augmented views of each image that are asked, 1 or 2: the lesser answer counts
    pub views: u32,
    /// Whether, in their place, each image is asked four times, without one of its quarters: the
    /// least answer counts
    #[serde(skip_serializing_if = "is_default")]
    pub quarters: bool,
    /// Pairs with which each pair is compared, at least 2
    pub references: usize,
    /// Greatest share of the earlier scores in a pair's score, 0 to 1; at 1 it is the mean of all
    pub smoothing: f64,
    /// Which pairs are kept: the upper group of a `mixture`, or as many as may be (`share`)
    pub split: Split,
    /// Greatest share of the pairs that the first sieved epoch keeps, 0.5 to 1
    pub kept_first: f64,
    /// Greatest share of the pairs that the last epoch keeps, or, with a scout, the model, 0.5 to
    /// 1; between the two it changes evenly
    pub kept_last: f64,
    /// What becomes of the pairs in doubt: `left-out`, or `matched` with the captions of a pool
    pub doubted: Fate,
}

choice! {
    /// What pairs are compared with.
    Score {
        /// A sample of pairs, embedded before each epoch
        References,
        /// The captions of the last steps
        Pool,
    }
}
choice! {
    /// Which pairs are kept, of those that may be.
    Split {
        /// Those of the upper group of a mixture of two
        Mixture,
        /// All
        Share,
    }
}
choice! {
    /// What becomes of the pairs in doubt.
    Fate {
        /// They are not trained on
        LeftOut,
        /// Their images are pulled to the nearest pooled captions, as RoCLIP's are
        Matched,
    }
}

impl Default for Sieve {
    fn default() -> Self {
        Self {
            scout_epochs: 0,
            from_epoch: 2,
            score: Score::References,
            views: 2,
            quarters: false,
            references: 1024,
            smoothing: 1.0,
            split: Split::Mixture,
            kept_first: 1.0,
            kept_last: 1.0,
            doubted: Fate::LeftOut,
        }
    }
}

impl Sieve {
    /// Whether there are captions of the last steps to compare or to match with.
    pub fn has_pool(&self) -> bool {
        self.score == Score::Pool || self.doubted == Fate::Matched
    }

    /// The epoch before which pairs are asked for the last time: the last of `epochs`, or the first
    /// of the model after a scout.
    pub fn verdict(&self, epochs: u32) -> u32 {
        match self.scout_epochs {
            0 => epochs,
            scouting => scouting.saturating_add(1),
        }
    }

    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let mut require = |sound: bool, key: &str, limits: &str| {
            problems.require(sound, &format!("method.sieve.{key}"), limits);
        };
        let limit = match self.scout_epochs {
            0 => "`optim.epochs`",
            _ => "one more than `scout_epochs`",
        };
        let alone = self.scout_epochs == 0 || !self.has_pool();
        let limits = "0 where `score` is `pool` or `doubted` is `matched`";
        require(alone, "scout_epochs", limits);
        let counts = self.scout_epochs.checked_add(epochs).is_some();
        require(counts, "scout_epochs", "with `optim.epochs` less than 2^32");
        let from = (2..=self.verdict(epochs)).contains(&self.from_epoch);
        require(from, "from_epoch", &format!("at least 2, at most {limit}"));
        require((1..=2).contains(&self.views), "views", "1 or 2");
        require(self.references >= 2, "references", "at least 2");
        let smoothing = (0.0..=1.0).contains(&self.smoothing); // false for NaN
        require(smoothing, "smoothing", "between 0 and 1");
        for (share, key) in [(self.kept_first, "kept_first"), (self.kept_last, "kept_last")] {
            require((0.5..=1.0).contains(&share), key, "between 0.5 and 1");
        }
        let all = self.split == Split::Share && self.kept_first.min(self.kept_last) == 1.0;
        require(!all, "kept_first", "below 1, or `kept_last`, where `split` is `share`");
    }
}

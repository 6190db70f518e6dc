//! `[method.roclip]`: the published forms of matching, and what the released code does otherwise.

use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// `[method.roclip]`; sources in `docs/roclip.md`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roclip {
    /// What is looked up: `text-pool`, `both` or `intra`
    pub retrieval: Retrieval,
    /// Share of the data-set rows that a pool holds, above 0 and at most 0.5; unless this or
    /// `pool_rows` is given 0.02, but 8 batches and 1,000 rows at least, if the data have twice that
    pub pool_share: Option<f64>,
    /// Rows of a pool, in the place of `pool_share`: a batch at least, half of the data at most
    pub pool_rows: Option<usize>,
    /// K: from `match_from_epoch` on every K-th epoch is matched, at least 1
    pub match_every_epochs: u32,
    /// In the place of K: the chance of each step from `match_from_epoch` on to be matched, above 0
    /// and at most 1
    pub match_chance: Option<f64>,
    /// First epoch that may be matched, counted from 1: at least 2 (1 if the pool is filled with
    /// `gaussian` noise), and at most `optim.epochs`; no step is matched before the pool is full
    pub match_from_epoch: u32,
    /// Waits with the first match for the end of an epoch in which the captions that images would
    /// find agreed with their own by this much, above 0 (chance) and below 1
    pub match_from_agreement: Option<f64>,
    /// `plain` or `match`: shifts the matched epochs so that the last one is of this kind
    pub last_epoch: Option<LastEpoch>,
    /// When batches enter the pool: in `every-epoch`, or in those that are `matched`
    pub enqueue: Enqueue,
    /// Every n-th batch enters, at least 1
    pub enqueue_every_batches: u32,
    /// What the pool holds first: the `captions` of the epochs before, or `gaussian` noise
    pub fill: Fill,
    /// At the end of the pool a batch `continues` at its start, or what is left of it is dropped
    /// (`drops`)
    pub wrap: Wrap,
    /// Whether an image may retrieve the caption of its own row, from an earlier epoch
    pub own_rows: bool,
    /// Images that retrieve one caption are not each other's negatives (`masked`), positives
    /// (`soft`), or negatives (`untreated`)
    pub duplicates: Duplicates,
    /// In matched steps of `text-pool` the text tower `rests`, or momentum and decay go on
    /// (`drifts`), or it `learns` to put each caption where the nearest pooled caption is
    pub text_tower: TextTower,
}

choice! {
    /// What a matched step looks up.
    Retrieval {
        /// For each image the nearest pooled caption (NeurIPS 2023; the released code)
        TextPool,
        /// For each image the nearest pooled caption, for each caption the nearest pooled image
        Both,
        /// For each caption the nearest pooled caption, for each image the nearest pooled image,
        /// which take each other's places (arXiv v1, as its abstract has it)
        Intra,
    }
}
choice! {
    /// What the last epoch is.
    LastEpoch {
        /// Own captions
        Plain,
        /// Retrieved captions
        Match,
    }
}
choice! {
    /// When the pool takes in batches.
    Enqueue {
        /// In all epochs
        EveryEpoch,
        /// In matched steps alone
        Matched,
    }
}
choice! {
    /// What the pool holds first.
    Fill {
        /// Captions of the epochs before the first match
        Captions,
        /// Noise of unit variance per number, which is compared by direction and returned as it is
        Gaussian,
    }
}
choice! {
    /// What becomes of a batch at the end of the pool.
    Wrap {
        /// It goes on at the start
        Continues,
        /// The rest of it is dropped
        Drops,
    }
}
choice! {
    /// What images are to each other that retrieve one caption.
    Duplicates {
        /// Left out of each other's softmax
        Masked,
        /// Positives: the target is spread over them
        Soft,
        /// Negatives
        Untreated,
    }
}
choice! {
    /// What becomes of the text tower in a matched step, where images have no gradient for it.
    TextTower {
        /// Nothing
        Rests,
        /// A gradient of zero: momentum and weight decay go on
        Drifts,
        /// Half of the loss pulls each caption to the pooled caption nearest to it
        Learns,
    }
}

impl Default for Roclip {
    fn default() -> Self {
        Self {
            retrieval: Retrieval::TextPool,
            pool_share: None,
            pool_rows: None,
            match_every_epochs: 2,
            match_chance: None,
            match_from_epoch: 2,
            match_from_agreement: None,
            last_epoch: None,
            enqueue: Enqueue::EveryEpoch,
            enqueue_every_batches: 1,
            fill: Fill::Captions,
            wrap: Wrap::Continues,
            own_rows: false,
            duplicates: Duplicates::Masked,
            text_tower: TextTower::Rests,
        }
    }
}

impl Roclip {
    /// What the released code does (`BigML-CS-UCLA/RoCLIP` at `f34a929`), as far as the method goes:
    /// `docs/roclip.md` has the list, and what is not followed. Its pool of 21,845 rows is a share
    /// of its million pairs here.
    pub fn as_published() -> Self {
        Self {
            pool_share: Some(0.021_845),
            enqueue: Enqueue::Matched,
            fill: Fill::Gaussian,
            wrap: Wrap::Drops,
            own_rows: true,
            duplicates: Duplicates::Untreated,
            text_tower: TextTower::Drifts,
            ..Self::default()
        }
    }

    /// As [`Roclip::as_published`], but for the keys of `given`; `None` if those are no settings. Its
    /// code matches the epochs whose number K divides, so that K is the first.
    pub(in crate::config) fn published_but(given: &toml::Table) -> Option<Self> {
        let mut table = toml::Table::try_from(Self::as_published()).ok()?;
        if let Some(every) = given.get("match_every_epochs") {
            table.insert("match_from_epoch".to_owned(), every.clone());
        }
        table.extend(given.clone());
        table.try_into().ok()
    }

    /// An epoch, of a run of `epochs` or the one after it, from which the matched ones are counted,
    /// if the last one is to be of some kind.
    pub(crate) fn anchor(&self, epochs: u32) -> Option<u32> {
        Some(match self.last_epoch? {
            LastEpoch::Match => epochs,
            LastEpoch::Plain => epochs.saturating_add(1),
        })
    }

    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let first = if self.fill == Fill::Gaussian { 1 } else { 2 };
        let is_long = epochs >= first;
        let limits = "at least 2 for RoCLIP: captions of the first fill the pool";
        problems.require(is_long || epochs == 0, "optim.epochs", limits);
        let mut require = |sound: bool, key: &str, limits: &str| {
            problems.require(sound, &format!("method.roclip.{key}"), limits);
        };
        let share = self.pool_share.is_none_or(|share| 0.0 < share && share <= 0.5); // false for NaN
        require(share, "pool_share", "above 0, at most 0.5");
        require(self.pool_rows.is_none_or(|rows| rows > 0), "pool_rows", "at least 1");
        require(self.match_every_epochs >= 1, "match_every_epochs", "at least 1");
        let chance = self.match_chance.is_none_or(|chance| 0.0 < chance && chance <= 1.0);
        require(chance, "match_chance", "above 0, at most 1");
        let from = (first..=epochs).contains(&self.match_from_epoch); // else nothing is ever matched
        let limits = format!("at least {first}, at most `optim.epochs`, which is {epochs}");
        require(from || !is_long, "match_from_epoch", &limits);
        let signal = self.match_from_agreement.is_none_or(|least| 0.0 < least && least < 1.0);
        require(signal, "match_from_agreement", "above 0, below 1");
        let signal = self.match_from_agreement.is_none() || self.fill == Fill::Captions;
        require(
            signal,
            "match_from_agreement",
            "left out where `fill` is `gaussian`: noise agrees \
                 with nothing",
        );
        let learns = self.text_tower != TextTower::Learns || self.retrieval == Retrieval::TextPool;
        require(learns, "text_tower", "`rests` or `drifts` unless `retrieval` is `text-pool`");
        let last = match self.last_epoch {
            None => true,
            Some(LastEpoch::Plain) => self.match_every_epochs > 1 && self.match_chance.is_none(),
            Some(LastEpoch::Match) => self.match_chance.is_none(),
        };
        let limits = "left out where `match_chance` is given or, for `plain`, all are matched";
        require(last, "last_epoch", limits);
        let every = self.match_every_epochs.max(1);
        let is_matched = |epoch: u32, anchor: u32| epoch.abs_diff(anchor).is_multiple_of(every);
        let some = self.anchor(epochs).is_none_or(|anchor| {
            (self.match_from_epoch..=epochs).any(|epoch| is_matched(epoch, anchor))
        });
        require(some || !from, "last_epoch", "such that some epoch is matched before it");
        require(self.enqueue_every_batches >= 1, "enqueue_every_batches", "at least 1");
        let enqueued = self.fill == Fill::Gaussian || self.enqueue == Enqueue::EveryEpoch;
        require(enqueued, "fill", "`gaussian` where `enqueue` is `matched`: nothing else fills it");
    }
}

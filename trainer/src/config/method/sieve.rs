//! `[method.sieve]`: the defence, and its ingredients, each of which can be exchanged.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// From so many pairs on, half of the model's epochs teach a believer and a scout enough.
const MANY_PAIRS: usize = 10_000;

/// `[method.sieve]`; `docs/sieve.md` has the formulae.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sieve {
    /// Epochs of a believer, towers that train on all pairs as they are, say which pictures are
    /// alike, and are given up; 0 for none. The first of the run
    pub believer_epochs: Option<u32>,
    /// Epochs of a scout that is asked in the model's place and then given up; 0 for none. They
    /// come before the `optim.epochs` of the model. Unless given, of these two each has half of the
    /// model's epochs, rounded up, or, of data with fewer than 10,000 pairs, as many; none with a
    /// pool
    pub scout_epochs: Option<u32>,
    /// First epoch that leaves out the pairs in doubt, counted from 1 after those of the believer:
    /// at least 2, when the towers know something, and at most `optim.epochs` or, with a scout, the
    /// first of the model
    pub from_epoch: u32,
    /// What pairs are compared with: `references` before each epoch, or the captions of a `pool` in
    /// each step, which needs no pass of its own
    pub score: Score,
    /// Augmented views of each image that are asked, 1 or 2: the lesser answer counts
    pub views: u32,
    /// Pairs with which each pair is compared, at least 2
    pub references: usize,
    /// Greatest share of the earlier scores in a pair's score, 0 to 1; at 1 it is the mean of all
    pub smoothing: f64,
    /// Which scores are in the lower group: those of a `mixture` of two, or all but the best that
    /// `kept_first` and `kept_last` let in (`share`)
    pub split: Split,
    /// Greatest share of the pairs that the first sieved epoch keeps, rounded down but for ties,
    /// 0.5 to 1. With a mixture and a believer it does not say who is in doubt by itself
    pub kept_first: f64,
    /// Greatest share of the pairs that the last epoch keeps, or, with a scout, the model, 0.5 to
    /// 1; between the two it changes evenly
    pub kept_last: f64,
    /// A picture that more than so many times as many pairs show as show 99% of the pictures at
    /// most is a crowd, and all these pairs are in doubt: at least 1; 0: none is
    pub crowd_factor: f64,
    /// A patch is taken for proven if a neighborhood's captions stand on one quarter of the picture
    /// more than so many times the distance of the quartiles of all pairs above the upper one: then
    /// the pairs that do so by more than 3 distances are in doubt, too. At least 1; 0: nobody
    /// looks, as without a believer or a scout
    pub keystone_ranges: f64,
    /// What becomes of the pairs in doubt: `left-out`; `recaptioned`, so that in the first half of
    /// its epochs (rounded down) the model learns the pictures with most neighbors in doubt, or
    /// with a patch, with captions that, to the scout, they say more than their own, and not the
    /// others; or `matched` with the captions of a pool. Unless given, with a believer and a scout
    /// `recaptioned`, else `left-out`
    pub doubted: Option<Fate>,
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
    /// Which scores are in the lower group.
    Split {
        /// Those of the lower group of a mixture of two
        Mixture,
        /// All but the best that may be kept
        Share,
    }
}
choice! {
    /// What becomes of the pairs in doubt.
    Fate {
        /// They are not trained on
        LeftOut,
        /// They are not trained on, but for pictures with most neighbors in doubt or with a patch,
        /// which the model learns for the first half of its epochs with other captions
        Recaptioned,
        /// Their images are pulled to the nearest pooled captions, as RoCLIP's are
        Matched,
    }
}

impl Default for Sieve {
    fn default() -> Self {
        Self {
            believer_epochs: None,
            scout_epochs: None,
            from_epoch: 2,
            score: Score::References,
            views: 2,
            references: 1024,
            smoothing: 1.0,
            split: Split::Mixture,
            kept_first: 1.0,
            kept_last: 1.0,
            crowd_factor: 3.0,
            keystone_ranges: 5.0,
            doubted: None,
        }
    }
}

impl Sieve {
    /// Whether there are captions of the last steps to compare or to match with.
    pub fn has_pool(&self) -> bool {
        self.score == Score::Pool || self.doubted == Some(Fate::Matched)
    }

    /// The parts of a run whose model has `epochs`; before [`Self::fill_in`], of one on many pairs.
    pub fn parts(&self, epochs: u32) -> Parts {
        let usual = self.usual_epochs(epochs, MANY_PAIRS);
        let believer = self.believer_epochs.unwrap_or(usual);
        let scout = self.scout_epochs.unwrap_or(usual);
        Parts { believer, scout, model: epochs }
    }

    /// Epochs of a believer, and of a scout, for a model that has `epochs` on so many `pairs`.
    fn usual_epochs(&self, epochs: u32, pairs: usize) -> u32 {
        match pairs {
            _ if self.has_pool() => 0,
            0..MANY_PAIRS => epochs,
            _ => epochs.div_ceil(2),
        }
    }

    /// What becomes of the pairs in doubt, if the model has `epochs`.
    pub fn fate(&self, epochs: u32) -> Fate {
        let Parts { believer, scout, .. } = self.parts(epochs);
        let usual = if believer.min(scout) > 0 { Fate::Recaptioned } else { Fate::LeftOut };
        self.doubted.unwrap_or(usual)
    }

    /// Writes out what depends on the `epochs` of the model and on how many `pairs` there are.
    pub(in crate::config) fn fill_in(&mut self, epochs: u32, pairs: usize) {
        let usual = self.usual_epochs(epochs, pairs);
        self.believer_epochs.get_or_insert(usual);
        self.scout_epochs.get_or_insert(usual);
        self.doubted = Some(self.fate(epochs));
    }

    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let parts = self.parts(epochs);
        let is_long = parts.scout > 0 || epochs > 1;
        let limits =
            "at least 2 for a `sieve` without a scout: the second is the first that is asked";
        problems.require(is_long || epochs == 0, "optim.epochs", limits);
        let mut require = |sound: bool, key: &str, limits: &str| {
            problems.require(sound, &format!("method.sieve.{key}"), limits);
        };
        for (epochs, key) in [(parts.believer, "believer_epochs"), (parts.scout, "scout_epochs")] {
            let limits = "0 where `score` is `pool` or `doubted` is `matched`";
            require(epochs == 0 || !self.has_pool(), key, limits);
        }
        let is_known = parts.believer.min(parts.scout) > 0;
        let limits = "`left-out` unless `believer_epochs` and `scout_epochs` are above 0";
        require(is_known || self.doubted != Some(Fate::Recaptioned), "doubted", limits);
        let sum = parts.believer.checked_add(parts.scout);
        let counts = sum.and_then(|sum| sum.checked_add(epochs)).is_some();
        let greater = if parts.believer > parts.scout { "believer_epochs" } else { "scout_epochs" };
        require(counts, greater, "less, so that the run has less than 2^32 epochs");
        let (most, limit) = match (parts.scout, self.scout_epochs) {
            (0, _) => (epochs, "`optim.epochs`".to_owned()),
            (scout, given) => {
                let most = scout.saturating_add(1);
                let half = if given.is_none() {
                    "; where that is not given, half of `optim.epochs` counts"
                } else {
                    ""
                };
                (most, format!("{most}, one more than `scout_epochs`{half}"))
            }
        };
        let from = (2..=most).contains(&self.from_epoch);
        require(from || !is_long, "from_epoch", &format!("at least 2, at most {limit}"));
        require((1..=2).contains(&self.views), "views", "1 or 2");
        require(self.references >= 2, "references", "at least 2");
        let smoothing = (0.0..=1.0).contains(&self.smoothing); // false for NaN
        require(smoothing, "smoothing", "between 0 and 1");
        for (share, key) in [(self.kept_first, "kept_first"), (self.kept_last, "kept_last")] {
            require((0.5..=1.0).contains(&share), key, "between 0.5 and 1");
        }
        for (factor, key) in
            [(self.crowd_factor, "crowd_factor"), (self.keystone_ranges, "keystone_ranges")]
        {
            let sound = factor == 0.0 || (factor >= 1.0 && factor.is_finite()); // false for NaN
            require(sound, key, "0, or at least 1");
        }
        let all = self.split == Split::Share && self.kept_first.min(self.kept_last) == 1.0;
        require(!all, "kept_first", "below 1, or `kept_last`, where `split` is `share`");
    }
}

/// The epochs of the towers of a run, which come one after the other and know nothing of each
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Epochs of the believer
    pub believer: u32,
    /// Epochs of the scout
    pub scout: u32,
    /// Epochs of the model
    pub model: u32,
}

impl Parts {
    /// Epochs before the model's.
    pub fn given_up(&self) -> u32 {
        self.believer.saturating_add(self.scout)
    }

    /// Epochs of the run.
    pub fn all(&self) -> u32 {
        self.given_up().saturating_add(self.model)
    }

    /// Of the epochs of the run, counted from 1, those of the part that `epoch` is in.
    pub fn of(&self, epoch: u32) -> RangeInclusive<u32> {
        let (scout, model) = (self.believer + 1, self.given_up() + 1);
        match epoch {
            epoch if epoch < scout => 1..=self.believer,
            epoch if epoch < model => scout..=self.given_up(),
            _ => model..=self.all(),
        }
    }

    /// The epoch before which pairs are asked for the last time: the first of the model after a
    /// scout, the last otherwise.
    pub fn verdict(&self) -> u32 {
        if self.scout > 0 { self.given_up() + 1 } else { self.all() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_is_of_one_part() {
        let check = |believer, scout, ranges: &[RangeInclusive<u32>], verdict| {
            let parts = Parts { believer, scout, model: 4 };
            let each = |range: &RangeInclusive<u32>| {
                let range = range.clone();
                range.clone().map(move |epoch| (epoch, range.clone()))
            };
            let found = (1..=parts.all()).map(|epoch| (epoch, parts.of(epoch)));
            assert!(found.eq(ranges.iter().flat_map(each)), "{parts:?}");
            assert_eq!(parts.verdict(), verdict, "{parts:?}");
        };
        check(0, 0, &[1..=4], 4);
        check(0, 2, &[1..=2, 3..=6], 3);
        check(3, 0, &[1..=3, 4..=7], 7);
        check(3, 2, &[1..=3, 4..=5, 6..=9], 6);
    }

    #[test]
    fn half_of_the_epochs_are_spent_on_each_before_the_model_or_all_if_pairs_are_few() {
        let parts = |sieve: &Sieve, epochs, pairs| {
            let mut sieve = sieve.clone();
            sieve.fill_in(epochs, pairs);
            let Parts { believer, scout, model } = sieve.parts(epochs);
            (believer, scout, model)
        };
        let given = Sieve { scout_epochs: Some(2), ..Default::default() };
        for (pairs, usual) in [(10_000, 5), (usize::MAX, 5), (9_999, 9), (2, 9)] {
            assert_eq!(parts(&Sieve::default(), 1, pairs), (1, 1, 1));
            assert_eq!(parts(&Sieve::default(), 9, pairs), (usual, usual, 9));
            assert_eq!(parts(&given, 9, pairs), (usual, 2, 9));
            for sieve in [
                Sieve { score: Score::Pool, ..Default::default() },
                Sieve { doubted: Some(Fate::Matched), ..Default::default() },
            ] {
                assert_eq!(parts(&sieve, 9, pairs), (0, 0, 9));
            }
        }
    }

    #[test]
    fn other_captions_need_both_that_are_given_up() {
        let fate = |believer, scout, doubted| {
            let (believer_epochs, scout_epochs) = (Some(believer), Some(scout));
            let mut sieve = Sieve { believer_epochs, scout_epochs, doubted, ..Default::default() };
            let fate = sieve.fate(8);
            sieve.fill_in(8, 2);
            assert_eq!(sieve.doubted, Some(fate));
            fate
        };
        assert_eq!(fate(4, 4, None), Fate::Recaptioned);
        assert_eq!(fate(4, 4, Some(Fate::LeftOut)), Fate::LeftOut);
        assert_eq!([fate(0, 4, None), fate(4, 0, None), fate(0, 0, None)], [Fate::LeftOut; 3]);
        assert_eq!(Sieve::default().fate(8), Fate::Recaptioned);
        assert_eq!(Sieve { score: Score::Pool, ..Default::default() }.fate(8), Fate::LeftOut);
    }
}

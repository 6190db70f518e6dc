//! Which steps are matched.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::Phase;
use crate::config;

/// Random streams of the steps that are matched by chance, beside all others.
const CHANCE: u64 = 3 << 62;

/// When to match; epochs count from 1.
#[derive(Debug)]
pub(super) struct Phases {
    every: u32,
    chance: Option<f64>,
    /// The matched epochs are those that are apart from it by a multiple of `every`; unless given,
    /// from the first one.
    anchor: Option<u32>,
    seed: u64,
}

impl Phases {
    /// For a run of `epochs`; `seed` draws what is left to chance.
    pub(super) fn new(settings: &config::Roclip, epochs: u32, seed: u64) -> Self {
        let (every, chance) = (settings.match_every_epochs, settings.match_chance);
        Self { every, chance, anchor: settings.anchor(epochs), seed }
    }

    /// The phase of an update: `step` were done before it, and no epoch before `from` is matched.
    pub(super) fn at(&self, epoch: u32, step: u64, from: u32) -> Phase {
        if epoch < from {
            return Phase::Warmup;
        }
        let is_match = match self.chance {
            None => epoch.abs_diff(self.anchor.unwrap_or(from)).is_multiple_of(self.every),
            Some(chance) => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(CHANCE | step);
                rng.random_bool(chance)
            }
        };
        if is_match { Phase::Match } else { Phase::Plain }
    }

    /// Whether any step is to be matched in a run of `epochs` that may be from `from` on.
    pub(super) fn some(&self, from: u32, epochs: u32) -> bool {
        let mut allowed = from..=epochs;
        match self.chance {
            Some(_) => !allowed.is_empty(),
            None => allowed.any(|epoch| self.at(epoch, 0, from) == Phase::Match),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LastEpoch;

    fn phases(settings: config::Roclip, epochs: u32) -> String {
        let phases = Phases::new(&settings, epochs, 1);
        let letter = |epoch| match phases.at(epoch, 0, settings.match_from_epoch) {
            Phase::Warmup => 'w',
            Phase::Match => 'm',
            _ => 'p',
        };
        (1..=epochs).map(letter).collect()
    }

    #[test]
    fn matching_starts_late_and_comes_every_kth_epoch() {
        let settings = |match_from_epoch, match_every_epochs, last_epoch| config::Roclip {
            match_from_epoch,
            match_every_epochs,
            last_epoch,
            ..Default::default()
        };
        assert_eq!(phases(settings(4, 2, None), 7), "wwwmpmp");
        assert_eq!(phases(settings(4, 1, None), 6), "wwwmmm");
        assert_eq!(phases(settings(1, 3, None), 7), "mppmppm");
        assert_eq!(phases(settings(4, 2, Some(LastEpoch::Match)), 7), "wwwpmpm");
        assert_eq!(phases(settings(4, 2, Some(LastEpoch::Plain)), 7), "wwwmpmp");
        assert_eq!(phases(settings(2, 3, Some(LastEpoch::Plain)), 7), "wmppmpp");
    }

    #[test]
    fn a_later_start_is_where_matching_begins() {
        let settings = config::Roclip { match_every_epochs: 8, ..Default::default() };
        let phases = Phases::new(&settings, 20, 1);
        let matched: Vec<u32> = (1..=20).filter(|&e| phases.at(e, 0, 4) == Phase::Match).collect();
        assert_eq!(matched, [4, 12, 20]);
        assert!(phases.some(20, 20) && !phases.some(21, 20));
        let last_epoch = Some(LastEpoch::Plain);
        let settings = config::Roclip { last_epoch, ..Default::default() };
        let phases = Phases::new(&settings, 20, 1);
        assert!(phases.some(19, 20) && !phases.some(20, 20));
    }

    #[test]
    fn of_steps_by_chance_that_share_is_matched_whatever_was_asked_before() {
        let settings = config::Roclip { match_chance: Some(0.3), ..Default::default() };
        let phases = Phases::new(&settings, 9, 7);
        let all: Vec<bool> = (0..2000).map(|step| phases.at(2, step, 2) == Phase::Match).collect();
        let matched = all.iter().filter(|one| **one).count();
        assert!((540..660).contains(&matched), "{matched}");
        assert_eq!(all[1234], phases.at(3, 1234, 2) == Phase::Match);
        assert_eq!(phases.at(1, 5, 2), Phase::Warmup);
    }
}

//! A sequential test: does a trigger flip more images to its label than its control to its own?
//!
//! Each image gives the trigger a flip or none and the control a flip or none; D is their
//! difference, -1, 0 or 1. Under "the trigger is no better than its control", E = prod (1 + b D)
//! with a bet b in [0, 1) that looks only at earlier images has a mean of at most 1, so E >= 1/a
//! happens with probability at most a whenever one chooses to stop (Ville's inequality). Nothing
//! has to be known about how often clean images flip.

use clip::Rate;

/// Greatest bet: a single lost one leaves a twentieth.
const BET_MAX: f64 = 0.95;

/// Evidence on one trigger so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Race {
    /// Flips to the trigger's label, of the images not already of it.
    pub trigger: Rate,
    /// Flips of the control to its own label, of the images not already of that.
    pub control: Rate,
    /// Images of which both flips are known.
    pub deciding: usize,
    /// ln E.
    pub log_e: f64,
    wins: f64,
    losses: f64,
}

impl Race {
    /// One image more. `None`: already of the label, or not answered.
    pub fn observe(&mut self, trigger: Option<bool>, control: Option<bool>) {
        if let Some(hit) = trigger {
            self.trigger.count(hit);
        }
        if let Some(hit) = control {
            self.control.count(hit);
        }
        let (Some(trigger), Some(control)) = (trigger, control) else { return };
        self.deciding += 1;
        let bet = self.bet();
        match (trigger, control) {
            (true, false) => {
                self.log_e += bet.ln_1p();
                self.wins += 1.0;
            }
            (false, true) => {
                self.log_e += (-bet).ln_1p();
                self.losses += 1.0;
            }
            _ => (),
        }
    }

    /// Kelly's bet at the shares of wins and losses so far, half an image of each family assumed.
    fn bet(&self) -> f64 {
        ((self.wins - self.losses + 1.0) / (self.wins + self.losses + 2.0)).clamp(0.0, BET_MAX)
    }
}

/// Which of `log_e` are rejected by e-BH at level `alpha` (Wang and Ramdas 2022): the k largest,
/// for the greatest k whose k-th largest E is at least `count / (alpha k)`.
///
/// `count` is the number of all hypotheses, those that were dropped early included. When all are
/// true, the chance of any rejection is at most `alpha`, whatever the dependence.
pub fn e_bh(log_e: &[f64], count: usize, alpha: f64) -> Vec<bool> {
    let mut sorted = log_e.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let bar = |k: usize| (count as f64 / (alpha * k as f64)).ln();
    let least = (1..=sorted.len()).rev().find(|&k| sorted[k - 1] >= bar(k)).map(|k| sorted[k - 1]);
    log_e.iter().map(|value| least.is_some_and(|least| *value >= least)).collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn race(rng: &mut ChaCha8Rng, images: usize, trigger: f64, control: f64) -> Race {
        let mut race = Race::default();
        for _ in 0..images {
            race.observe(Some(rng.random_bool(trigger)), Some(rng.random_bool(control)));
        }
        race
    }

    #[test]
    fn a_null_trigger_rarely_reaches_the_bar_at_any_time() {
        let (mut rng, alpha, runs) = (ChaCha8Rng::seed_from_u64(1), 0.05, 4000);
        for share in [0.02, 0.3, 0.9] {
            let crossed = (0..runs).filter(|_| {
                let mut race = Race::default();
                (0..200).any(|_| {
                    race.observe(Some(rng.random_bool(share)), Some(rng.random_bool(share)));
                    race.log_e >= -f64::ln(alpha)
                })
            });
            let crossed = crossed.count() as f64 / f64::from(runs);
            assert!(crossed <= alpha, "{share}: {crossed}");
        }
    }

    #[test]
    fn a_working_trigger_is_confirmed_on_few_images() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let bar = f64::ln(96.0 / 0.01);
        assert!(race(&mut rng, 30, 0.98, 0.02).log_e > bar);
        assert!(race(&mut rng, 120, 0.5, 0.1).log_e > bar);
        assert!(race(&mut rng, 150, 0.98, 0.6).log_e > bar);
        assert!(race(&mut rng, 150, 0.3, 0.3).log_e < bar);
    }

    #[test]
    fn images_of_the_label_count_neither_way() {
        let mut race = Race::default();
        race.observe(None, Some(true));
        race.observe(Some(true), None);
        assert_eq!((race.log_e, race.trigger.trials, race.control.trials), (0.0, 1, 1));
        race.observe(Some(true), Some(true));
        assert_eq!(race.log_e, 0.0);
        race.observe(Some(true), Some(false));
        assert!((race.log_e - 1.5f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn e_bh_rejects_more_where_much_is_true() {
        let ln = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
        assert_eq!(e_bh(&ln(&[2000.0, 1.0]), 100, 0.05), [true, false]);
        assert_eq!(e_bh(&ln(&[1900.0, 1.0]), 100, 0.05), [false, false]);
        assert_eq!(e_bh(&ln(&[1100.0, 1.0, 1100.0]), 100, 0.05), [true, false, true]);
        assert!(e_bh(&[], 100, 0.05).is_empty());
    }
}

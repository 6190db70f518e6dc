//! The sieve: before each epoch every pair is asked how well it agrees, and the pairs in doubt stay
//! out of that epoch. Ours; SafeCLIP (Yang et al., ICML 2024, section 4) splits pairs by a mixture,
//! too. `docs/sieve.md` has the definition, and what was measured.

use std::sync::Arc;

use candle_core::Tensor;
use clip::ops::{PairRows, agreement, info_nce};
use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Towers};
use crate::{
    augment::View,
    config,
    doubted::Doubted,
    error::Result,
    mixture::Mixture,
    state::State,
    survey::{Embedded, Survey},
};

/// Chance of belonging to the upper group above which a pair is kept.
const KEPT: f64 = 0.5;
/// Random streams of the references, beside those of order and augmentation.
const REFERENCES: u64 = 1 << 63;
/// Share of the pairs that may be doubted: who poisons most of the data has won.
const DOUBTED_MAX: f64 = 0.5;

/// What each pair scored, and which are trained on.
#[derive(Debug)]
pub struct Sieve {
    settings: config::Sieve,
    /// Pairs of the data set.
    count: usize,
    seed: u64,
    /// Smoothed agreement of each pair, in nats; empty before the first survey.
    agreement: Vec<f32>,
    /// Data-set rows, once the first survey is done.
    kept: Option<Arc<[u32]>>,
}

impl Sieve {
    /// For a data set of `count` pairs; `seed` draws the references.
    pub fn new(settings: &config::Sieve, count: usize, seed: u64) -> Self {
        Self { settings: settings.clone(), count, seed, agreement: Vec::new(), kept: None }
    }

    /// How well each pair agrees now, in nats; of two views of its image the lesser answer counts.
    /// In the order of the data set.
    fn ask(&self, epoch: u32, survey: &mut Survey<'_>) -> Result<Vec<f32>> {
        let references = self.references(epoch, survey)?;
        let (rows, scale) = (survey.rows(), survey.logit_scale());
        let mut answers = Vec::with_capacity(rows.len());
        for batch in survey.batches(rows) {
            let pairs = survey.pairs(&batch)?;
            let mut answer = agreement(&pairs.pairs(), &references.pairs(), scale);
            if self.settings.views > 1 && survey.varies() {
                let image = &survey.images(&batch, View::Second)?;
                let second = PairRows { image, ..pairs.pairs() };
                let second = agreement(&second, &references.pairs(), scale);
                answer
                    .iter_mut()
                    .zip(second)
                    .for_each(|(first, second)| *first = first.min(second));
            }
            answers.extend(batch.into_iter().zip(answer));
        }
        answers.sort_unstable_by_key(|&(row, _)| row); // the data set is in this order
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Pairs drawn by (seed, epoch), with which all others are compared.
    fn references(&self, epoch: u32, survey: &mut Survey<'_>) -> Result<Embedded> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(REFERENCES | u64::from(epoch));
        let (rows, count) = (survey.rows(), self.settings.references.min(survey.rows().len()));
        let sample = index::sample(&mut rng, rows.len(), count);
        let sample: Vec<u32> = sample.into_iter().map(|at| rows[at]).collect();
        let mut batches = survey.batches(&sample).into_iter();
        let mut all = survey.pairs(&batches.next().expect("a data set has a batch at least"))?;
        batches.try_for_each(|batch| survey.pairs(&batch).map(|pairs| all.extend(pairs)))?;
        Ok(all)
    }

    /// Smooths over epochs: a pair that was doubted by mistake comes back.
    fn remember(&mut self, fresh: Vec<f32>) {
        if self.agreement.is_empty() {
            self.agreement = fresh;
            return;
        }
        let smoothing = self.settings.smoothing as f32;
        for (old, new) in self.agreement.iter_mut().zip(fresh) {
            *old = smoothing * *old + (1.0 - smoothing) * new;
        }
    }
}

impl Method for Sieve {
    fn begin_epoch(&mut self, epoch: u32, survey: &mut Survey<'_>) -> Result<()> {
        if epoch >= self.settings.from_epoch {
            let fresh = self.ask(epoch, survey)?;
            self.remember(fresh);
            let kept = kept(&self.agreement).into_iter().map(|pair| survey.rows()[pair]);
            self.kept = Some(kept.collect());
        }
        Ok(())
    }

    fn selected(&self) -> Option<Arc<[u32]>> {
        self.kept.clone()
    }

    fn doubted(&self, rows: &[u32]) -> Option<Vec<Doubted>> {
        let kept = self.kept.as_ref()?; // in the order of the data set, as the scores are
        let all = rows.iter().zip(&self.agreement);
        let doubted = all.filter(|(row, _)| kept.binary_search(row).is_err());
        Some(doubted.map(|(&row, &agreement)| Doubted { row, agreement }).collect())
    }

    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let phase = if self.kept.is_some() { Phase::Sieve } else { Phase::Warmup };
        let kept = self.kept.as_ref().map(|kept| kept.len());
        Ok(MethodLoss {
            loss: info_nce(&pairs.image, &pairs.text, logit_scale, None)?,
            trained: Towers::BOTH,
            report: MethodReport { kept, ..MethodReport::new(phase) },
        })
    }

    fn state(&self) -> Result<State> {
        let mut state = State::default();
        if let Some(kept) = &self.kept {
            state.floats(AGREEMENT, &[self.agreement.len()], self.agreement.clone());
            state.numbers(KEPT_ROWS, kept.to_vec());
        }
        Ok(state)
    }

    fn restore(&mut self, mut state: State) -> bool {
        let (agreement, kept) = (state.take_floats(AGREEMENT), state.take_numbers(KEPT_ROWS));
        match (agreement, kept) {
            (None, None) => {}
            (Some(agreement), Some(kept)) => {
                let scored = agreement.values.len() == self.count;
                if !scored || kept.is_empty() || !kept.is_sorted_by(|a, b| a < b) {
                    return false;
                }
                (self.agreement, self.kept) = (agreement.values, Some(kept.into()));
            }
            _ => return false,
        }
        state.is_empty()
    }
}

const AGREEMENT: &str = "sieve/agreement";
const KEPT_ROWS: &str = "sieve/kept";

/// Pairs of the upper of two groups of agreement; of too many in doubt the better ones. Of clean data
/// the lower group is the tail: the mixture always has two groups, unless all scores are equal.
fn kept(agreement: &[f32]) -> Vec<usize> {
    let Some(mixture) = Mixture::fit(agreement) else { return (0..agreement.len()).collect() };
    let mut sorted = agreement.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let spared = sorted[(DOUBTED_MAX * sorted.len() as f64) as usize]; // the median and above
    let trusted = |one: f32| one >= spared || mixture.upper(f64::from(one)) > KEPT;
    (0..agreement.len()).filter(|&pair| trusted(agreement[pair])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_groups_is_in_doubt() {
        let agreement: Vec<f32> = (0..100)
            .map(|at| if at % 10 == 3 { -9.0 } else { -2.0 } + (at % 7) as f32 * 0.1)
            .collect();
        let kept = kept(&agreement);
        assert_eq!(kept.len(), 90);
        assert!(kept.iter().all(|at| at % 10 != 3));
    }

    #[test]
    fn at_most_half_is_in_doubt_and_what_is_alike_is_kept() {
        let agreement: Vec<f32> = (0..100)
            .map(|at| if at % 10 == 3 { -2.0 } else { -9.0 } + (at % 7) as f32 * 0.1)
            .collect();
        assert!(kept(&agreement).len() >= 50);
        assert_eq!(kept(&[-1.0; 5]).len(), 5);
    }

    #[test]
    fn scores_are_smoothed_and_come_back_from_a_checkpoint() -> Result<()> {
        let settings = config::Sieve { smoothing: 0.5, ..Default::default() };
        let mut sieve = Sieve::new(&settings, 2, 1);
        assert!(sieve.state()?.is_empty());
        sieve.remember(vec![-4.0, -2.0]);
        sieve.remember(vec![-2.0, -2.0]);
        sieve.kept = Some([7].into());
        let mut other = Sieve::new(&settings, 2, 1);
        assert!(other.restore(sieve.state()?));
        assert_eq!(other.agreement, [-3.0, -2.0]);
        assert_eq!(other.selected(), Some([7].into()));
        let doubted = sieve.doubted(&[2, 7]);
        assert_eq!(doubted, Some(vec![Doubted { row: 2, agreement: -3.0 }]));
        let mut half = sieve.state()?;
        half.take_numbers(KEPT_ROWS);
        assert!(!other.restore(half));
        assert!(!Sieve::new(&settings, 3, 1).restore(sieve.state()?), "scores of other data");
        Ok(())
    }
}

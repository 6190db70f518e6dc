//! Which pairs are kept, by their scores.

use crate::{config::Split, method::mixture::Mixture};

/// Chance of belonging to the upper group above which a pair is kept.
const KEPT: f64 = 0.5;
/// Share of the pairs that may be doubted: who poisons most of the data has won.
const DOUBTED_MAX: f64 = 0.5;

/// The numbers of the pairs that are kept, in rising order: of the best `share` of all, those that
/// `split` trusts, and the better half whatever it says. Of clean data the lower group is the tail:
/// a mixture always has two groups, unless all scores are equal. A pair without a score (no number)
/// is kept: nobody has asked it.
pub(super) fn kept(scores: &[f32], split: Split, share: f64) -> Vec<usize> {
    let mut known: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    known.sort_unstable_by(f32::total_cmp);
    let Some(last) = known.len().checked_sub(1) else { return (0..scores.len()).collect() };
    let below = |share: f64| known[((share * known.len() as f64) as usize).min(last)];
    let (least, spared) = (below(1.0 - share), below(DOUBTED_MAX));
    let mixture = match split {
        Split::Mixture => Mixture::fit(&known),
        Split::Share => None,
    };
    let is_upper = |score: f32| mixture.is_none_or(|fit| fit.upper(f64::from(score)) > KEPT);
    let is_kept =
        |score: f32| score.is_nan() || score >= spared || (score >= least && is_upper(score));
    (0..scores.len()).filter(|&pair| is_kept(scores[pair])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 100 scores those at 3, 13, ... are far from the others.
    fn scores(apart: f32, others: f32) -> Vec<f32> {
        let score = |at: usize| if at % 10 == 3 { apart } else { others } + (at % 7) as f32 * 0.1;
        (0..100).map(score).collect()
    }

    #[test]
    fn the_lower_of_two_groups_is_in_doubt() {
        let kept = kept(&scores(-9.0, -2.0), Split::Mixture, 1.0);
        assert_eq!(kept.len(), 90);
        assert!(kept.iter().all(|at| at % 10 != 3));
    }

    #[test]
    fn at_most_half_is_in_doubt_and_what_is_alike_is_kept() {
        assert!(kept(&scores(-2.0, -9.0), Split::Mixture, 1.0).len() >= 50);
        assert_eq!(kept(&[-1.0; 5], Split::Mixture, 1.0).len(), 5);
        assert_eq!(kept(&[-1.0; 5], Split::Share, 0.5).len(), 5);
    }

    #[test]
    fn a_share_of_the_best_is_the_most_that_is_kept() {
        let scores: Vec<f32> = (0..100).map(|at| at as f32).collect();
        assert_eq!(kept(&scores, Split::Share, 0.7), (30..100).collect::<Vec<_>>());
        assert_eq!(kept(&scores, Split::Share, 0.5), (50..100).collect::<Vec<_>>());
        assert_eq!(kept(&scores, Split::Share, 1.0).len(), 100);
        assert_eq!(kept(&self::scores(-9.0, -2.0), Split::Mixture, 0.95).len(), 90);
        assert_eq!(kept(&[1.0, f32::NAN, 2.0], Split::Share, 0.5), [1, 2]);
        assert_eq!(kept(&[f32::NAN; 3], Split::Mixture, 1.0), [0, 1, 2]);
    }
}

//! Which pairs are kept, by their scores.

use super::neighbors::Neighbors;
use crate::{config::Split, method::mixture::Mixture};

/// Chance of belonging to the upper group above which a pair is kept.
const KEPT: f64 = 0.5;
/// Share of the pairs that a split may doubt: who poisons most of the data has won.
const DOUBTED_MAX: f64 = 0.5;
/// Share of the pairs that may be in doubt by their own scores if these are to count by themselves.
const TAIL_MAX: f64 = 0.15;
/// Share of the neighbors in doubt above which a pair is, whatever it says itself.
const COMPANY_MAX: f32 = 0.3;

/// The numbers of the pairs that are kept, in rising order: of the best `share` by the sum of their
/// score and their neighbors' mean those that are kept by that sum and by their score alone, the
/// better half, and those whose sum is at least that of two who agree by `chance`, a score, unless
/// they are in doubt by their own score, as one of few ([`TAIL_MAX`]), and agree less than that; but
/// none in bad company, with more neighbors than [`COMPANY_MAX`] that are in doubt by their own
/// scores.
/// The half of them in the better company is kept whatever that says. With them, the share of each
/// pair's neighbors that are in doubt so.
pub(super) fn kept_in_company(
    scores: &[f32],
    neighbors: &Neighbors,
    chance: f32,
    split: Split,
    share: f64,
) -> (Vec<usize>, Vec<f32>) {
    let mut in_doubt = vec![1.0; scores.len()];
    kept(scores, split, share).into_iter().for_each(|pair| in_doubt[pair] = 0.0);
    let company = neighbors.mean(&in_doubt);
    let near = neighbors.mean(scores);
    let together: Vec<f32> = scores.iter().zip(near).map(|(own, near)| own + near).collect();
    let is_one_of = |kept: Vec<usize>| move |pair: &usize| kept.binary_search(pair).is_ok();
    let by_sum = is_one_of(kept(&together, split, share));
    let better_half = is_one_of(kept(&together, Split::Share, 1.0 - DOUBTED_MAX));
    // Where the lower group is no tail, the towers do not know enough to contradict a caption.
    let is_tail = f64::from(in_doubt.iter().sum::<f32>()) <= TAIL_MAX * scores.len() as f64;
    let contradicts = |pair: usize| is_tail && in_doubt[pair] > 0.0 && scores[pair] < chance;
    let is_spared =
        |pair: usize| better_half(&pair) || (together[pair] >= 2.0 * chance && !contradicts(pair));
    let mut kept = kept(&together, Split::Share, share);
    kept.retain(|&pair| is_spared(pair) || (in_doubt[pair] == 0.0 && by_sum(&pair)));
    let mut shares: Vec<f32> = kept.iter().map(|&pair| company[pair]).collect();
    shares.sort_unstable_by(f32::total_cmp);
    let middle = shares.get(shares.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    kept.retain(|&pair| company[pair] <= middle.max(COMPANY_MAX));
    (kept, company)
}

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

    /// Each pair's neighbors are the three after it.
    fn ring(count: usize) -> Neighbors {
        let places = (0..count).flat_map(|at| [1, 2, 3].map(|next| ((at + next) % count) as u32));
        Neighbors::restore(places.collect(), count).expect("of so many pairs")
    }

    #[test]
    fn who_keeps_bad_company_is_in_doubt_and_who_keeps_good_company_may_err() {
        let mut scores = vec![-2.0; 100];
        (0..100).for_each(|at| scores[at] += (at % 7) as f32 * 0.1);
        (40..50).for_each(|at| scores[at] = -9.0); // a crowd in doubt,
        scores[45] = -1.0; // one of which agrees,
        scores[80] = -6.0; // and one that is alone
        let in_doubt = |chance| -> Vec<usize> {
            let (kept, _) = kept_in_company(&scores, &ring(100), chance, Split::Mixture, 1.0);
            (0..100).filter(|pair| !kept.contains(pair)).collect()
        };
        // A third of the neighbors is too much: of those before the crowd and before the lonely one.
        let crowd = 37..50;
        let strict: Vec<usize> = crowd.clone().chain(77..81).collect();
        assert_eq!(in_doubt(f32::INFINITY), strict);
        assert_eq!(in_doubt(-4.5), strict, "the lonely one agrees worse than by chance");
        let spared: Vec<usize> = crowd.chain(77..80).collect();
        assert_eq!(in_doubt(-6.5), spared);
    }

    /// However bad all company is, a quarter is left to be trained on.
    #[test]
    fn company_never_leaves_nobody() {
        let scores = [-9.0, -1.0, -1.0];
        let all = Neighbors::restore(vec![1, 2, 0, 2, 0, 1], 3).expect("of three pairs");
        let (kept, _) = kept_in_company(&scores, &all, -4.0, Split::Mixture, 1.0);
        assert_eq!(kept, [1, 2]);
        for seed in 1..60u64 {
            let mix = |at: u64| (at * 7919 + seed * 104_729).wrapping_mul(2_654_435_761) >> 7;
            let scores: Vec<f32> = (0..40).map(|at| -((mix(at) % 1000) as f32) / 100.0).collect();
            let places = (0..40)
                .flat_map(|at| (0..8).map(move |near| (mix(41 + 8 * at + near) % 40) as u32));
            let strangers = Neighbors::restore(places.collect(), 40).expect("of forty pairs");
            let (kept, _) = kept_in_company(&scores, &strangers, -20.0, Split::Mixture, 1.0);
            assert!(kept.len() >= 10, "{seed}: {kept:?}");
        }
    }
}

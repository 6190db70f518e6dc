//! Which pairs are kept, by their scores.

use super::neighbors::Neighbors;
use crate::{config::Split, method::mixture::Mixture};

/// Chance of belonging to the upper group above which a score is of that group.
const UPPER_MIN: f64 = 0.5;
/// Share of the pairs that a split may doubt: who poisons most of the data has won.
const DOUBTED_MAX: f64 = 0.5;
/// Share of the pairs in the lower group up to which it is a tail, and a pair of it may count by
/// itself.
const TAIL_MAX: f64 = 0.15;
/// Share of the neighbors in doubt by themselves, or patched, above which company is bad.
pub(super) const BAD_COMPANY: f32 = 0.3;
/// Share of the neighbors in doubt by themselves above which company is the worst: the picture is
/// likely to bear what makes them alike, and is learned with other captions.
pub(super) const WORST_COMPANY: f32 = 0.5;
/// What a product with a share such as 0.9 may be off from the whole number that is meant.
const ROUNDING: f64 = 1e-6;

/// The numbers of the pairs that are kept, in rising order, and of each pair the share of its
/// neighbors that are in doubt by themselves. With S a score, N the mean of the neighbors' and c
/// the `chance`, those are kept that are not in doubt:
///
/// ```text
/// sum         = S + N
/// lower_S     = S is in the lower group of all S        (in doubt by itself)
/// lower_sum   = sum is in the lower group of all sums
/// better_half = sum is in the better half of all sums
/// tail        = lower_S holds of at most 15% of the pairs
/// bad_company = lower_S holds of more than 0.3 of the neighbors
/// doubt       = bad_company
///               or (not better_half and (lower_S or lower_sum)
///                   and (sum < 2c or (tail and lower_S and S < c)))
/// ```
///
/// If more than half of the pairs that pass all else are in bad company, the better half of them by
/// company is kept. Of all pairs at most the best `share` by sum is kept; the lower groups of a
/// mixture do not depend on it, and without one they are all but the best `share`.
pub(super) fn kept_in_company(
    scores: &[f32],
    neighbors: &Neighbors,
    chance: f32,
    split: Split,
    share: f64,
) -> (Vec<usize>, Vec<f32>) {
    let trusted = match split {
        Split::Mixture => 1.0,
        Split::Share => share,
    };
    let near = neighbors.mean(scores);
    let sums: Vec<f32> = scores.iter().zip(near).map(|(own, near)| own + near).collect();
    let lower_score = left_out(scores, split, trusted);
    let lower_sum = left_out(&sums, split, trusted);
    let worse_half = left_out(&sums, Split::Share, 1.0 - DOUBTED_MAX);
    // Where the lower group is no tail, the towers do not know enough to contradict a caption.
    let lower = lower_score.iter().filter(|&&is_lower| is_lower).count();
    let is_tail = lower as f64 <= TAIL_MAX * scores.len() as f64;
    let contradicts = |pair: usize| is_tail && lower_score[pair] && scores[pair] < chance;
    let is_in_doubt = |pair: usize| {
        worse_half[pair]
            && (lower_score[pair] || lower_sum[pair])
            && (sums[pair] < 2.0 * chance || contradicts(pair))
    };
    let mut kept = kept(&sums, Split::Share, share);
    kept.retain(|&pair| !is_in_doubt(pair));

    let company = neighbors.mean(&lower_score.into_iter().map(f32::from).collect::<Vec<_>>());
    let mut shares: Vec<f32> = kept.iter().map(|&pair| company[pair]).collect();
    shares.sort_unstable_by(f32::total_cmp);
    let middle = shares.get(shares.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    kept.retain(|&pair| company[pair] <= middle.max(BAD_COMPANY));
    (kept, company)
}

/// Of each number whether it is not [`kept`].
fn left_out(scores: &[f32], split: Split, share: f64) -> Vec<bool> {
    let mut left_out = vec![true; scores.len()];
    kept(scores, split, share).into_iter().for_each(|pair| left_out[pair] = false);
    left_out
}

/// The numbers of the pairs that are kept, in rising order: of the best `share` of all, rounded
/// down but for ties, those that `split` trusts, and the better half, rounded up, whatever it says.
/// Of clean data the lower group is the tail: a mixture always has two groups, unless all scores
/// are equal. A pair without a score (no number) is kept: nobody has asked it.
pub(super) fn kept(scores: &[f32], split: Split, share: f64) -> Vec<usize> {
    let mut known: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    known.sort_unstable_by(f32::total_cmp);
    let Some(last) = known.len().checked_sub(1) else { return (0..scores.len()).collect() };
    let above = |left_out: usize| known[left_out.min(last)];
    let count = known.len() as f64;
    let least = above(((1.0 - share) * count - ROUNDING).ceil() as usize);
    let spared = above((DOUBTED_MAX * count) as usize);
    let mixture = match split {
        Split::Mixture => Mixture::fit(&known),
        Split::Share => None,
    };
    let is_upper = |score: f32| mixture.is_none_or(|fit| fit.upper(f64::from(score)) > UPPER_MIN);
    let is_kept =
        |score: f32| score.is_nan() || score >= spared || (score >= least && is_upper(score));
    (0..scores.len()).filter(|&pair| is_kept(scores[pair])).collect()
}

#[cfg(test)]
mod tests;

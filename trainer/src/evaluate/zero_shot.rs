//! Rank of a class for a picture.

use clip::{Rate, UnitRows, embedding::cosine};
use rayon::prelude::*;

/// Rank of class `class(i)` for each picture i, see [`rank`].
pub(super) fn ranks(
    pictures: &UnitRows,
    labels: &UnitRows,
    class: impl Fn(usize) -> usize + Sync,
) -> Vec<usize> {
    let rank = |picture| rank(pictures.row(picture), labels, class(picture));
    (0..pictures.count()).into_par_iter().map(rank).collect()
}

/// How many ranks are among the first `k`.
pub(super) fn top(ranks: &[usize], k: usize) -> Rate {
    Rate::of(ranks.iter().map(|&rank| rank < k))
}

/// How many classes are nearer to the picture than `class`; of equals, the first is nearer. Rank 0
/// is what the picture is taken for; a class is in the top k if its rank is below k.
fn rank(picture: &[f32], labels: &UnitRows, class: usize) -> usize {
    let own = cosine(picture, labels.row(class));
    let nearer = |(other, row): (usize, &[f32])| {
        let theirs = cosine(picture, row);
        theirs > own || (theirs == own && other < class)
    };
    labels.rows().enumerate().filter(|&pair| nearer(pair)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_zero_is_the_nearest_and_ties_go_to_the_first() {
        let labels = UnitRows::normalize(vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2);
        let ranks = |picture: [f32; 2]| [0, 1, 2].map(|class| rank(&picture, &labels, class));
        assert_eq!(ranks([1.0, 0.1]), [0, 2, 1]);
        assert_eq!(ranks([0.1, 1.0]), [1, 0, 2]);
        assert_eq!(ranks([0.0, 0.0]), [0, 1, 2]);
    }

    #[test]
    fn rank_zero_is_what_clip_calls_best() {
        let labels = UnitRows::normalize((0..40).map(|i| (i as f32 * 1.7).sin()).collect(), 4);
        let picture = [0.3, -0.2, 0.9, 0.1];
        let best = clip::zero_shot::best(&picture, &labels);
        assert_eq!(rank(&picture, &labels, best), 0);
    }
}

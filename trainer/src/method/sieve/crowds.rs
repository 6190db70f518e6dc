//! Pictures that come far more often than others: one picture with many captions is what a targeted
//! poison is, and who trains on it knows it by heart.

use std::collections::HashMap;

/// Share of the pictures, each counted once, whose number of copies is usual.
const USUAL: f64 = 0.99;

/// Whether each pair is in a crowd: more than `factor` times as many pairs show its picture, which
/// has this number, as show 99% of the pictures at most. 0 for `factor`: none is.
pub(super) fn crowds(pictures: &[u32], factor: f64) -> Vec<bool> {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    pictures.iter().for_each(|&picture| *counts.entry(picture).or_default() += 1);
    let mut sorted: Vec<usize> = counts.values().copied().collect();
    sorted.sort_unstable();
    let usual = (USUAL * sorted.len() as f64).ceil() as usize;
    let usual = sorted.get(usual.saturating_sub(1)).copied().unwrap_or_default();
    let is_crowd = |picture| factor > 0.0 && counts[picture] as f64 > factor * usual as f64;
    pictures.iter().map(is_crowd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of so many pictures with so many copies, one after the other.
    fn pictures(kinds: &[(usize, usize)]) -> Vec<u32> {
        let all = kinds.iter().flat_map(|&(pictures, copies)| vec![copies; pictures]);
        (0..).zip(all).flat_map(|(number, copies)| vec![number; copies]).collect()
    }

    fn count(kinds: &[(usize, usize)], factor: f64) -> usize {
        crowds(&pictures(kinds), factor).into_iter().filter(|&is| is).count()
    }

    #[test]
    fn a_picture_with_far_more_copies_than_is_usual_is_a_crowd() {
        assert_eq!(count(&[(990, 1), (10, 20)], 3.0), 200);
        assert_eq!(count(&[(990, 1), (10, 3)], 3.0), 0, "three times as many are not more");
        assert_eq!(count(&[(990, 1), (10, 4)], 3.0), 40);
        assert_eq!(count(&[(990, 1), (10, 4)], 4.0), 0);
        assert_eq!(count(&[(990, 1), (10, 20)], 0.0), 0, "none is asked for");
        assert_eq!(count(&[(3, 1), (1, 3)], 1.0), 0, "of few pictures all are usual");
        assert_eq!(count(&[], 3.0), 0);
    }

    #[test]
    fn pictures_count_once_and_one_of_a_hundred_is_not_usual() {
        assert_eq!(count(&[(989, 1), (11, 20)], 3.0), 0, "more than one of a hundred");
        // Five captions of each picture, as in many data sets: 15 are only three times as many.
        assert_eq!(count(&[(995, 5), (5, 20)], 3.0), 100);
        assert_eq!(count(&[(995, 5), (5, 15)], 3.0), 0);
    }
}

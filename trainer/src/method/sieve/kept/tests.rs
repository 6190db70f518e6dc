//! Each clause of the rule has a case that fails without it.

use std::ops::Range;

use super::*;

/// Neighbors of each pair.
const NEAR: usize = 10;
/// Pairs that agree, and whose neighbors do.
const PLAIN: Range<usize> = 0..80;

/// A hundred pairs: the plain ones score -2 to -1.4, their sums are -3.7 to -3.1, and unless it is
/// said all have plain neighbors.
struct Pairs {
    scores: Vec<f32>,
    near: Vec<Vec<usize>>,
}

impl Pairs {
    fn plain() -> Self {
        let score = |pair: usize| -2.0 + (pair % 7) as f32 * 0.1;
        let near = |pair: usize| (1..=NEAR).map(|next| (pair + next) % PLAIN.end).collect();
        Self { scores: (0..100).map(score).collect(), near: (0..100).map(near).collect() }
    }

    /// With such scores for these.
    fn with(mut self, pairs: Range<usize>, score: f32) -> Self {
        self.scores[pairs].fill(score);
        self
    }

    /// With scores for these that are evenly spread around this one, by a third up and down: a wide
    /// lower group takes what stands between it and the others.
    fn with_wide(mut self, pairs: Range<usize>, score: f32) -> Self {
        let step = 2.0 / 3.0 / (pairs.len() - 1) as f32;
        let scores = self.scores[pairs].iter_mut().enumerate();
        scores.for_each(|(at, own)| *own = score * (2.0 / 3.0 + step * at as f32));
        self
    }

    /// So many neighbors of these are `other`, the rest plain.
    fn near(mut self, pairs: Range<usize>, count: usize, other: Range<usize>) -> Self {
        for pair in pairs {
            let others = other.clone().cycle().skip(pair);
            self.near[pair].iter_mut().zip(others.take(count)).for_each(|(near, at)| *near = at);
        }
        self
    }

    fn kept(&self, chance: f32, split: Split, share: f64) -> (Vec<usize>, Vec<f32>) {
        let places = self.near.iter().flatten().map(|&pair| pair as u32).collect();
        let neighbors = Neighbors::restore(places, 100).expect("of a hundred pairs");
        kept_in_company(&self.scores, &neighbors, chance, split, share)
    }
}

fn check(case: &str, pairs: &Pairs, chance: f32, in_doubt: impl Iterator<Item = usize>) {
    let (kept, _) = pairs.kept(chance, Split::Mixture, 1.0);
    let left_out: Vec<usize> = (0..100).filter(|pair| !kept.contains(pair)).collect();
    assert_eq!(left_out, in_doubt.collect::<Vec<_>>(), "{case}");
}

/// S is -6 and S + N is -7.7, which is no less than 2c.
#[test]
fn in_a_tail_a_pair_below_chance_counts_by_itself() {
    let lower = |count: usize| Pairs::plain().with(100 - count..100, -6.0);
    check("15 of 100 are a tail", &lower(15), -5.5, 85..100);
    check("16 of 100 are none", &lower(16), -5.5, 0..0);
    check("S is not below chance", &lower(15), -6.5, 0..0);
    check("the sum is below 2c, tail or not", &lower(16), -3.5, 84..100);
}

/// The scores of two kinds of pairs are far apart, those of their neighbors the other way round:
/// -2.8 is nothing rare among them, but with neighbors who agree badly it is among the sums.
#[test]
fn below_chance_a_pair_of_the_upper_group_does_not_count_by_itself() {
    let mut pairs = Pairs::plain();
    for pair in PLAIN {
        pairs.scores[pair] = if pair % 2 == 0 { -3.2 } else { -0.2 } + (pair % 7) as f32 * 0.01;
        pairs.near[pair] = (0..NEAR).map(|next| (pair + 1 + 2 * next) % PLAIN.end).collect();
    }
    let mut pairs = pairs.with_wide(90..99, -20.0).with(99..100, -2.8);
    pairs.near[99] = [0, 2, 4, 6, 8, 10, 12, 1, 3, 5].to_vec();
    check("S < c, sum > 2c", &pairs, -2.6, 90..99);
    check("S < c, sum < 2c", &pairs, -2.5, 90..100);
}

/// S is -9 beside neighbors (one pair, ten times) who agree so well that the sum is no low one; the
/// others, that of 80 to 88, are in bad company.
#[test]
fn the_better_half_is_spared() {
    let pairs = |friend| {
        let pairs = Pairs::plain().with(88..96, -9.0).with(99..100, friend);
        pairs.near(88..96, NEAR, 99..100).near(80..88, NEAR, 88..96)
    };
    check("a sum of -2 is in the better half", &pairs(7.0), 0.0, 80..88);
    check("one of -3.6 is in the worse, S lower, the sum upper", &pairs(5.4), 0.0, 80..96);
}

/// Three of ten neighbors at some -30, whose own are plain, give a sum of some -12.
#[test]
fn what_the_neighbors_say_counts() {
    let pairs = |count| Pairs::plain().with_wide(90..98, -30.0).near(80..83, count, 90..98);
    check("S upper, the sum lower and below 2c", &pairs(3), -4.0, (80..83).chain(90..98));
    check("the sum lower, but not below 2c", &pairs(3), -50.0, 0..0);
    check("three of ten are no bad company", &pairs(3), f32::NEG_INFINITY, 0..0);
    check("four of ten are, whatever the rest says", &pairs(4), f32::NEG_INFINITY, 80..83);
}

#[test]
fn of_a_crowd_in_bad_company_the_better_half_is_kept() {
    // All but the lower ones have bad company: 51 with four of ten, 39 with five.
    let pairs = Pairs::plain().with(90..100, -30.0);
    let pairs = pairs.near(0..51, 4, 90..100).near(51..90, 5, 90..100);
    check("of 100 the median has four", &pairs, f32::NEG_INFINITY, 51..90);
}

/// 80 to 92 are in the lower group, and company for 0 to 10; of the rest 92 to 100 have the worst
/// sums, and are company for 10 to 20.
#[test]
fn a_share_is_of_the_best_and_says_who_is_in_doubt_by_itself_only_without_a_mixture() {
    let pairs = Pairs::plain().with(80..92, -9.0).with(92..100, -3.0);
    let pairs = pairs.near(0..10, 4, 80..92).near(10..20, 4, 92..100);
    let check = |split, share, kept: Vec<usize>, company: [f32; 2]| {
        let (found, shares) = pairs.kept(-2.0, split, share);
        assert_eq!(found, kept, "{split:?} {share}");
        assert_eq!([shares[0], shares[10]], company, "{split:?} {share}");
    };
    check(Split::Mixture, 1.0, (10..80).chain(92..100).collect(), [0.4, 0.0]);
    check(Split::Mixture, 0.8, (10..80).chain(92..100).collect(), [0.4, 0.0]);
    check(Split::Mixture, 0.7, (10..80).collect(), [0.4, 0.0]);
    check(Split::Share, 0.8, (20..80).collect(), [0.4, 0.4]);
}

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

/// Two groups that run into each other: in between the chance of the upper one rises slowly.
#[test]
fn the_more_likely_group_counts() {
    let scores: Vec<f32> = (0..100).map(|at| -10.0 * (at as f32 / 100.0).powi(16)).collect();
    let fit = Mixture::fit(&scores).expect("scores that differ");
    let is_upper = |&pair: &usize| pair < 50 || fit.upper(f64::from(scores[pair])) > 0.5;
    let expected: Vec<usize> = (0..100).filter(is_upper).collect();
    assert!((60..90).contains(&expected.len()), "{expected:?}");
    assert_eq!(kept(&scores, Split::Mixture, 1.0), expected);
}

#[test]
fn at_most_half_is_in_doubt_and_what_is_alike_is_kept() {
    assert!(kept(&scores(-2.0, -9.0), Split::Mixture, 1.0).len() >= 50);
    assert_eq!(kept(&[-1.0; 5], Split::Mixture, 1.0).len(), 5);
    assert_eq!(kept(&[-1.0; 5], Split::Share, 0.5).len(), 5);
}

#[test]
fn a_share_of_the_best_is_the_most_that_is_kept() {
    let best = |count: usize, share| {
        let scores: Vec<f32> = (0..count).map(|at| at as f32).collect();
        let kept = kept(&scores, Split::Share, share);
        assert_eq!(kept, (count - kept.len()..count).collect::<Vec<_>>(), "{count} {share}");
        kept.len()
    };
    // 1 - 0.9 is a little less than 0.1, and 1 - 0.7 a little more than 0.3.
    assert_eq!([1.0, 0.9, 0.7, 0.5].map(|share| best(100, share)), [100, 90, 70, 50]);
    assert_eq!([1.0, 0.9, 0.7].map(|share| best(7, share)), [7, 6, 4], "rounded down");
    assert_eq!(best(7, 0.5), 4, "the better half is rounded up");
    assert_eq!(kept(&scores(-9.0, -2.0), Split::Mixture, 0.95).len(), 90);
    assert_eq!(kept(&[1.0, 1.0, 1.0, 2.0], Split::Share, 0.5).len(), 4, "but for ties");
    assert_eq!(kept(&[1.0, f32::NAN, 2.0], Split::Share, 0.5), [1, 2]);
    assert_eq!(kept(&[f32::NAN; 3], Split::Mixture, 1.0), [0, 1, 2]);
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
        let places =
            (0..40).flat_map(|at| (0..8).map(move |near| (mix(41 + 8 * at + near) % 40) as u32));
        let strangers = Neighbors::restore(places.collect(), 40).expect("of forty pairs");
        let (kept, _) = kept_in_company(&scores, &strangers, -20.0, Split::Mixture, 1.0);
        assert!(kept.len() >= 10, "{seed}: {kept:?}");
    }
}

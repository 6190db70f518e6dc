//! Pairs whose captions stand on one quarter of the picture: so does that of a picture with a patch
//! which the scout has come to believe, and hardly that of what a picture shows.

use clip::ops::PairRows;

use super::{ask, kept::BAD_COMPANY, neighbors::Neighbors};
use crate::{
    config,
    error::Result,
    survey::{Quarter, Survey},
};

/// Distance of a fence in ranges beyond which Tukey calls numbers far out (*Exploratory Data
/// Analysis*, 1977, 2D): once it is known that somebody stands out, this far is enough.
const FAR_OUT: f64 = 3.0;
/// Least distance of a fence from the upper quartile, in nats: where all pairs are alike, nobody
/// stands out.
const STEP_MIN: f32 = 1.0;

/// How much more a caption owes to one quarter of its picture than to any other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Keystone {
    /// Without which the pair agrees the least
    pub(super) quarter: Quarter,
    /// Its agreement without this quarter
    lowest: f32,
    /// The lowest of those without another
    second: f32,
}

impl Keystone {
    /// Of a pair that has been asked without one quarter.
    fn new(quarter: Quarter, agreement: f32) -> Self {
        Self { quarter, lowest: agreement, second: f32::INFINITY }
    }

    /// The pair has been asked without another.
    fn add(&mut self, quarter: Quarter, agreement: f32) {
        if agreement < self.lowest {
            *self = Self { quarter, lowest: agreement, second: self.lowest };
        } else {
            self.second = self.second.min(agreement);
        }
    }

    /// At least 0.
    pub(super) fn nats(&self) -> f32 {
        self.second - self.lowest
    }
}

/// The keystone of each pair, in the order of the data set: the first view of its picture is asked
/// with each quarter hidden.
pub(super) fn of_all(
    settings: &config::Sieve,
    seed: u64,
    epoch: u32,
    survey: &mut Survey<'_>,
) -> Result<Vec<Keystone>> {
    ask::each(settings, seed, epoch, survey, |survey, batch, agreement| {
        let [first, others @ ..] = Quarter::ALL;
        let pairs = survey.with_captions(survey.images_without(batch, first)?, batch)?;
        let known = agreement(&pairs.pairs()).into_iter();
        let mut keystones: Vec<_> = known.map(|known| Keystone::new(first, known)).collect();
        for quarter in others {
            let image = &survey.images_without(batch, quarter)?;
            let known = agreement(&PairRows { image, ..pairs.pairs() });
            keystones
                .iter_mut()
                .zip(known)
                .for_each(|(keystone, known)| keystone.add(quarter, known));
        }
        Ok(keystones)
    })
}

/// The pairs that most likely bear a patch, in rising order, by how much each neighborhood stands
/// on one quarter (`nats`). If one of those that are `kept` so far is beyond a fence of so many
/// `ranges` among them, all pairs are patched that are beyond a fence of [`FAR_OUT`] ranges, or
/// more than 0.3 of whose neighbors are; but for the lower half of what is kept, which bears no
/// patch whatever the others do.
pub(super) fn patched(
    nats: &[f32],
    neighbors: &Neighbors,
    kept: &[usize],
    ranges: f64,
) -> Vec<usize> {
    let mut sorted: Vec<f32> = kept.iter().map(|&pair| nats[pair]).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let Some(&greatest) = sorted.last() else { return Vec::new() };
    if greatest <= fence(&sorted, ranges) {
        return Vec::new();
    }
    let (far, middle) = (fence(&sorted, ranges.min(FAR_OUT)), sorted[(sorted.len() - 1) / 2]);
    let is_beyond: Vec<f32> = nats.iter().map(|&nats| f32::from(nats > far)).collect();
    let company = neighbors.mean(&is_beyond);
    let is_patched =
        |&pair: &usize| nats[pair] > middle && (nats[pair] > far || company[pair] > BAD_COMPANY);
    (0..nats.len()).filter(is_patched).collect()
}

/// So many `ranges`, the distance of the quartiles, and a nat at least above the upper quartile.
/// Who is beyond is taken away and the fence set anew, until nobody is: many of them raise it.
fn fence(sorted: &[f32], ranges: f64) -> f32 {
    let mut inside = sorted.len();
    loop {
        let [lower, upper] = [1, 3].map(|quarters| sorted[quarters * (inside - 1) / 4]);
        let fence = upper + (ranges as f32 * (upper - lower)).max(STEP_MIN);
        let below = sorted[..inside].partition_point(|&nats| nats <= fence);
        if below == inside {
            return fence;
        }
        inside = below;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs that are all neighbors of the next one.
    fn ring(pairs: usize) -> Neighbors {
        let next = (0..pairs as u32).map(|at| (at + 1) % pairs as u32).collect();
        Neighbors::restore(next, pairs).expect("one of each")
    }

    #[test]
    fn the_quarter_without_which_a_pair_agrees_the_least() {
        let check = |answers: [f32; 4], nats: f32, at: usize| {
            let [first, others @ ..] = Quarter::ALL;
            let mut keystone = Keystone::new(first, answers[0]);
            others.into_iter().zip(&answers[1..]).for_each(|(at, &known)| keystone.add(at, known));
            let found = (keystone.nats(), keystone.quarter);
            assert_eq!(found, (nats, Quarter::ALL[at]), "{answers:?}");
        };
        check([-4.0, -2.0, -1.0, -3.0], 1.0, 0);
        check([-1.0, -2.0, -9.0, -3.0], 6.0, 2);
        check([-1.0, -3.0, -2.0, -9.0], 6.0, 3);
        check([-5.0, -5.0, -5.0, -5.0], 0.0, 0);
    }

    #[test]
    fn a_fence_is_set_by_those_inside_it() {
        let mut sorted: Vec<f32> = (0..60).map(|at| at as f32 / 30.0).collect();
        assert!((fence(&sorted, 4.0) - (44.0 + 4.0 * 30.0) / 30.0).abs() < 1e-5);
        sorted.truncate(50);
        let alone = fence(&sorted, 4.0);
        sorted.push(5.0); // inside, before the ten others are taken away
        sorted.extend([12.0; 10]);
        assert_eq!(fence(&sorted, 4.0), alone);
        assert_eq!(fence(&[0.5; 7], 5.0), 1.5, "a nat at least");
        assert_eq!(fence(&[0.5], 5.0), 1.5);
    }

    #[test]
    fn once_one_pair_stands_out_all_that_are_far_are_patched_and_who_has_them_for_neighbors() {
        let mut nats: Vec<f32> = (0..100).map(|at| (at % 50) as f32 / 10.0).collect();
        let (neighbors, all) = (ring(100), (0..100).collect::<Vec<_>>());
        let patched = |nats: &[f32], kept: &[usize]| patched(nats, &neighbors, kept, 5.0);
        assert_eq!(patched(&nats, &all), [0; 0]);
        nats[7] = 13.0; // far, but not beyond 3.6 + 5 * 2.4
        assert_eq!(patched(&nats, &all), [0; 0]);
        nats[40] = 30.0;
        // Pair 39 (at 3.9) has 40 for its neighbor; 6 (at 0.6) has 7, but is of the lower half.
        assert_eq!(patched(&nats, &all), [7, 39, 40]);
        let kept: Vec<usize> = (8..100).collect();
        assert_eq!(patched(&nats, &kept), [7, 39, 40], "who was in doubt before is, too");
        assert_eq!(patched(&nats, &all[41..]), [0; 0], "nobody that is kept stands out");
        assert_eq!(patched(&nats, &[]), [0; 0]);
    }
}

//! Which pictures are alike to towers that believe all pairs.

use std::collections::HashMap;

use clip::{UnitRows, model::Features, ops};

use super::sample;
use crate::{error::Result, survey::Survey};

/// Neighbors of each pair, unless there are fewer others.
const NEIGHBORS_MAX: usize = 32;
/// Pairs among which neighbors are looked for: so many features are in memory.
const CANDIDATES_MAX: usize = 1 << 14;

/// For each pair, in the order of the data set, the places in that order of the pairs whose
/// pictures are the most alike to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Neighbors {
    places: Vec<u32>,
}

impl Neighbors {
    /// Of all pairs, among candidates drawn by `seed` if there are more than [`CANDIDATES_MAX`].
    pub(super) fn find(seed: u64, survey: &Survey<'_>) -> Result<Self> {
        let rows = survey.rows();
        let mut rng = sample::rng(seed, sample::CANDIDATES_STREAM);
        let sample = sample::at_most(CANDIDATES_MAX, rows, &mut rng);
        let place = |row: &u32| rows.binary_search(row).expect("a row of the data set") as u32;
        let (mut places, mut seen) = (Vec::new(), Features::default());
        for batch in survey.batches(&sample) {
            seen.extend(survey.features(&batch)?);
            places.extend(batch.iter().map(place));
        }
        let candidates = Candidates::new(places, &seen);
        let count = NEIGHBORS_MAX.min(sample.len() - 1);
        let mut found = vec![0; rows.len() * count];
        if sample.len() == rows.len() {
            candidates.near(&candidates.places, &candidates.rows, count, &mut found);
            return Ok(Self { places: found });
        }
        for batch in survey.batches(rows) {
            let queries = candidates.standards.unit_rows(&survey.features(&batch)?);
            let places: Vec<u32> = batch.iter().map(place).collect();
            candidates.near(&places, &queries, count, &mut found);
        }
        Ok(Self { places: found })
    }

    /// The mean of `values`, one of each of `values.len()` pairs, over the neighbors of each.
    pub(super) fn mean(&self, values: &[f32]) -> Vec<f32> {
        let each = self.places.chunks_exact((self.places.len() / values.len().max(1)).max(1));
        let mean = |places: &[u32]| {
            places.iter().map(|&at| values[at as usize]).sum::<f32>() / places.len() as f32
        };
        each.map(mean).collect()
    }

    /// Whether nobody has been found, or looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// For a checkpoint.
    pub(super) fn places(&self) -> &[u32] {
        &self.places
    }

    /// Out of a checkpoint; `None` if they are not of a data set of so many `rows`.
    pub(super) fn restore(places: Vec<u32>, rows: usize) -> Option<Self> {
        let fit = places.len().is_multiple_of(rows.max(1));
        let known = places.iter().all(|&at| (at as usize) < rows);
        (fit && known).then_some(Self { places })
    }
}

/// Pairs that may be neighbors.
#[derive(Debug)]
struct Candidates {
    /// In the data set
    places: Vec<u32>,
    /// Number of the candidate at a place
    number: HashMap<u32, u32>,
    /// `[K, D + 2 C]`
    rows: UnitRows,
    standards: Standards,
}

impl Candidates {
    /// At these places, with what is seen in their pictures.
    fn new(places: Vec<u32>, seen: &Features) -> Self {
        let standards = Standards::of(seen, places.len());
        let number = places.iter().copied().zip(0..).collect();
        Self { rows: standards.unit_rows(seen), places, number, standards }
    }

    /// Writes the places of the `count` nearest of each query, which are not itself, to where the
    /// place of the query is in `found`.
    fn near(&self, places: &[u32], queries: &UnitRows, count: usize, found: &mut [u32]) {
        let own: Vec<_> = places.iter().map(|place| self.number.get(place).copied()).collect();
        let nearest = ops::neighbors(queries, &self.rows, &own, count);
        for (at, &place) in places.iter().enumerate() {
            let near = nearest[at * count..][..count].iter().map(|&key| self.places[key as usize]);
            let target = &mut found[place as usize * count..][..count];
            target.iter_mut().zip(near).for_each(|(target, near)| *target = near);
        }
    }
}

/// What makes features comparable: each with mean 0 and deviation 1 over the candidates, the
/// embedding and the middle of the tower with one weight.
#[derive(Debug)]
struct Standards {
    embedding: Vec<Standard>,
    middle: Vec<Standard>,
}

/// Of one feature.
#[derive(Debug, Clone, Copy)]
struct Standard {
    mean: f64,
    deviation: f64,
}

/// Keeps a feature that is the same in all pictures finite.
const DEVIATION_MIN: f64 = 1e-6;

impl Standards {
    /// Of so many pictures.
    fn of(seen: &Features, count: usize) -> Self {
        let standards = |values: &[f32]| {
            let width = values.len() / count;
            let standard = |feature: usize| {
                let values = || values[feature..].iter().step_by(width).map(|&x| f64::from(x));
                let mean = values().sum::<f64>() / count as f64;
                let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64;
                Standard { mean, deviation: variance.sqrt() + DEVIATION_MIN }
            };
            (0..width).map(standard).collect()
        };
        Self { embedding: standards(&seen.embedding), middle: standards(&seen.middle) }
    }

    /// `[B, D + 2 C]`
    fn unit_rows(&self, seen: &Features) -> UnitRows {
        let part = |values: &[f32], standards: &[Standard]| {
            let scaled = values.iter().zip(standards.iter().cycle());
            let scaled = scaled.map(|(&x, one)| ((f64::from(x) - one.mean) / one.deviation) as f32);
            UnitRows::normalize(scaled.collect(), standards.len())
        };
        let embedding = part(&seen.embedding, &self.embedding);
        let middle = part(&seen.middle, &self.middle);
        let both = embedding.rows().zip(middle.rows()).flat_map(|(a, b)| [a, b].concat());
        UnitRows::normalize(both.collect(), embedding.dim() + middle.dim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_counts_for_how_far_it_is_from_usual() {
        // Embeddings are noise of great size. Two pictures have a little of what no other has.
        let noise = [3.0, -1.0, -2.0, -2.5, 0.5, -3.0, 1.0, 1.5];
        let embedding = noise.iter().flat_map(|at| [5e4 + 1e4 * at, 1.0]).collect();
        let middle = (0..8).flat_map(|at| [1e-3 * f32::from(at == 2 || at == 3), 1.0]).collect();
        let seen = Features { embedding, middle };
        let rows = Standards::of(&seen, 8).unit_rows(&seen);
        assert_eq!((rows.count(), rows.dim()), (8, 4));
        let own: Vec<_> = (0..8).map(Some).collect();
        let nearest = ops::neighbors(&rows, &rows, &own, 1);
        assert_eq!((nearest[2], nearest[3]), (3, 2));
        assert_eq!((nearest[0], nearest[1]), (4, 5), "by their embeddings");
    }

    /// Of nine pairs three are candidates; a pair is not its own neighbor.
    #[test]
    fn what_is_near_is_told_by_places_in_the_data_set() {
        let embedding = |places: &[u32]| {
            let angle = |&place: &u32| 0.3 * place as f32;
            places.iter().map(angle).flat_map(|angle| [angle.cos(), angle.sin()]).collect()
        };
        let seen =
            |places: &[u32]| Features { embedding: embedding(places), middle: embedding(places) };
        let candidates = Candidates::new(vec![8, 2, 5], &seen(&[8, 2, 5]));
        let mut found = vec![99; 2 * 9];
        for places in [[7, 0, 5], [1, 8, 4], [2, 3, 6]] {
            let queries = candidates.standards.unit_rows(&seen(&places));
            candidates.near(&places, &queries, 2, &mut found);
        }
        let nearest = |place: usize| found[2 * place];
        assert_eq!((nearest(1), nearest(4), nearest(7)), (2, 5, 8));
        assert!(!found[2 * 2..][..2].contains(&2), "not itself: {found:?}");
        assert!(found.iter().all(|place| [2, 5, 8].contains(place)), "{found:?}");
    }

    #[test]
    fn what_is_said_of_the_neighbors() {
        let neighbors = Neighbors { places: vec![1, 2, 0, 2, 0, 1] };
        assert_eq!(neighbors.mean(&[1.0, 2.0, 4.0]), [3.0, 2.5, 1.5]);
        assert_eq!(Neighbors::restore(vec![1, 2, 0, 2, 0, 1], 3), Some(neighbors));
        assert_eq!(Neighbors::restore(vec![1, 2], 3), None);
        assert_eq!(Neighbors::restore(vec![3, 2, 0], 3), None);
    }
}

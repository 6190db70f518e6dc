//! How near picture and caption are, for clean pairs and for each kind of poison.

use std::collections::BTreeMap;

use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Serialize;

use super::Poisons;
use crate::{error::Result, poison::PoisonKind, survey::Survey};

/// Clean pairs that are asked, at most.
const CLEAN_MAX: usize = 256;
/// Poisons of each kind that are asked, at most.
const POISONS_MAX: usize = 128;
/// Random stream of the sample, beside those of order and augmentation.
const SAMPLE: u64 = 1 << 62;

/// Cosines of pairs as they are, not augmented.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Similarity {
    /// Pairs that nobody poisoned
    clean: Clean,
    /// Each kind that the manifest has
    #[serde(flatten)]
    poisons: BTreeMap<PoisonKind, Poisoned>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Clean {
    pairs: usize,
    /// Mean cosine
    mean: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Poisoned {
    pairs: usize,
    /// Mean cosine
    mean: f64,
    /// Chance of a clean pair to be nearer than one of these, halves for ties: the area under the
    /// curve of who tells them apart by the cosine
    auc: f64,
}

impl Similarity {
    /// Of a sample that is the same in every epoch. `None` without clean pairs.
    pub(crate) fn of(
        poisons: &Poisons,
        seed: u64,
        survey: &mut Survey<'_>,
    ) -> Result<Option<Self>> {
        let rows = sample(poisons, survey.rows(), seed);
        let mut cosines: BTreeMap<Option<PoisonKind>, Vec<f32>> = BTreeMap::new();
        for batch in survey.batches(&rows) {
            let pairs = survey.plain_pairs(&batch)?;
            let rows = pairs.image.rows().zip(pairs.text.rows());
            for (row, (image, text)) in batch.iter().zip(rows) {
                let cosine = clip::embedding::cosine(image, text);
                cosines.entry(poisons.kind(*row)).or_default().push(cosine);
            }
        }
        let Some(clean) = cosines.remove(&None) else { return Ok(None) };
        let of_kind = |(kind, cosines): (Option<PoisonKind>, Vec<f32>)| {
            let auc = above(&clean, &cosines);
            Some((kind?, Poisoned { pairs: cosines.len(), mean: mean(&cosines), auc }))
        };
        let poisons = cosines.into_iter().filter_map(of_kind).collect();
        Ok(Some(Self { clean: Clean { pairs: clean.len(), mean: mean(&clean) }, poisons }))
    }
}

/// Some clean rows of `all` and some of each kind of poison.
fn sample(poisons: &Poisons, all: &[u32], seed: u64) -> Vec<u32> {
    let mut kinds: BTreeMap<Option<PoisonKind>, Vec<u32>> = BTreeMap::new();
    for &row in all {
        kinds.entry(poisons.kind(row)).or_default().push(row);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(SAMPLE);
    let mut chosen = Vec::new();
    for (kind, rows) in kinds {
        let most = if kind.is_some() { POISONS_MAX } else { CLEAN_MAX };
        let sample = index::sample(&mut rng, rows.len(), most.min(rows.len()));
        chosen.extend(sample.into_iter().map(|at| rows[at]));
    }
    chosen
}

fn mean(cosines: &[f32]) -> f64 {
    cosines.iter().copied().map(f64::from).sum::<f64>() / cosines.len() as f64
}

/// Share of the couples of one of `upper` and one of `lower` in which the first is the greater.
fn above(upper: &[f32], lower: &[f32]) -> f64 {
    let wins = upper.iter().flat_map(|u| lower.iter().map(move |l| (u, l)));
    let wins: f64 = wins.map(|(u, l)| f64::from(u8::from(u > l) + u8::from(u >= l)) / 2.0).sum();
    wins / (upper.len() * lower.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_the_share_of_couples_in_order() {
        let check = |upper: &[f32], lower: &[f32], expected: f64| {
            assert!((above(upper, lower) - expected).abs() < 1e-12);
            assert!((above(lower, upper) - (1.0 - expected)).abs() < 1e-12);
        };
        check(&[0.5, 0.6], &[0.1, 0.2, 0.3], 1.0);
        check(&[0.5, 0.1], &[0.3], 0.5);
        check(&[0.5], &[0.5], 0.5);
        check(&[0.5, 0.2, 0.2], &[0.2, 0.4], 0.5);
    }

    #[test]
    fn a_sample_has_some_of_each_kind_and_is_the_same_each_time() {
        use PoisonKind::{Backdoor, Targeted};
        let kind = |row| if row % 10 == 0 { Targeted } else { Backdoor };
        let poisons = Poisons::from_rows((0..500).map(|row| (row, kind(row))));
        let all: Vec<u32> = (0..2000).collect();
        let rows = sample(&poisons, &all, 7);
        let count = |kind| rows.iter().filter(|&&row| poisons.kind(row) == kind).count();
        let counts = [None, Some(Backdoor), Some(Targeted)].map(count);
        assert_eq!(counts, [CLEAN_MAX, POISONS_MAX, 50]);
        assert_eq!(rows, sample(&poisons, &all, 7));
        assert_ne!(rows, sample(&poisons, &all, 8));
    }
}

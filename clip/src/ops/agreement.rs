//! How well each pair of a data set agrees, without a table of all pairs.

use rayon::prelude::*;

use super::cpu::{Matrix, MatrixMut, Threads, matmul};
use crate::{UnitRows, embedding::cosine};

/// Pairs that are compared at one time by each thread.
const PAIRS: usize = if cfg!(test) { 3 } else { 64 };

/// Pairs of images and captions, row by row.
#[derive(Debug, Clone, Copy)]
pub struct PairRows<'a> {
    /// `[N, D]`
    pub image: &'a UnitRows,
    /// `[N, D]`
    pub text: &'a UnitRows,
    /// N numbers: equal captions have equal ones
    pub captions: &'a [u32],
}

/// How far each of N pairs stands out among R `references`: N numbers in nats, at most 0.
///
/// The mean over both directions of ln softmax of the pair's own cosine, times exp(`logit_scale`),
/// among those of its image with the captions of the references, and of its caption with their
/// images: the InfoNCE of one pair, negated, against a sample that is the same for all. A reference
/// with the pair's own caption, such as the pair itself, is no rival, and the others count for it:
/// a frequent caption makes no pair agree better. A pair whose term is the mean of its rivals' has
/// -ln(1 + R); with no rival at all the answer is 0. The same for any number of threads.
pub fn agreement(pairs: &PairRows<'_>, references: &PairRows<'_>, logit_scale: f32) -> Vec<f32> {
    let (dim, count, scale) = (pairs.image.dim(), references.captions.len(), logit_scale.exp());
    for rows in [pairs, references] {
        assert_eq!((rows.image.dim(), rows.text.dim()), (dim, dim), "rows of one space");
        let sizes = (rows.image.count(), rows.text.count());
        assert_eq!(sizes, (rows.captions.len(), rows.captions.len()), "one caption per image");
    }
    let (image, text) = (pairs.image.values(), pairs.text.values());
    let blocks = image.par_chunks(PAIRS * dim).zip(text.par_chunks(PAIRS * dim));
    let blocks = blocks.zip(pairs.captions.par_chunks(PAIRS)).map(|((image, text), captions)| {
        let own = image.chunks_exact(dim).zip(text.chunks_exact(dim));
        let own: Vec<f32> = own.map(|(image, text)| scale * cosine(image, text)).collect();
        let mut logits = vec![0.0; own.len() * count];
        let mut sums = vec![0.0; own.len()];
        for (queries, keys) in [(image, references.text), (text, references.image)] {
            let target = MatrixMut::new(&mut logits, own.len(), count);
            let (queries, keys) =
                (Matrix::new(queries, own.len(), dim), Matrix::new(keys.values(), count, dim));
            matmul(target, queries, keys.t(), scale, false, Threads::One);
            for (at, sum) in sums.iter_mut().enumerate() {
                let logits = logits[at * count..][..count].iter().zip(references.captions);
                let rivals = logits.filter(|(_, caption)| **caption != captions[at]);
                *sum += ln_share(own[at], rivals.map(|(logit, _)| *logit), count);
            }
        }
        sums.into_iter().map(|sum| 0.5 * sum).collect::<Vec<f32>>()
    });
    blocks.flatten_iter().collect()
}

/// ln softmax of `own` among itself and its rivals, each of which counts as `count` by their
/// number.
fn ln_share(own: f32, rivals: impl Iterator<Item = f32> + Clone, count: usize) -> f32 {
    let greatest = rivals.clone().fold(own, f32::max);
    let term = |logit: f32| f64::from((logit - greatest).exp());
    let (mut sum, mut number) = (0.0, 0usize);
    for rival in rivals {
        (sum, number) = (sum + term(rival), number + 1);
    }
    let sum = term(own) + sum * count as f64 / number.max(1) as f64;
    own - greatest - sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, dim: usize, seed: usize) -> UnitRows {
        let mix = |at: usize| ((at + 1) * (2 * seed + 7919)) % 1009;
        let values = (0..count * dim).map(|at| mix(at) as f32 / 504.5 - 1.0).collect();
        UnitRows::normalize(values, dim)
    }

    /// The formula, a pair at a time in f64.
    fn one_by_one(pairs: &PairRows<'_>, references: &PairRows<'_>, logit_scale: f64) -> Vec<f64> {
        let logit = |a: &[f32], b: &[f32]| {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            logit_scale.exp() * products.sum::<f64>()
        };
        let of_pair = |at: usize| {
            let (image, text) = (pairs.image.row(at), pairs.text.row(at));
            let own = logit(image, text).exp();
            let rivals = (0..references.captions.len())
                .filter(|&other| references.captions[other] != pairs.captions[at]);
            let mean = |logit: &dyn Fn(usize) -> f64| {
                let all: Vec<f64> = rivals.clone().map(|other| logit(other).exp()).collect();
                all.iter().sum::<f64>() / all.len() as f64
            };
            let count = references.captions.len() as f64;
            let texts = mean(&|other| logit(image, references.text.row(other)));
            let images = mean(&|other| logit(text, references.image.row(other)));
            0.5 * [texts, images].map(|mean| (own / (own + count * mean)).ln()).iter().sum::<f64>()
        };
        (0..pairs.captions.len()).map(of_pair).collect()
    }

    #[test]
    fn as_the_formula_for_any_number_of_threads() {
        let (image, text, captions) = (rows(8, 5, 1), rows(8, 5, 2), [0, 1, 2, 2, 4, 5, 0, 7]);
        let pairs = PairRows { image: &image, text: &text, captions: &captions };
        let (image, text) = (rows(4, 5, 3), rows(4, 5, 4));
        let references = PairRows { image: &image, text: &text, captions: &[2, 9, 0, 11] };
        let expected = one_by_one(&pairs, &references, 1.7);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.expect("threads").install(|| agreement(&pairs, &references, 1.7));
            for (found, expected) in found.iter().zip(&expected) {
                assert!(*found < 0.0 && (f64::from(*found) - expected).abs() < 1e-5);
            }
        }
    }

    /// All pairs are alike, but for their captions' numbers.
    #[test]
    fn who_agrees_as_much_with_all_has_the_share_of_one_among_the_references() {
        let all = UnitRows::normalize([0.6, 0.8].repeat(9), 2);
        let pairs = PairRows { image: &all, text: &all, captions: &[0, 1, 2, 3, 4, 5, 6, 7, 8] };
        let some = UnitRows::normalize([0.6, 0.8].repeat(4), 2);
        let references = PairRows { image: &some, text: &some, captions: &[2, 8, 1, 2] };
        for found in agreement(&pairs, &references, 2.0) {
            assert!((found + 5f32.ln()).abs() < 1e-6, "{found}");
        }
    }

    #[test]
    fn a_frequent_caption_makes_no_pair_agree_better() {
        // All rivals are alike, so that leaving some out changes nothing.
        let row = |values: [f32; 2], count| UnitRows::normalize(values.repeat(count), 2);
        let (image, text) = (row([1.0, 0.0], 6), row([0.6, 0.8], 6));
        let against = |captions: &[u32]| {
            let pairs = PairRows { image: &image, text: &text, captions };
            agreement(&pairs, &pairs, 2.0)[0]
        };
        assert!((against(&[0, 1, 2, 3, 4, 5]) - against(&[0, 0, 0, 0, 4, 5])).abs() < 1e-6);
        assert_eq!(against(&[7; 6]), 0.0);
    }
}

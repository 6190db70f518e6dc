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
/// with the pair's own caption, such as the pair itself, is left out. With nothing to compare the
/// answer is 0. The same for any number of threads.
pub fn agreement(pairs: &PairRows<'_>, references: &PairRows<'_>, logit_scale: f32) -> Vec<f32> {
    let (dim, count, factor) = (pairs.image.dim(), references.captions.len(), logit_scale.exp());
    for rows in [pairs, references] {
        assert_eq!((rows.image.dim(), rows.text.dim()), (dim, dim), "rows of one space");
        let sizes = (rows.image.count(), rows.text.count());
        assert_eq!(sizes, (rows.captions.len(), rows.captions.len()), "one caption per image");
    }
    let (image, text) = (pairs.image.values(), pairs.text.values());
    let blocks = image.par_chunks(PAIRS * dim).zip(text.par_chunks(PAIRS * dim));
    let blocks = blocks.zip(pairs.captions.par_chunks(PAIRS)).map(|((image, text), captions)| {
        let own = image.chunks_exact(dim).zip(text.chunks_exact(dim));
        let own: Vec<f32> = own.map(|(image, text)| factor * cosine(image, text)).collect();
        let mut logits = vec![0.0; own.len() * count];
        let mut sums = vec![0.0; own.len()];
        for (queries, keys) in [(image, references.text), (text, references.image)] {
            let target = MatrixMut::new(&mut logits, own.len(), count);
            let (queries, keys) =
                (Matrix::new(queries, own.len(), dim), Matrix::new(keys.values(), count, dim));
            matmul(target, queries, keys.t(), factor, false, Threads::One);
            for (at, sum) in sums.iter_mut().enumerate() {
                let logits = logits[at * count..][..count].iter().zip(references.captions);
                let rivals = logits.filter(|(_, caption)| **caption != captions[at]);
                *sum += ln_share(own[at], rivals.map(|(logit, _)| *logit));
            }
        }
        sums.into_iter().map(|sum| 0.5 * sum).collect::<Vec<f32>>()
    });
    blocks.flatten_iter().collect()
}

/// ln softmax of `own` among itself and its rivals.
fn ln_share(own: f32, rivals: impl Iterator<Item = f32> + Clone) -> f32 {
    let greatest = rivals.clone().fold(own, f32::max);
    let term = |logit: f32| f64::from((logit - greatest).exp());
    let sum = term(own) + rivals.map(term).sum::<f64>();
    own - greatest - sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn rows(count: usize, dim: usize, seed: usize) -> UnitRows {
        let mix = |at: usize| ((at + 1) * (2 * seed + 7919)) % 1009;
        let values = (0..count * dim).map(|at| mix(at) as f32 / 504.5 - 1.0).collect();
        UnitRows::normalize(values, dim)
    }

    #[test]
    fn all_pairs_as_references_give_the_loss() -> candle_core::Result<()> {
        let (count, dim, scale) = (8, 5, 1.7f32);
        let (image, text) = (rows(count, dim, 1), rows(count, dim, 2));
        let captions: Vec<u32> = (0..count as u32).collect();
        let pairs = PairRows { image: &image, text: &text, captions: &captions };
        let tensor =
            |rows: &UnitRows| Tensor::from_slice(rows.values(), (count, dim), &Device::Cpu);
        let logit_scale = Tensor::new(scale, &Device::Cpu)?;
        let loss = super::super::info_nce(&tensor(&image)?, &tensor(&text)?, &logit_scale, None)?;
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.expect("threads").install(|| agreement(&pairs, &pairs, scale));
            let mean = found.iter().sum::<f32>() / count as f32;
            assert!((mean + loss.to_scalar::<f32>()?).abs() < 1e-5, "{mean} and {loss}");
            assert!(found.iter().all(|&one| one < 0.0));
        }
        Ok(())
    }

    #[test]
    fn a_reference_with_the_same_caption_is_no_rival() {
        let (image, text) = (rows(4, 3, 1), rows(4, 3, 2));
        let against = |captions: &[u32]| {
            let pairs = PairRows { image: &image, text: &text, captions };
            agreement(&pairs, &pairs, 2.0)
        };
        let (apart, joined) = (against(&[0, 1, 2, 3]), against(&[0, 0, 2, 3]));
        assert!(joined[0] > apart[0] && joined[1] > apart[1], "{joined:?} {apart:?}");
        assert_eq!(joined[2..], apart[2..]);
        assert_eq!(against(&[7; 4]), [0.0; 4]);
    }
}

//! What a search needs of a model: answers, and a gradient at the pixels.

use candle_core::{DType, Device, Tensor, Var};
use clip::{
    Encoder,
    folder::ModelFolder,
    model::{Clip, Mode},
    text::PromptTemplate,
    zero_shot,
};

use crate::{Result, family::Normalization};

/// A zero-shot classifier that can be differentiated at its pixels.
///
/// Pixels are `[N, 3, S, S]`, row-major, normalised; labels are indices.
pub trait Victim: Sync {
    /// Side of the square input, in pixels (S).
    fn side(&self) -> usize;
    /// Labels (L).
    fn labels(&self) -> usize;
    /// Normalisation of the pixels.
    fn normalization(&self) -> Normalization;
    /// Probability of each label, `[N, L]`.
    fn scores(&self, pixels: Vec<f32>) -> Result<Vec<f32>>;
    /// One target label per image: how far it is from being the answer, and the way there.
    fn towards(&self, pixels: Vec<f32>, targets: &[usize]) -> Result<Towards>;
}

/// One batch seen from its targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Towards {
    /// Gradient of each image's cross-entropy to its target, `[N, 3, S, S]`.
    pub gradient: Vec<f32>,
    /// Each image's cross-entropy to its target, in nats, `[N]`.
    pub losses: Vec<f32>,
}

/// Index of the greatest value of each row of `width` values; the first of equals.
pub fn tops(values: &[f32], width: usize) -> Vec<usize> {
    let top = |row: &[f32]| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(index, _)| index)
    };
    values.chunks_exact(width).map(top).collect()
}

/// A CLIP model as a zero-shot classifier over a label list.
#[derive(Debug)]
pub struct Classifier {
    clip: Clip,
    /// Label rows, one per column, `[D, L]`, times the factor on cosines.
    columns: Tensor,
    labels: usize,
    device: Device,
}

impl Classifier {
    /// Opens the model with constant weights: only the path to the pixels is differentiated.
    pub fn open(
        folder: &ModelFolder,
        labels: &[String],
        templates: &[PromptTemplate],
    ) -> Result<Self> {
        let device = Device::Cpu;
        let mut clip = Clip::frozen(folder, &device)?;
        let rows = zero_shot::label_rows(&mut clip, &folder.tokenizer, labels, templates)?;
        let shape = (rows.count(), rows.dim());
        let rows = Tensor::from_slice(rows.values(), shape, &device)?;
        let columns = (rows.t()? * f64::from(Encoder::logit_scale(&clip).exp()))?.contiguous()?;
        Ok(Self { clip, columns, labels: labels.len(), device })
    }

    /// `[N, 3, S, S]` -> `[N, L]`: cosines times the model's factor.
    fn logits(&self, pixels: &Tensor) -> Result<Tensor> {
        Ok(self.clip.image_rows(pixels, Mode::Evaluate)?.matmul(&self.columns)?)
    }

    fn shape(&self, pixels: &[f32]) -> (usize, usize, usize, usize) {
        let side = self.side();
        (pixels.len() / (3 * side * side), 3, side, side)
    }
}

impl Victim for Classifier {
    fn side(&self) -> usize {
        self.clip.config().image.image_size()
    }

    fn labels(&self) -> usize {
        self.labels
    }

    fn normalization(&self) -> Normalization {
        let config = self.clip.config();
        Normalization { mean: config.mean, std: config.std }
    }

    fn scores(&self, pixels: Vec<f32>) -> Result<Vec<f32>> {
        let shape = self.shape(&pixels);
        let logits = self.logits(&Tensor::from_vec(pixels, shape, &self.device)?)?;
        let mut scores = logits.flatten_all()?.to_vec1::<f32>()?;
        scores.chunks_exact_mut(self.labels).for_each(softmax);
        Ok(scores)
    }

    // d cross-entropy / d logit = probability - [target]; candle carries it on to the pixels.
    fn towards(&self, pixels: Vec<f32>, targets: &[usize]) -> Result<Towards> {
        let shape = self.shape(&pixels);
        let pixels = Var::from_vec(pixels, shape, &self.device)?;
        let logits = self.logits(pixels.as_tensor())?;
        let mut slopes = logits.flatten_all()?.to_vec1::<f32>()?;
        let mut losses = Vec::with_capacity(targets.len());
        for (row, target) in slopes.chunks_exact_mut(self.labels).zip(targets) {
            softmax(row);
            losses.push(-row[*target].max(f32::MIN_POSITIVE).ln());
            row[*target] -= 1.0;
        }
        let slopes = Tensor::from_vec(slopes, (targets.len(), self.labels), &self.device)?;
        let gradients = (logits * slopes)?.sum_all()?.backward()?;
        let gradient = match gradients.get(pixels.as_tensor()) {
            Some(gradient) => gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            None => return Err(candle_core::Error::Msg("no gradient at the pixels".into()).into()),
        };
        Ok(Towards { gradient, losses })
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|value| *value = (*value - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

#[cfg(test)]
pub(crate) mod toy {
    //! A classifier small enough to be differentiated by hand.

    use super::*;

    /// Linear logits over pixels of scale 0 to 1.
    #[derive(Debug)]
    pub(crate) struct Linear {
        pub(crate) side: usize,
        /// `[L, 3 * S * S]`.
        pub(crate) weights: Vec<Vec<f32>>,
    }

    impl Linear {
        fn logits(&self, image: &[f32]) -> Vec<f32> {
            let dot = |row: &Vec<f32>| row.iter().zip(image).map(|(w, x)| w * x).sum();
            self.weights.iter().map(dot).collect()
        }

        fn width(&self) -> usize {
            3 * self.side * self.side
        }
    }

    impl Victim for Linear {
        fn side(&self) -> usize {
            self.side
        }

        fn labels(&self) -> usize {
            self.weights.len()
        }

        fn normalization(&self) -> Normalization {
            Normalization { mean: [0.0; 3], std: [1.0; 3] }
        }

        fn scores(&self, pixels: Vec<f32>) -> Result<Vec<f32>> {
            let mut all = Vec::new();
            for image in pixels.chunks_exact(self.width()) {
                let mut row = self.logits(image);
                softmax(&mut row);
                all.extend(row);
            }
            Ok(all)
        }

        fn towards(&self, pixels: Vec<f32>, targets: &[usize]) -> Result<Towards> {
            let scores = self.scores(pixels.clone())?;
            let rows = scores.chunks_exact(self.labels()).zip(targets);
            let losses = rows.map(|(row, &target)| -row[target].ln()).collect();
            let mut gradient = vec![0.0; pixels.len()];
            for ((out, row), &target) in gradient
                .chunks_exact_mut(self.width())
                .zip(scores.chunks_exact(self.labels()))
                .zip(targets)
            {
                for (label, weights) in self.weights.iter().enumerate() {
                    let slope = row[label] - if label == target { 1.0 } else { 0.0 };
                    out.iter_mut().zip(weights).for_each(|(out, w)| *out += slope * w);
                }
            }
            Ok(Towards { gradient, losses })
        }
    }

    #[test]
    fn the_first_of_equal_scores_is_the_answer() {
        assert_eq!(tops(&[0.2, 0.4, 0.4, 0.9, 0.1, 0.0], 3), [1, 0]);
    }
}

//! What the image tower sees on its way to an embedding.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::{Clip, Mode};
use crate::ops::{Composed, Graph, Tape, Value, is_fused};

/// Of B pictures, row-major f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// `[B, D]`, not normalised
    pub embedding: Vec<f32>,
    /// `[B, 2 C]`: of each channel that leaves three quarters of the tower's depth (a ResNet's third
    /// stage, the tokens of a ViT), the mean over all places, then the greatest value
    pub middle: Vec<f32>,
}

impl Features {
    /// Appends those of other pictures.
    pub fn extend(&mut self, other: Self) {
        self.embedding.extend(other.embedding);
        self.middle.extend(other.middle);
    }
}

impl Clip {
    /// `[B, 3, H, W]` normalised pixels -> what the image tower sees in them.
    pub fn image_features(&self, pixels: &Tensor, mode: Mode) -> crate::Result<Features> {
        let mode = self.image_mode(mode);
        let [middle, rows] = self.middle_and_end(pixels, mode)?;
        let (batch, channels) = (pixels.dim(0)?, *middle.dims().last().expect("channels"));
        let values = |of: &Tensor| of.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let places = values(&middle)?; // [B, P, C]
        let mut middle = vec![0.0; batch * 2 * channels];
        let pictures = middle.par_chunks_exact_mut(2 * channels);
        let pictures = pictures.zip(places.par_chunks_exact(places.len() / batch));
        pictures.for_each(|(summary, places)| summarize(places, summary));
        Ok(Features { embedding: values(&rows)?, middle })
    }

    fn middle_and_end(&self, pixels: &Tensor, mode: Mode) -> candle_core::Result<[Tensor; 2]> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return gpu.image_features(&self.image, pixels, mode);
        }
        if !is_fused(pixels) {
            let middle = self.image.middle(&Composed, pixels, mode)?;
            return Ok([middle.detach(), self.image.rest(&Composed, middle, mode)?.detach()]);
        }
        let tape = Tape::forgetful(Arc::default());
        let middle = self.image.middle(&tape, pixels, mode)?;
        let rows = self.image.rest(&tape, middle.clone(), mode)?;
        let tensor =
            |value: &Value| Tensor::from_slice(value.values(), tape.dims(value), &self.device);
        Ok([tensor(&middle)?, tensor(&rows)?])
    }
}

/// `[P, C]` -> the mean of each channel, then its greatest value, `[2 C]`.
fn summarize(places: &[f32], summary: &mut [f32]) {
    let channels = summary.len() / 2;
    let share = 1.0 / (places.len() / channels) as f32;
    let (mean, greatest) = summary.split_at_mut(channels);
    greatest.fill(f32::NEG_INFINITY);
    for place in places.chunks_exact(channels) {
        for ((mean, greatest), &value) in mean.iter_mut().zip(&mut *greatest).zip(place) {
            *mean += value;
            *greatest = greatest.max(value);
        }
    }
    mean.iter_mut().for_each(|mean| *mean *= share);
}

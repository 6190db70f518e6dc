//! What any CLIP can do, whoever computes it.

use crate::{ClipConfig, Result, embedding::UnitRows, image::PixelBatch, text::TokenBatch};

/// A pair of towers that turns images and texts into rows of one space.
///
/// `&mut self` because ONNX Runtime's `run` is exclusive: give each thread an encoder of its own.
pub trait Encoder {
    /// Sizes of the towers.
    fn config(&self) -> &ClipConfig;

    /// `[B, 3, H, W]` preprocessed pixels -> `[B, D]` unit rows.
    fn embed_images(&mut self, pixels: &PixelBatch) -> Result<UnitRows>;

    /// `[B, T]` token ids -> `[B, D]` unit rows.
    fn embed_texts(&mut self, tokens: &TokenBatch) -> Result<UnitRows>;

    /// The learned *logarithm* of the factor on cosines.
    fn logit_scale(&self) -> f32;
}

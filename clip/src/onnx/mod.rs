//! The towers in ONNX Runtime: [`load_runtime`] once per process, then one [`OnnxEncoder`] per
//! thread, since running a session is exclusive.
//!
//! | model | input | output |
//! |---|---|---|
//! | `onnx/vision_model.onnx` | `pixel_values` f32 `[B, 3, S, S]` | `image_embeds` f32 `[B, D]` |
//! | `onnx/text_model.onnx` | `input_ids` i64 `[B, T]`, any T up to the context length | `text_embeds` f32 `[B, D]` |
//!
//! The outputs are projected, not yet of unit length, as in the folders of the Hub.

mod runtime;
mod session;

use crate::{
    ClipConfig, Encoder, Error, Result,
    embedding::UnitRows,
    folder::{ModelFolder, names, weights_path},
    image::PixelBatch,
    text::TokenBatch,
    weights,
};

pub use runtime::load_runtime;
use session::Tower;

/// Name of the image tower's input.
pub const PIXEL_VALUES: &str = "pixel_values";
/// Name of the image tower's output.
pub const IMAGE_EMBEDS: &str = "image_embeds";
/// Name of the text tower's input.
pub const INPUT_IDS: &str = "input_ids";
/// Name of the text tower's output.
pub const TEXT_EMBEDS: &str = "text_embeds";

/// Both towers as ONNX Runtime sessions that own their threads.
#[derive(Debug)]
pub struct OnnxEncoder {
    config: ClipConfig,
    logit_scale: f32,
    image_tower: Tower,
    text_tower: Tower,
}

impl OnnxEncoder {
    /// Opens both models of the folder; each session computes on `threads` threads, at least one,
    /// which sleep while there is nothing to do.
    ///
    /// Refuses when [`load_runtime`] was not called, when a file is missing or broken, and when the
    /// models are not of the sizes that the configuration names.
    pub fn open(folder: &ModelFolder, threads: usize) -> Result<Self> {
        let config = folder.config.clone();
        let side = config.image.image_size() as i64;
        let open = |file: &str, input, input_shape: &[i64], output| {
            let output_shape = [-1, config.dim as i64];
            Tower::open(
                &folder.path.join(file),
                (input, input_shape),
                (output, &output_shape),
                threads,
            )
        };
        let pixels = [-1, 3, side, side];
        let image_tower = open(names::VISION_ONNX, PIXEL_VALUES, &pixels, IMAGE_EMBEDS)?;
        let text_tower = open(names::TEXT_ONNX, INPUT_IDS, &[-1, -1], TEXT_EMBEDS)?;
        let logit_scale = weights::read_logit_scale(&weights_path(&folder.path))?;
        Ok(Self { config, logit_scale, image_tower, text_tower })
    }
}

impl Encoder for OnnxEncoder {
    fn config(&self) -> &ClipConfig {
        &self.config
    }

    fn embed_images(&mut self, pixels: &PixelBatch) -> Result<UnitRows> {
        let side = self.config.image.image_size();
        if pixels.side() != side {
            let problem = format!("images of {0}x{0} pixels, expected {side}", pixels.side());
            return Err(Error::Runtime(problem));
        }
        let shape = [pixels.count(), 3, side, side];
        let rows = self.image_tower.run(&shape, pixels.values(), self.config.dim)?;
        Ok(UnitRows::normalize(rows, self.config.dim))
    }

    fn embed_texts(&mut self, tokens: &TokenBatch) -> Result<UnitRows> {
        let (length, vocab_size) = (tokens.length(), self.config.text.vocab_size);
        if length > self.config.text.context_length {
            let most = self.config.text.context_length;
            return Err(Error::Runtime(format!("texts of {length} tokens, at most {most}")));
        }
        if let Some(id) = tokens.ids().iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Runtime(format!("token {id} of a vocabulary of {vocab_size}")));
        }
        let ids: Vec<i64> = tokens.ids().iter().map(|&id| i64::from(id)).collect();
        let rows = self.text_tower.run(&[tokens.count(), length], &ids, self.config.dim)?;
        Ok(UnitRows::normalize(rows, self.config.dim))
    }

    fn logit_scale(&self) -> f32 {
        self.logit_scale
    }
}

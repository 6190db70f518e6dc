//! What a step is given.

use candle_core::Tensor;
use clip::{image::Pictures, model::Clip, text::TokenBatch};

use crate::{
    error::Result,
    gpu::{self, Gpu, Sent},
};

/// What one update is made from: all pairs in one of V views, then in the next.
#[derive(Debug)]
pub struct Batch {
    /// `[V B / R, 3, H, W]`, normalised: the part of this one of R ranks
    pub pixels: Pixels,
    /// `[V B / R, T]`, cut to the longest caption
    pub tokens: TokenBatch,
    /// Data-set row of each pair of the whole batch
    pub rows: Vec<u32>,
    /// Number of each caption: equal texts have equal numbers
    pub captions: Vec<u32>,
    /// Counted from 1
    pub epoch: u32,
}

impl Batch {
    /// Sends the pixels ahead, if there is room for them.
    pub fn sent_to(self, gpu: &Gpu) -> Result<Self> {
        Ok(Self { pixels: self.pixels.sent_to(gpu)?, ..self })
    }
}

/// `[N, 3, H, W]` normalised pixels, or what they are made of.
#[derive(Debug)]
pub enum Pixels {
    /// Row-major
    Values(Vec<f32>),
    /// To be varied on a GPU
    Pictures(Pictures),
    /// On a GPU
    Sent(Sent),
}

impl Default for Pixels {
    /// Of no pairs.
    fn default() -> Self {
        Self::Values(Vec::new())
    }
}

impl Pixels {
    /// Sends them, if there is room for them.
    pub fn sent_to(self, gpu: &Gpu) -> Result<Self> {
        let sent = match &self {
            Self::Values(values) => gpu.send(values)?,
            Self::Pictures(pictures) => gpu.send_pictures(pictures)?,
            Self::Sent(_) => None,
        };
        Ok(sent.map_or(self, Self::Sent))
    }

    /// What the towers of `model` look at.
    pub fn tensor(self, model: &Clip, count: usize) -> Result<Tensor> {
        let side = model.config().image.image_size();
        match self {
            Self::Values(values) => {
                Ok(Tensor::from_vec(values, (count, 3, side, side), model.device())?)
            }
            Self::Pictures(pictures) => Ok(model.pixels(&pictures)?),
            Self::Sent(sent) => gpu::receive(model, sent, count),
        }
    }
}

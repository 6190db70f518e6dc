//! Rows without a way back to the parameters: what is watched, asked for its pixels' gradient, or a
//! constant of a step.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

#[cfg(any(test, feature = "cuda"))]
use super::gpu::Purpose;
use super::{Clip, Image, Mode};
use crate::{
    config::Tower,
    ops::{Arena, Composed, Tape, Value, is_fused, values},
};

impl Clip {
    /// `[B, 3, H, W]` normalised pixels -> `[B, D]` unit rows, differentiable at the pixels; to
    /// train, take [`Clip::image_pass`].
    pub fn image_rows(&self, pixels: &Tensor, mode: Mode) -> crate::Result<Tensor> {
        let mode = self.image_mode(mode);
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.image_rows(&self.image, pixels, mode, Purpose::Evaluation)?); // a constant
        }
        match is_fused(pixels) {
            true => Ok(image_rows(&self.image, pixels, mode, &self.arena)?),
            false => Ok(self.image.rows(&Composed, pixels, mode)?),
        }
    }

    /// The rows of [`Clip::image_pass`] as constants, `[B, D]`: the same numbers, for which nothing
    /// is kept that a way back would need.
    pub fn constant_images(&self, pixels: &Tensor, mode: Mode) -> crate::Result<Tensor> {
        let mode = self.image_mode(mode);
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.image_rows(&self.image, pixels, mode, Purpose::Training)?);
        }
        if !is_fused(pixels) {
            return Ok(self.image.rows(&Composed, pixels, mode)?.detach());
        }
        let tape = Tape::forgetful(self.arena.clone()).among(self.peers.clone());
        let rows = self.image.rows(&tape, pixels, mode)?;
        let shape = (pixels.dim(0)?, self.config.dim);
        Ok(Tensor::from_slice(rows.values(), shape, &self.device)?)
    }

    /// The rows of [`Clip::text_pass`] as constants, `[B, D]`.
    pub fn constant_texts(&self, ids: &Tensor) -> crate::Result<Tensor> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.text_rows(&self.text, ids, Purpose::Training)?);
        }
        self.forgotten_texts(ids, self.arena.clone())
    }

    /// `[B, T]` token ids -> `[B, D]` unit rows.
    pub(super) fn evaluated_texts(&self, ids: &Tensor) -> crate::Result<Tensor> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.text_rows(&self.text, ids, Purpose::Evaluation)?);
        }
        self.forgotten_texts(ids, Arc::default())
    }

    fn forgotten_texts(&self, ids: &Tensor, arena: Arc<Arena>) -> crate::Result<Tensor> {
        if !is_fused(&self.logit_scale) {
            return Ok(self.text.rows(&Composed, ids)?.detach());
        }
        let rows = self.text.rows(&Tape::forgetful(arena), ids)?;
        let shape = (ids.dim(0)?, self.config.dim);
        Ok(Tensor::from_slice(rows.values(), shape, &self.device)?)
    }

    /// The statistics of a locked tower are as constant as its parameters.
    pub(super) fn image_mode(&self, mode: Mode) -> Mode {
        if self.locked == Some(Tower::Image) { Mode::Evaluate } else { mode }
    }
}

/// `[B, 3, H, W]` -> `[B, D]` unit rows, f32 on the CPU, with a way back to the pixels.
fn image_rows(
    tower: &Arc<Image>,
    pixels: &Tensor,
    mode: Mode,
    arena: &Arc<Arena>,
) -> Result<Tensor> {
    let (tower, kept) = (tower.clone(), Mutex::default());
    let arena = pixels.track_op().then(|| arena.clone());
    pixels.contiguous()?.apply_op1(ImageRows { tower, mode, arena, kept })
}

/// A whole tower as one operator of candle.
struct ImageRows {
    tower: Arc<Image>,
    mode: Mode,
    /// Where the way back is kept, if the pixels ask for a gradient.
    arena: Option<Arc<Arena>>,
    kept: Mutex<Option<(Tape, Value)>>,
}

impl CustomOp1 for ImageRows {
    fn name(&self) -> &'static str {
        "image_rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let pixels = values(self.name(), storage, layout)?;
        let pixels = Tensor::from_slice(pixels, layout.shape(), &candle_core::Device::Cpu)?;
        let tape = match &self.arena {
            Some(arena) => Tape::to_pixels(arena.clone()),
            None => Tape::forgetful(Arc::default()),
        };
        let rows = self.tower.rows(&tape, &pixels, self.mode)?;
        let values = rows.values().to_vec();
        let batch = pixels.dim(0)?;
        let shape = Shape::from((batch, values.len() / batch));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((tape, rows));
        Ok((CpuStorage::F32(values), shape))
    }

    fn bwd(&self, pixels: &Tensor, _rows: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((tape, rows)) = kept else { candle_core::bail!("one way back for each pass") };
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let gradient = tape.backward_to_pixels(&rows, &gradient)?;
        Tensor::from_vec(gradient, pixels.shape(), pixels.device()).map(Some)
    }
}

//! Embeddings of a step, and the way back from them.
//!
//! The loss sees the rows as leaves. Its gradient at the rows is then carried on through the tower,
//! so that whoever computes the tower need not be who computes the loss (GradCache, Gao et al.
//! 2021, section 3).

use candle_core::{DType, Result, Tensor, Var, backprop::GradStore};

use super::{Clip, Mode};
use crate::{
    config::Tower,
    image::Pictures,
    ops::{Composed, Equals, Gradients, Tape, Value, is_fused, is_out_of_memory},
};

/// Rows that a tower has computed, and what it takes to go back through it.
#[derive(Debug)]
pub struct Pass {
    rows: Tensor,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// There is none.
    Locked,
    Tape(Tape, Value),
    Candle(Tensor),
    #[cfg(any(test, feature = "cuda"))]
    Gpu(Box<dyn super::gpu::WayBack>),
}

impl Pass {
    fn composed(rows: Tensor) -> Result<Self> {
        let leaf = Var::from_tensor(&rows.detach().copy()?)?;
        Ok(Self { rows: leaf.into_inner(), way: Way::Candle(rows) })
    }

    fn taped(tape: Tape, rows: Value, dim: usize) -> Result<Self> {
        let values = rows.values();
        let shape = (values.len() / dim, dim);
        let leaf = Var::from_slice(values, shape, &candle_core::Device::Cpu)?;
        Ok(Self { rows: leaf.into_inner(), way: Way::Tape(tape, rows) })
    }

    #[cfg(any(test, feature = "cuda"))]
    fn on_gpu((rows, way): super::gpu::Rows) -> Result<Self> {
        Ok(Self { rows: Var::from_tensor(&rows)?.into_inner(), way: Way::Gpu(way) })
    }

    /// `[B, D]`, unit rows: a leaf, of a locked tower a constant.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// Carries the gradient of the rows, which `loss` holds, on through the tower, and adds what its
    /// parameters get to `gradients`. A loss that does not depend on the rows leaves the tower at
    /// rest. Where the parameters live on a GPU, their gradients are there, too.
    pub fn backward(self, loss: &GradStore, gradients: &mut Gradients) -> Result<()> {
        match loss.get(self.rows()) {
            Some(gradient) => self.backward_from(gradient, gradients),
            None => Ok(()),
        }
    }

    /// [`Pass::backward`] from the gradient of the rows itself, `[B, D]`.
    pub fn backward_from(self, gradient: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let gradient = gradient.detach(); // candle would go back through what made it, too
        match self.way {
            Way::Locked => Ok(()),
            Way::Tape(tape, rows) => {
                let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
                tape.backward(&rows, &gradient, gradients)
            }
            #[cfg(any(test, feature = "cuda"))]
            Way::Gpu(way) => way.back(&gradient.flatten_all()?.to_vec1::<f32>()?),
            Way::Candle(rows) => gradients.extend(&(rows * gradient)?.sum_all()?.backward()?),
        }
    }
}

impl Clip {
    /// Pictures as `[B, 3, H, W]` pixels for the passes of this model. Where its towers live on a GPU
    /// they are varied there, part by part, and the tensor stands for them until other pixels take
    /// their place; its own values mean nothing, and a copy of it stands for nothing.
    pub fn pixels(&self, pictures: &Pictures) -> crate::Result<Tensor> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            let pixels = self.stand_in(pictures.count())?;
            gpu.upload(&pixels, pictures)?;
            return Ok(pixels);
        }
        let (count, side) = (pictures.count(), pictures.side());
        Ok(Tensor::from_vec(pictures.pixels(), (count, 3, side, side), &self.device)?)
    }

    /// `[count, 3, H, W]` zeros.
    pub fn blank(&self, count: usize) -> crate::Result<Tensor> {
        let side = self.config.image.image_size();
        Ok(Tensor::zeros((count, 3, side, side), DType::F32, &self.device)?)
    }

    /// `[B, 3, H, W]` normalised pixels -> `[B, D]` unit rows, for a step of training.
    pub fn image_pass(&self, pixels: &Tensor, mode: Mode) -> crate::Result<Pass> {
        if self.locked == Some(Tower::Image) {
            return Ok(Pass { rows: self.constant_images(pixels, mode)?, way: Way::Locked });
        }
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            for (_, running) in &self.running {
                running.statistics()?; // while the GPU rests between two steps
            }
            return Ok(Pass::on_gpu(gpu.image_pass(&self.image, pixels, mode)?)?);
        }
        if !is_fused(pixels) {
            assert!(self.peers.is_none(), "peers join f32 models on the CPU, or those on a GPU");
            return Ok(Pass::composed(self.image.rows(&Composed, pixels, mode)?)?);
        }
        let tape = Tape::new(self.arena.clone()).among(self.peers.clone());
        let rows = self.image.rows(&tape, pixels, mode)?;
        Ok(Pass::taped(tape, rows, self.config.dim)?)
    }

    /// `[B, T]` token ids (u32), any length up to the context -> `[B, D]` unit rows, for a step of
    /// training.
    pub fn text_pass(&self, ids: &Tensor) -> crate::Result<Pass> {
        if self.locked == Some(Tower::Text) {
            return Ok(Pass { rows: self.constant_texts(ids)?, way: Way::Locked });
        }
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return Ok(Pass::on_gpu(gpu.text_pass(&self.text, ids)?)?);
        }
        if !is_fused(&self.logit_scale) {
            return Ok(Pass::composed(self.text.rows(&Composed, ids)?)?);
        }
        let tape = Tape::new(self.arena.clone());
        let rows = self.text.rows(&tape, ids)?;
        Ok(Pass::taped(tape, rows, self.config.dim)?)
    }

    /// The greatest power of two below B of `[B, 3, H, W]` pixels and `[B, T]` ids that both towers
    /// and their loss have memory for, found by trial; 0 if there is none.
    pub fn largest_fit(&self, pixels: &Tensor, ids: &Tensor) -> crate::Result<usize> {
        let mut count = pixels.dim(0)?.next_power_of_two() / 2;
        while count > 0 {
            match self.there_and_back(&pixels.narrow(0, 0, count)?, &ids.narrow(0, 0, count)?) {
                Err(crate::Error::Candle(error)) if is_out_of_memory(&error) => count /= 2,
                outcome => return outcome.map(|()| count),
            }
        }
        Ok(0)
    }

    /// Both towers as in a step of training; the gradients are left where they are.
    pub(super) fn there_and_back(&self, pixels: &Tensor, ids: &Tensor) -> crate::Result<()> {
        let image = self.image_pass(pixels, Mode::Train)?;
        let text = self.text_pass(ids)?;
        let (rows, scale) = ([image.rows(), text.rows()], self.logit_scale());
        let loss = self.engine().info_nce(rows[0], rows[1], scale, Equals::Negatives)?;
        let at_rows = loss.backward()?;
        let mut gradients = self.gradients();
        text.backward(&at_rows, &mut gradients)?;
        Ok(image.backward(&at_rows, &mut gradients)?)
    }
}

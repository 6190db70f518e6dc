//! Embeddings of a step, and the way back from them.
//!
//! The loss sees the rows as leaves. Its gradient at the rows is then carried on through the tower,
//! so that whoever computes the tower need not be who computes the loss (GradCache, Gao et al.
//! 2021, section 3).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, Var, backprop::GradStore};

use super::{Clip, Image, Mode};
use crate::ops::{Arena, Gradients, Tape, Value, is_out_of_memory, values};

/// Rows that a tower has computed, and what it takes to go back through it.
#[derive(Debug)]
pub struct Pass {
    rows: Var,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Tape(Tape, Value),
    Candle(Tensor),
    #[cfg(any(test, feature = "cuda"))]
    Gpu(Box<dyn super::gpu::WayBack>),
}

impl Pass {
    pub(super) fn composed(rows: Tensor) -> Result<Self> {
        Ok(Self { rows: Var::from_tensor(&rows.detach().copy()?)?, way: Way::Candle(rows) })
    }

    pub(super) fn taped(tape: Tape, rows: Value, dim: usize) -> Result<Self> {
        let values = rows.values();
        let shape = (values.len() / dim, dim);
        let leaf = Var::from_slice(values, shape, &candle_core::Device::Cpu)?;
        Ok(Self { rows: leaf, way: Way::Tape(tape, rows) })
    }

    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn on_gpu((rows, way): super::gpu::Rows) -> Result<Self> {
        Ok(Self { rows: Var::from_tensor(&rows)?, way: Way::Gpu(way) })
    }

    /// `[B, D]`, unit rows: a leaf.
    pub fn rows(&self) -> &Tensor {
        self.rows.as_tensor()
    }

    /// Carries the gradient of the rows, which `loss` holds, on through the tower, and adds what its
    /// parameters get to `gradients`. A loss that does not depend on the rows leaves the tower at
    /// rest. Where the parameters live on a GPU, their gradients are there, too.
    pub fn backward(self, loss: &GradStore, gradients: &mut Gradients) -> Result<()> {
        let Some(gradient) = loss.get(self.rows()) else { return Ok(()) };
        let gradient = gradient.detach(); // candle would go back through what made it, too
        match self.way {
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
    /// The greatest power of two below B of `[B, 3, H, W]` pixels and `[B, T]` ids that both towers
    /// have memory for, found by trial; 0 if there is none. The loss is left out.
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
        let sums = (image.rows().sum_all()? + text.rows().sum_all()?)?.backward()?;
        let mut gradients = self.gradients();
        text.backward(&sums, &mut gradients)?;
        Ok(image.backward(&sums, &mut gradients)?)
    }
}

/// `[B, 3, H, W]` -> `[B, D]` unit rows, f32 on the CPU, with a way back to the pixels.
pub(super) fn image_rows(
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

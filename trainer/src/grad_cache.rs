//! A batch that goes through a tower in parts (GradCache, Gao et al. 2021, section 3).
//!
//! The rows of all parts are computed first, without what a way back would need, and the loss sees
//! them as one leaf: it is that of the whole batch. Then each part is computed once more, now with
//! its way back, and goes back from its part of the gradient at the rows. Memory holds the
//! activations of one part of one tower at a time, for one more pass forwards of each tower.
//!
//! The gradient is that of the whole batch but for the order of sums, as long as a row depends on
//! its own input alone: batch normalisation over a batch forbids it.

use candle_core::{Tensor, Var, backprop::GradStore};
use clip::{
    config::Tower,
    model::{Clip, Mode, Pass},
    ops::Gradients,
};

use crate::error::Result;

/// What a tower embeds.
#[derive(Debug, Clone)]
pub enum Input {
    /// `[B, 3, H, W]`, normalised
    Images(Tensor),
    /// `[B, T]` token ids
    Texts(Tensor),
}

impl Input {
    fn tower(&self) -> Tower {
        match self {
            Self::Images(_) => Tower::Image,
            Self::Texts(_) => Tower::Text,
        }
    }

    fn count(&self) -> Result<usize> {
        let (Self::Images(values) | Self::Texts(values)) = self;
        Ok(values.dim(0)?)
    }

    fn part(&self, start: usize, count: usize) -> Result<Self> {
        Ok(match self {
            Self::Images(pixels) => Self::Images(pixels.narrow(0, start, count)?),
            Self::Texts(ids) => Self::Texts(ids.narrow(0, start, count)?),
        })
    }

    fn pass(&self, model: &Clip) -> Result<Pass> {
        Ok(match self {
            Self::Images(pixels) => model.image_pass(pixels, Mode::Train)?,
            Self::Texts(ids) => model.text_pass(ids)?,
        })
    }

    fn constants(&self, model: &Clip) -> Result<Tensor> {
        Ok(match self {
            Self::Images(pixels) => model.constant_images(pixels, Mode::Train)?,
            Self::Texts(ids) => model.constant_texts(ids)?,
        })
    }
}

/// Rows of a batch, and the way back from them.
#[derive(Debug)]
pub struct Embedded<'a> {
    rows: Tensor,
    way: Way<'a>,
}

#[derive(Debug)]
enum Way<'a> {
    Whole(Pass),
    /// `(start, count)` of each part
    Parts(&'a Clip, Input, Vec<(usize, usize)>),
    Locked,
}

impl<'a> Embedded<'a> {
    /// Embeds the whole input at once, or at most `micro_batch` of it at a time.
    pub fn new(model: &'a Clip, input: Input, micro_batch: Option<usize>) -> Result<Self> {
        let count = input.count()?;
        let Some(size) = micro_batch.filter(|&size| size < count) else {
            let pass = input.pass(model)?;
            return Ok(Self { rows: pass.rows().clone(), way: Way::Whole(pass) });
        };
        let parts: Vec<_> =
            (0..count).step_by(size).map(|start| (start, size.min(count - start))).collect();
        let rows = parts.iter().map(|&(start, count)| input.part(start, count)?.constants(model));
        let rows = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
        if model.locked() == Some(input.tower()) {
            return Ok(Self { rows, way: Way::Locked });
        }
        let rows = Var::from_tensor(&rows)?.into_inner();
        Ok(Self { rows, way: Way::Parts(model, input, parts) })
    }

    /// `[B, D]`, unit rows: a leaf, of a locked tower a constant.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// Carries the gradient of the rows, which `loss` holds, on through the tower, and adds what
    /// its parameters get to `gradients`. A loss that does not depend on the rows leaves the tower
    /// at rest.
    pub fn backward(self, loss: &GradStore, gradients: &mut Gradients) -> Result<()> {
        let (model, input, parts) = match self.way {
            Way::Locked => return Ok(()),
            Way::Whole(pass) => return Ok(pass.backward(loss, gradients)?),
            Way::Parts(model, input, parts) => (model, input, parts),
        };
        let Some(gradient) = loss.get(&self.rows) else { return Ok(()) };
        for (start, count) in parts {
            let pass = input.part(start, count)?.pass(model)?;
            pass.backward_from(&gradient.narrow(0, start, count)?, gradients)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

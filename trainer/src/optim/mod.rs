//! How weights move.

mod adamw;
#[cfg(feature = "cuda")]
mod gpu;
mod schedule;

use std::borrow::Cow;

use clip::{model::Clip, ops::Gradients};

pub use adamw::{AdamW, Moments};
pub use schedule::Schedule;

use crate::{config::Optim, error::Result, method::Towers};

/// AdamW where the weights are.
#[derive(Debug)]
pub enum Optimizer {
    /// On the CPU
    Cpu(AdamW),
    /// On a GPU
    #[cfg(feature = "cuda")]
    Gpu(gpu::GpuAdamW),
}

impl Optimizer {
    /// All moments zero.
    pub fn new(model: &Clip, settings: &Optim) -> Self {
        #[cfg(feature = "cuda")]
        if model.resident().is_some() {
            return Self::Gpu(gpu::GpuAdamW::new(model.parameters(), settings));
        }
        Self::Cpu(AdamW::new(model.parameters(), settings))
    }

    /// Forgets all gradients, wherever they are: a step begins, and the last one may have failed
    /// half-way.
    pub fn rest(&self, model: &Clip, gradients: &mut Gradients) -> Result<()> {
        let _ = model; // without GPUs nothing is kept there
        gradients.clear();
        match self {
            Self::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Gpu(optimizer) => optimizer.rest(model),
        }
    }

    /// See [`AdamW::update`].
    pub fn update(
        &mut self,
        model: &Clip,
        gradients: &Gradients,
        trained: Towers,
        lr: f64,
    ) -> Result<f64> {
        match self {
            Self::Cpu(optimizer) => optimizer.update(model.parameters(), gradients, trained, lr),
            #[cfg(feature = "cuda")]
            Self::Gpu(optimizer) => optimizer.update(model, gradients, trained, lr),
        }
    }

    /// The state, in the order of the model's parameters.
    pub fn moments(&self, model: &Clip) -> Result<Cow<'_, [Moments]>> {
        let _ = model;
        match self {
            Self::Cpu(optimizer) => Ok(optimizer.moments().into()),
            #[cfg(feature = "cuda")]
            Self::Gpu(optimizer) => Ok(optimizer.moments(model)?.into()),
        }
    }

    /// Takes back what [`Optimizer::moments`] gave.
    pub fn restore(&mut self, model: &Clip, moments: Vec<Moments>) -> Result<()> {
        let _ = model;
        match self {
            Self::Cpu(optimizer) => {
                optimizer.restore(moments);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(optimizer) => optimizer.restore(model, moments),
        }
    }
}

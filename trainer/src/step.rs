//! One optimizer step, the same for every method and for any number of ranks.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use clip::{model::Clip, ops::Gradients};
use serde::Serialize;

use crate::{
    data::Batch,
    error::{Error, Result},
    grad_cache::{Embedded, Input},
    method::{Method, MethodLoss, MethodReport, Pairs, Second, Towers},
    not_finite::NotFinite,
    optim::{Optimizer, Schedule},
    parallel::Collective,
};

/// Everything that a step changes.
#[expect(missing_debug_implementations, reason = "a method is a trait object")]
pub struct Trainer {
    /// Both towers
    pub model: Clip,
    /// The loss and its state
    pub method: Box<dyn Method>,
    /// Of the last step
    pub gradients: Gradients,
    /// Moments
    pub optimizer: Optimizer,
    /// Learning rate
    pub schedule: Schedule,
    /// The ranks that train it together
    pub collective: Arc<dyn Collective>,
    /// Greatest *logarithm* of the factor on cosines
    pub logit_scale_max: f64,
    /// Pairs of this rank that go through the towers at once, each view for itself; all without
    pub micro_batch: Option<usize>,
    /// Updates so far
    pub step: u64,
}

/// What a step is recorded with.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// In nats
    pub loss: f32,
    /// Learning rate
    pub lr: f64,
    /// Euclidean norm of the whole gradient
    pub grad_norm: f64,
    /// Logarithm of the factor on cosines, after the update
    pub logit_scale: f32,
    /// Towers with a gradient; another tower with one fails the step
    #[serde(skip)]
    pub trained: Towers,
    /// The method's part
    #[serde(flatten)]
    pub method: MethodReport,
}

impl Trainer {
    /// Embeds this rank's part of a batch, asks the method for the loss of the whole batch, and
    /// moves the towers that the loss trains, on all ranks alike.
    ///
    /// A loss or gradient that is not finite, on whichever rank, is [`Error::Diverged`] on all; the
    /// weights stay as they were. A batch that a GPU has no memory for is [`Error::BatchMemory`],
    /// and the model is of no use then.
    pub fn step(&mut self, mut batch: Batch) -> Result<StepReport> {
        let (device, count) = (self.model.device(), batch.tokens.count()); // V B / R
        let pixels = std::mem::take(&mut batch.pixels);
        let ids = Tensor::from_slice(batch.tokens.ids(), (count, batch.tokens.length()), device)?;
        let (epoch, views) = (batch.epoch, count * self.collective.ranks() / batch.rows.len());
        let pixels = pixels.tensor(&self.model, count);
        let outcome = pixels.and_then(|pixels| self.step_on(&pixels, &ids, views, batch));
        outcome.map_err(|error| match error.out_of_memory() {
            None => self.diverged(epoch, error),
            Some(problem) => self.too_large(&ids, views, problem.to_string()),
        })
    }

    fn step_on(
        &mut self,
        pixels: &Tensor,
        ids: &Tensor,
        views: usize,
        batch: Batch,
    ) -> Result<StepReport> {
        self.optimizer.rest(&self.model, &mut self.gradients)?;
        let part = self.micro_batch.map(|pairs| views * pairs);
        let embed = |input| Embedded::new(&self.model, input, part);
        let image = embed(Input::Images(pixels.clone()))?;
        let text = embed(Input::Texts(ids.clone()))?;
        let images = self.collective.gather_rows(image.rows())?; // [V B, D], unit rows
        let texts = self.collective.gather_rows(text.rows())?; // [V B, D]
        let view = |all, number| self.collective.view(all, views, number);
        let pairs = Pairs {
            image: view(&images, 0)?, // [B, D]
            text: view(&texts, 0)?,
            engine: self.model.engine(),
            second: match views {
                1 => None,
                _ => Some(Second { image: view(&images, 1)?, text: view(&texts, 1)? }),
            },
            rows: batch.rows,
            captions: batch.captions,
            epoch: batch.epoch,
            step: self.step,
        };
        let MethodLoss { loss, trained, report } =
            self.method.loss(&pairs, self.model.logit_scale())?;
        let value = loss.to_scalar::<f32>()?;
        // Of the whole batch, and yet one rank may round it to no number where the others do not: it
        // would leave them waiting in the sums below.
        if !self.collective.all(value.is_finite()) {
            return Err(Error::NotFinite(NotFinite::Loss));
        }
        let mut at_rows = loss.backward()?; // of all ranks
        self.collective.keep_own(&mut at_rows, &texts, text.rows())?;
        self.collective.keep_own(&mut at_rows, &images, image.rows())?;
        self.gradients.extend(&at_rows)?; // of the logit scale
        text.backward(&at_rows, &mut self.gradients)?; // a tower that rests frees its memory
        image.backward(&at_rows, &mut self.gradients)?;
        self.collective.sum_gradients(&self.model, &mut self.gradients)?;
        let trained = trained.without(self.model.locked());
        let lr = self.method.lr(&self.schedule, batch.epoch, self.step);
        let grad_norm = self.optimizer.update(&self.model, &self.gradients, trained, lr)?;
        let logit_scale = clamp_logit_scale(&self.model, self.logit_scale_max)?;
        self.step += 1;
        Ok(StepReport { loss: value, lr, grad_norm, logit_scale, trained, method: report })
    }

    /// Where `error` happened, and why, if it is that something is not finite.
    pub fn diverged(&self, epoch: u32, error: Error) -> Error {
        let Error::NotFinite(what) = error else { return error };
        match what.traced(&self.model) {
            Ok(what) => Error::Diverged { what, epoch, step: self.step },
            Err(other) => other,
        }
    }

    /// What would have fitted; one of several ranks cannot try, since the others wait elsewhere.
    fn too_large(&self, ids: &Tensor, views: usize, problem: String) -> Error {
        let fits = || -> Result<Error> {
            let count = ids.dim(0)?;
            let part = self.micro_batch.map(|pairs| views * pairs).filter(|&rows| rows < count);
            let (key, rows) = match part {
                Some(rows) => ("optim.micro_batch", rows),
                None => ("data.batch_size", count),
            };
            let batch = rows / views;
            if self.collective.ranks() > 1 {
                let batch = if part.is_some() { batch } else { batch * self.collective.ranks() };
                return Ok(Error::BatchMemory { key, batch, fits: None, problem });
            }
            let (pixels, ids) = (self.model.blank(rows)?, ids.narrow(0, 0, rows)?);
            let fits = Some(self.model.largest_fit(&pixels, &ids)? / views);
            Ok(Error::BatchMemory { key, batch, fits, problem })
        };
        fits().unwrap_or_else(|other| other)
    }
}

/// Keeps the factor on cosines between 1 and its maximum (CLIP, section 2.5), `most` its logarithm;
/// the logarithm that it has then.
fn clamp_logit_scale(model: &Clip, most: f64) -> Result<f32> {
    let mut scales = model.parameters().iter().filter(|p| !p.is_image() && !p.is_text());
    let scale = &scales.next().expect("the logit scale is a parameter").var;
    let value = scale.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    let clamped = value.clamp(0.0, most as f32);
    if clamped != value {
        scale.set(&Tensor::new(clamped, scale.device())?)?;
    }
    Ok(clamped)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use clip::ClipConfig;

    use super::*;

    #[test]
    fn the_factor_on_cosines_stays_between_1_and_its_maximum() -> Result<()> {
        let mut config = ClipConfig::preset("vit-micro").expect("a preset");
        config.text.vocab_size = 9;
        let model = Clip::init(&config, 1, &Device::Cpu)?;
        let scale = model.parameters().iter().find(|p| !p.is_image() && !p.is_text());
        let scale = &scale.expect("one").var;
        let most = 100f64.ln();
        for (before, after) in [(-0.5f32, 0.0), (0.0, 0.0), (2.5, 2.5), (4.7, most as f32)] {
            scale.set(&Tensor::new(before, &Device::Cpu)?)?;
            assert_eq!(clamp_logit_scale(&model, most)?, after, "of {before}");
            assert_eq!(model.logit_scale().to_scalar::<f32>()?, after, "of {before}");
        }
        Ok(())
    }
}

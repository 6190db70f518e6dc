//! AdamW where the parameters live on a GPU; the logit scale is moved on the CPU.

use clip::{
    model::{Clip, Parameter, Resident, Update},
    ops::Gradients,
};

use super::{
    AdamW, Moments,
    adamw::{self, Step, moves},
};
use crate::{
    config::Optim,
    error::{Error, Result},
    method::Towers,
    not_finite::NotFinite,
};

/// The optimizer of a model on a GPU.
#[derive(Debug)]
pub struct GpuAdamW {
    settings: Optim,
    /// Updates of each parameter, in the order of the model's.
    updates: Vec<u32>,
    scale: AdamW,
}

/// The parameters on the GPU.
fn resident(model: &Clip) -> &dyn Resident {
    model.resident().expect("made for a model on a GPU")
}

fn is_scale(parameter: &Parameter) -> bool {
    !parameter.is_image() && !parameter.is_text()
}

/// The logit scale alone.
fn scale(parameters: &[Parameter]) -> &[Parameter] {
    let at = parameters.iter().position(is_scale).expect("the logit scale is a parameter");
    &parameters[at..=at]
}

/// Which gradient is not finite.
fn not_finite(
    moving: &[(usize, &Parameter)],
    gpu: &dyn Resident,
    scale: &Parameter,
    of_scale: f64,
) -> Result<Error> {
    let mut squares = vec![(scale, of_scale * of_scale)];
    for &(_, parameter) in moving {
        let gradient = gpu.gradient(parameter)?;
        squares.push((parameter, gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum()));
    }
    Ok(Error::NotFinite(NotFinite::of_gradients(squares)))
}

impl From<Step> for Update {
    fn from(Step { scale, betas, size, factor, epsilon, kept }: Step) -> Self {
        Self { scale, betas, size, factor, epsilon, kept }
    }
}

impl GpuAdamW {
    /// All moments zero.
    pub fn new(parameters: &[Parameter], settings: &Optim) -> Self {
        let scale = AdamW::new(scale(parameters), settings);
        Self { settings: settings.clone(), updates: vec![0; parameters.len()], scale }
    }

    /// Forgets the gradients on the GPU.
    pub fn rest(&self, model: &Clip) -> Result<()> {
        Ok(resident(model).rest()?)
    }

    /// As [`AdamW::update`]; `gradients` has that of the logit scale.
    pub fn update(
        &mut self,
        model: &Clip,
        gradients: &Gradients,
        trained: Towers,
        lr: f64,
    ) -> Result<f64> {
        let (parameters, gpu) = (model.parameters(), resident(model));
        let mut moving = Vec::with_capacity(parameters.len());
        for (at, parameter) in parameters.iter().enumerate().filter(|(_, one)| !is_scale(one)) {
            if moves(parameter, trained, gpu.is_reached(parameter))? {
                moving.push((at, parameter));
            }
        }
        let of_scale = gradients.get(0).map(|gradient| f64::from(gradient[0]));
        moves(&scale(parameters)[0], trained, of_scale.is_some())?;
        let of_scale = of_scale.unwrap_or(0.0);
        let factor = match self.settings.grad_clip_norm {
            None => 1.0, // the update need not wait for the norm
            Some(_) => adamw::scale(&self.settings, gpu.norm()?.hypot(of_scale)),
        };
        if !of_scale.is_finite() {
            return Err(not_finite(&moving, gpu, &scale(parameters)[0], of_scale)?);
        }
        let updates: Vec<_> = moving
            .iter()
            .map(|&(at, parameter)| {
                let updates = self.updates[at] + 1;
                (parameter, Step::new(&self.settings, parameter, updates, lr, factor).into())
            })
            .collect();
        let norm = gpu.update(&updates)?;
        if !norm.is_finite() {
            return Err(not_finite(&moving, gpu, &scale(parameters)[0], of_scale)?);
        }
        moving.iter().for_each(|&(at, _)| self.updates[at] += 1);
        self.scale.apply(scale(parameters), gradients, lr, factor)?;
        Ok(norm.hypot(of_scale))
    }

    /// The state, in the order of the model's parameters.
    pub fn moments(&self, model: &Clip) -> Result<Vec<Moments>> {
        let moments = model.parameters().iter().zip(&self.updates).map(|(parameter, &updates)| {
            if is_scale(parameter) {
                return Ok(self.scale.moments()[0].clone());
            }
            let [mean, square] = resident(model).moments(parameter)?;
            Ok(Moments { mean, square, updates })
        });
        moments.collect()
    }

    /// Takes back what [`GpuAdamW::moments`] gave.
    pub fn restore(&mut self, model: &Clip, moments: Vec<Moments>) -> Result<()> {
        assert_eq!(moments.len(), self.updates.len(), "a checkpoint of this model");
        let mut on_gpu = Vec::with_capacity(moments.len());
        for ((parameter, moments), updates) in
            model.parameters().iter().zip(&moments).zip(&mut self.updates)
        {
            *updates = moments.updates;
            match is_scale(parameter) {
                true => self.scale.restore(vec![moments.clone()]),
                false => on_gpu.push((parameter, [&moments.mean[..], &moments.square[..]])),
            }
        }
        Ok(resident(model).restore(&on_gpu)?)
    }
}

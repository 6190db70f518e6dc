//! AdamW (Loshchilov & Hutter 2019) with decay groups, towers at rest, and state that can be saved.

use candle_core::{
    CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result as CandleResult, Tensor,
    backprop::GradStore,
};
use clip::model::Parameter;

use crate::{
    config::Optim,
    error::{Error, Result},
    method::Towers,
};

/// Running means of a parameter's gradient and of its square, and its updates so far.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Same shape as the parameter
    pub mean: Tensor,
    /// Same shape as the parameter
    pub square: Tensor,
    /// Updates of this parameter: a tower at rest does not count
    pub updates: u32,
}

/// The optimizer of all parameters of a model.
#[derive(Debug)]
pub struct AdamW {
    settings: Optim,
    /// In the order of the model's parameters.
    moments: Vec<Moments>,
}

impl AdamW {
    /// All moments zero.
    pub fn new(parameters: &[Parameter], settings: &Optim) -> Result<Self> {
        let moments = parameters.iter().map(|parameter| {
            let mean = parameter.var.as_tensor().zeros_like()?;
            Ok(Moments { square: mean.zeros_like()?, mean, updates: 0 })
        });
        Ok(Self { settings: settings.clone(), moments: moments.collect::<Result<_>>()? })
    }

    /// The state, in the order of the model's parameters.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Takes back what [`AdamW::moments`] gave.
    pub fn restore(&mut self, moments: Vec<Moments>) {
        assert_eq!(moments.len(), self.moments.len(), "a checkpoint of this model");
        self.moments = moments;
    }

    /// One update; returns the Euclidean norm of the whole gradient.
    ///
    /// A parameter of a trained tower without a gradient, or one of a resting tower with one, is
    /// an error of the method: nothing is updated then. A non-finite gradient is
    /// [`Error::NotFinite`].
    pub fn update(
        &mut self,
        parameters: &[Parameter],
        grads: &GradStore,
        trained: Towers,
        lr: f64,
    ) -> Result<f64> {
        let mut moving = Vec::with_capacity(parameters.len());
        let mut square = 0.0;
        for (parameter, moments) in parameters.iter().zip(&mut self.moments) {
            let rests =
                (parameter.is_image() && !trained.image) || (parameter.is_text() && !trained.text);
            match grads.get(&parameter.var) {
                Some(grad) if !rests => {
                    let grad = grad.contiguous()?;
                    square +=
                        f64::from(grad.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
                    moving.push((parameter, moments, grad));
                }
                None if rests => {}
                _ => return Err(Error::Gradient { parameter: parameter.name.clone(), rests }),
            }
        }
        if !square.is_finite() {
            return Err(Error::NotFinite);
        }
        for (parameter, moments, grad) in moving {
            self.settings.step(parameter, moments, &grad, lr)?;
        }
        Ok(square.sqrt())
    }
}

impl Optim {
    fn step(
        &self,
        parameter: &Parameter,
        moments: &mut Moments,
        grad: &Tensor,
        lr: f64,
    ) -> CandleResult<()> {
        moments.updates += 1;
        let correction = |beta: f64| 1.0 - beta.powi(moments.updates as i32);
        let step = Step {
            size: lr / correction(self.beta1),
            square: 1.0 / correction(self.beta2),
            epsilon: self.epsilon,
            kept: 1.0 - if parameter.decays() { lr * self.weight_decay } else { 0.0 },
        };
        let var = parameter.var.as_tensor();
        if var.device().is_cpu() && var.dtype() == DType::F32 {
            moments.mean.inplace_op2(grad, &Mean(self.beta1 as f32))?;
            moments.square.inplace_op2(grad, &Square(self.beta2 as f32))?;
            return var.inplace_op3(&moments.mean, &moments.square, &step);
        }
        let blend = |old: &Tensor, new: &Tensor, beta: f64| (old * beta)? + (new * (1.0 - beta))?;
        moments.mean = blend(&moments.mean, grad, self.beta1)?;
        moments.square = blend(&moments.square, &grad.sqr()?, self.beta2)?;
        let root = ((&moments.square * step.square)?.sqrt()? + step.epsilon)?;
        let moved = ((var * step.kept)? - (moments.mean.div(&root)? * step.size)?)?;
        parameter.var.set(&moved)
    }
}

/// `mean = beta mean + (1 - beta) grad`
struct Mean(f32);

/// `square = beta square + (1 - beta) grad^2`
struct Square(f32);

/// `weight = kept weight - size mean / (sqrt(square' square) + epsilon)`
struct Step {
    size: f64,
    square: f64,
    epsilon: f64,
    kept: f64,
}

fn target<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> &'a mut [f32] {
    let (start, end) = layout.contiguous_offsets().expect("state and weights are contiguous");
    match storage {
        CpuStorage::F32(all) => &mut all[start..end],
        _ => unreachable!("`Optim::step` asks for f32"),
    }
}

fn source<'a>(storage: &'a CpuStorage, layout: &Layout) -> &'a [f32] {
    let (start, end) = layout.contiguous_offsets().expect("gradients were made contiguous");
    match storage {
        CpuStorage::F32(all) => &all[start..end],
        _ => unreachable!("`Optim::step` asks for f32"),
    }
}

impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "adamw_mean"
    }

    fn cpu_fwd(
        &self,
        mean: &mut CpuStorage,
        mean_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> CandleResult<()> {
        let grads = source(grad, grad_layout);
        for (mean, grad) in target(mean, mean_layout).iter_mut().zip(grads) {
            *mean = self.0 * *mean + (1.0 - self.0) * grad;
        }
        Ok(())
    }
}

impl InplaceOp2 for Square {
    fn name(&self) -> &'static str {
        "adamw_square"
    }

    fn cpu_fwd(
        &self,
        square: &mut CpuStorage,
        square_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> CandleResult<()> {
        let grads = source(grad, grad_layout);
        for (square, grad) in target(square, square_layout).iter_mut().zip(grads) {
            *square = self.0 * *square + (1.0 - self.0) * grad * grad;
        }
        Ok(())
    }
}

impl InplaceOp3 for Step {
    fn name(&self) -> &'static str {
        "adamw_step"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        mean: &CpuStorage,
        mean_layout: &Layout,
        square: &CpuStorage,
        square_layout: &Layout,
    ) -> CandleResult<()> {
        let (means, squares) = (source(mean, mean_layout), source(square, square_layout));
        let (size, factor) = (self.size as f32, self.square as f32);
        let (epsilon, kept) = (self.epsilon as f32, self.kept as f32);
        let weights = target(weight, weight_layout).iter_mut();
        for ((weight, mean), square) in weights.zip(means).zip(squares) {
            *weight = kept * *weight - size * mean / ((square * factor).sqrt() + epsilon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn parameter<const N: usize>(
        name: &str,
        values: &[[f64; 2]; N],
        dtype: DType,
    ) -> CandleResult<Parameter> {
        let tensor = Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?;
        Ok(Parameter { name: name.into(), var: Var::from_tensor(&tensor)? })
    }

    /// Three updates of `sum(w^2)`.
    fn trained(dtype: DType) -> Result<Vec<f64>> {
        let parameters = [parameter("visual.proj", &[[1.0, -2.0]], dtype)?];
        let settings = Optim { weight_decay: 0.1, ..Optim::default() };
        let mut optimizer = AdamW::new(&parameters, &settings)?;
        for _ in 0..3 {
            let grads = parameters[0].var.sqr()?.sum_all()?.backward()?;
            optimizer.update(&parameters, &grads, Towers::BOTH, 0.1)?;
        }
        let weights = parameters[0].var.as_tensor().to_dtype(DType::F64)?;
        Ok(weights.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn fused_and_composed_agree_with_the_formula() -> Result<()> {
        let (fused, composed) = (trained(DType::F32)?, trained(DType::F64)?);
        let mut expected = [1.0f64, -2.0];
        let (mut mean, mut square) = ([0.0; 2], [0.0; 2]);
        for step in 1..=3 {
            for i in 0..2 {
                let grad = 2.0 * expected[i];
                mean[i] = 0.9 * mean[i] + 0.1 * grad;
                square[i] = 0.98 * square[i] + 0.02 * grad * grad;
                let (m, v) =
                    (mean[i] / (1.0 - 0.9f64.powi(step)), square[i] / (1.0 - 0.98f64.powi(step)));
                expected[i] = expected[i] * (1.0 - 0.1 * 0.1) - 0.1 * m / (v.sqrt() + 1e-8);
            }
        }
        for i in 0..2 {
            assert!((composed[i] - expected[i]).abs() < 1e-12, "{composed:?} vs {expected:?}");
            assert!((fused[i] - expected[i]).abs() < 1e-5, "{fused:?} vs {expected:?}");
        }
        Ok(())
    }

    #[test]
    fn a_missing_or_a_surplus_gradient_is_refused() -> Result<()> {
        let parameters = [
            parameter("visual.proj", &[[1.0, 2.0]], DType::F32)?,
            parameter("text_projection", &[[1.0, 2.0]], DType::F32)?,
        ];
        let mut optimizer = AdamW::new(&parameters, &Optim::default())?;
        let image = parameters[0].var.sum_all()?.backward()?;
        let both = (&*parameters[0].var + &*parameters[1].var)?.sum_all()?.backward()?;
        assert!(optimizer.update(&parameters, &image, Towers::BOTH, 0.1).is_err());
        assert!(optimizer.update(&parameters, &both, Towers::IMAGE, 0.1).is_err());
        optimizer.update(&parameters, &image, Towers::IMAGE, 0.1)?;
        assert_eq!(parameters[1].var.to_vec2::<f32>()?, [[1.0, 2.0]]); // no decay at rest
        Ok(())
    }
}

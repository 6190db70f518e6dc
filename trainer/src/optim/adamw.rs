//! AdamW (Loshchilov & Hutter 2019) with decay groups, towers at rest, and state that can be saved.

use std::cell::Cell;

use candle_core::{
    CpuStorage, CustomOp1, DType, InplaceOp1, Layout, Result as CandleResult, Shape, Storage,
    Tensor, backprop::GradStore,
};
use clip::model::Parameter;
use rayon::prelude::*;

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
                    square += square_sum(&grad)?;
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
            betas: [self.beta1, self.beta2],
            size: lr / correction(self.beta1),
            square: 1.0 / correction(self.beta2),
            epsilon: self.epsilon,
            kept: 1.0 - if parameter.decays() { lr * self.weight_decay } else { 0.0 },
        };
        let var = parameter.var.as_tensor();
        if is_fused(var) {
            let (storage, layout) = grad.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else { unreachable!("as the parameter's") };
            let grad = source(storage, layout);
            return change(&moments.mean, |mean| {
                change(&moments.square, |square| {
                    change(var, |weight| {
                        step.all(weight, mean, square, grad);
                        Ok(())
                    })
                })
            });
        }
        let blend = |old: &Tensor, new: &Tensor, beta: f64| (old * beta)? + (new * (1.0 - beta))?;
        moments.mean = blend(&moments.mean, grad, self.beta1)?;
        moments.square = blend(&moments.square, &grad.sqr()?, self.beta2)?;
        let root = ((&moments.square * step.square)?.sqrt()? + step.epsilon)?;
        let moved = ((var * step.kept)? - (moments.mean.div(&root)? * step.size)?)?;
        parameter.var.set(&moved)
    }
}

/// Sum of the squares of all values.
fn square_sum(grad: &Tensor) -> CandleResult<f64> {
    if is_fused(grad) {
        return grad.apply_op1_no_bwd(&SquareSum)?.to_scalar();
    }
    Ok(f64::from(grad.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}

fn is_fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// Values in one unit of parallel work: fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

struct SquareSum;

/// One update: `mean = b1 mean + (1 - b1) grad`, `square = b2 square + (1 - b2) grad^2`,
/// `weight = kept weight - size mean / (sqrt(factor square) + epsilon)`.
struct Step {
    betas: [f64; 2],
    size: f64,
    square: f64,
    epsilon: f64,
    kept: f64,
}

impl Step {
    /// In one pass over memory.
    fn all(&self, weight: &mut [f32], mean: &mut [f32], square: &mut [f32], grad: &[f32]) {
        let moments = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
        let chunks = weight.par_chunks_mut(CHUNK).zip(moments).zip(grad.par_chunks(CHUNK));
        chunks.for_each(|((weight, (mean, square)), grad)| {
            pulp::Arch::new().dispatch(Chunk { step: self, weight, mean, square, grad });
        });
    }
}

/// A part of a parameter, its moments and its gradient.
struct Chunk<'a> {
    step: &'a Step,
    weight: &'a mut [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    grad: &'a [f32],
}

/// Compiled for each width of vectors; the widest is chosen at run time.
impl pulp::NullaryFnOnce for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { step, weight, mean, square, grad } = self;
        let [b1, b2] = step.betas.map(|beta| beta as f32);
        let (size, factor) = (step.size as f32, step.square as f32);
        let (epsilon, kept) = (step.epsilon as f32, step.kept as f32);
        let moments = mean.iter_mut().zip(square);
        for ((weight, (mean, square)), grad) in weight.iter_mut().zip(moments).zip(grad) {
            *mean = b1 * *mean + (1.0 - b1) * grad;
            *square = b2 * *square + (1.0 - b2) * grad * grad;
            *weight = kept * *weight - size * *mean / ((*square * factor).sqrt() + epsilon);
        }
    }
}

/// Lends the values of a tensor to `f`, which may change them.
fn change(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> CandleResult<()>) -> CandleResult<()> {
    tensor.inplace_op1(&Change(Cell::new(Some(f))))
}

struct Change<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> CandleResult<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> CandleResult<()> {
        self.0.take().expect("candle calls it once")(target(storage, layout))
    }
}

fn target<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> &'a mut [f32] {
    let (start, end) = layout.contiguous_offsets().expect("state and weights are contiguous");
    match storage {
        CpuStorage::F32(all) => &mut all[start..end],
        _ => unreachable!("`is_fused` asks for f32"),
    }
}

fn source<'a>(storage: &'a CpuStorage, layout: &Layout) -> &'a [f32] {
    let (start, end) = layout.contiguous_offsets().expect("gradients were made contiguous");
    match storage {
        CpuStorage::F32(all) => &all[start..end],
        _ => unreachable!("`is_fused` asks for f32"),
    }
}

impl CustomOp1 for SquareSum {
    fn name(&self) -> &'static str {
        "square_sum"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let chunks = source(grad, layout).par_chunks(CHUNK);
        let sums: Vec<f64> = chunks.map(|chunk| f64::from(dot(chunk))).collect();
        Ok((CpuStorage::F64(vec![sums.iter().sum()]), Shape::from(())))
    }
}

/// `<x, x>`, in parts that a processor adds at one time.
fn dot(x: &[f32]) -> f32 {
    let (lanes, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for lane in lanes {
        sums.iter_mut().zip(lane).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
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

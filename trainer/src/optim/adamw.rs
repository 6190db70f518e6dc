//! AdamW (Loshchilov & Hutter 2019) with decay groups, towers at rest, and state that can be saved.

use std::cell::Cell;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result as CandleResult, Tensor, Var,
};
use clip::{model::Parameter, ops::Gradients};
use rayon::prelude::*;

use crate::{
    config::Optim,
    error::{Error, Result},
    method::Towers,
    not_finite::NotFinite,
};

/// Running means of a parameter's gradient and of its square, and its updates so far.
#[derive(Debug, Clone)]
pub struct Moments {
    /// As many values as the parameter has, row-major
    pub mean: Vec<f32>,
    /// As many values as the parameter has, row-major
    pub square: Vec<f32>,
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
    pub fn new(parameters: &[Parameter], settings: &Optim) -> Self {
        let zeros = |parameter: &Parameter| vec![0.0; parameter.var.elem_count()];
        let moments = parameters.iter().map(|parameter| Moments {
            mean: zeros(parameter),
            square: zeros(parameter),
            updates: 0,
        });
        Self { settings: settings.clone(), moments: moments.collect() }
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

    /// One update; returns the Euclidean norm of the whole gradient, before it is clipped.
    ///
    /// A parameter of a trained tower without a gradient, or one of a resting tower with one, is
    /// an error of the method: nothing is updated then. A non-finite gradient is
    /// [`Error::NotFinite`].
    pub fn update(
        &mut self,
        parameters: &[Parameter],
        gradients: &Gradients,
        trained: Towers,
        lr: f64,
    ) -> Result<f64> {
        let squares = parameters.iter().enumerate().map(|(number, parameter)| {
            moves(parameter, trained, gradients.get(number).is_some())?;
            Ok(gradients.parts(number).into_iter().map(square_sum).sum::<f64>())
        });
        let squares = squares.collect::<Result<Vec<f64>>>()?;
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            let squares = parameters.iter().zip(squares);
            return Err(Error::NotFinite(NotFinite::of_gradients(squares)));
        }
        self.apply(parameters, gradients, lr, scale(&self.settings, norm))?;
        Ok(norm)
    }

    /// Moves what has a gradient, by `scale` of it.
    pub(super) fn apply(
        &mut self,
        parameters: &[Parameter],
        gradients: &Gradients,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        for (number, (parameter, moments)) in parameters.iter().zip(&mut self.moments).enumerate() {
            if let Some(gradient) = gradients.get(number) {
                let Moments { mean, square, updates } = moments;
                *updates += 1;
                let step = Step::new(&self.settings, parameter, *updates, lr, scale);
                change(&parameter.var, |weight| step.all(weight, mean, square, gradient))?;
            }
        }
        Ok(())
    }
}

/// Factor on a whole gradient of this norm, so that it is no longer than `optim.grad_clip_norm`
/// (Pascanu et al. 2013, algorithm 1).
pub(super) fn scale(settings: &Optim, norm: f64) -> f64 {
    settings.grad_clip_norm.map_or(1.0, |longest| if norm > longest { longest / norm } else { 1.0 })
}

/// Whether a parameter is moved by a step that trains these towers; refuses one of a trained tower
/// without a gradient, and one of a resting tower with one.
pub(super) fn moves(parameter: &Parameter, trained: Towers, has_gradient: bool) -> Result<bool> {
    let rests = (parameter.is_image() && !trained.image) || (parameter.is_text() && !trained.text);
    if has_gradient == rests {
        return Err(Error::Gradient { parameter: parameter.name.clone(), rests });
    }
    Ok(!rests)
}

/// Values in one unit of parallel work: fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Sum of the squares of all values.
fn square_sum(values: &[f32]) -> f64 {
    if values.len() <= CHUNK {
        return f64::from(dot(values)); // a row of a table: there are thousands
    }
    let chunks = values.par_chunks(CHUNK).map(|chunk| f64::from(dot(chunk)));
    chunks.collect::<Vec<f64>>().iter().sum()
}

/// One update, with `grad` for `scale` times the gradient: `mean = b1 mean + (1 - b1) grad`,
/// `square = b2 square + (1 - b2) grad^2`,
/// `weight = kept weight - size mean / (sqrt(factor square) + epsilon)`.
pub(super) struct Step {
    pub(super) scale: f64,
    pub(super) betas: [f64; 2],
    pub(super) size: f64,
    pub(super) factor: f64,
    pub(super) epsilon: f64,
    pub(super) kept: f64,
}

impl Step {
    /// The update of a parameter that has `updates` of them, this one included: both moments begin
    /// at zero, and what they lack of a mean is made up for.
    pub(super) fn new(
        settings: &Optim,
        parameter: &Parameter,
        updates: u32,
        lr: f64,
        scale: f64,
    ) -> Self {
        let Optim { beta1, beta2, epsilon, weight_decay, .. } = *settings;
        let has = |beta: f64| 1.0 - beta.powi(updates as i32);
        Self {
            scale,
            betas: [beta1, beta2],
            size: lr / has(beta1),
            factor: 1.0 / has(beta2),
            epsilon,
            kept: 1.0 - if parameter.decays() { lr * weight_decay } else { 0.0 },
        }
    }

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
        let (size, factor) = (step.size as f32, step.factor as f32);
        let (epsilon, kept, scale) = (step.epsilon as f32, step.kept as f32, step.scale as f32);
        let moments = mean.iter_mut().zip(square);
        for ((weight, (mean, square)), grad) in weight.iter_mut().zip(moments).zip(grad) {
            let grad = scale * grad; // by 1 to the bit
            *mean = b1 * *mean + (1.0 - b1) * grad;
            *square = b2 * *square + (1.0 - b2) * grad * grad;
            *weight = kept * *weight - size * *mean / ((*square * factor).sqrt() + epsilon);
        }
    }
}

/// Lends the values of a variable to `f`, which may change them: in place for f32 on the CPU.
fn change(var: &Var, f: impl FnOnce(&mut [f32])) -> CandleResult<()> {
    if var.device().is_cpu() && var.dtype() == DType::F32 {
        return var.as_tensor().inplace_op1(&Change(Cell::new(Some(f))));
    }
    let mut values = var.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    f(&mut values);
    let changed = Tensor::from_vec(values, var.shape(), &Device::Cpu)?;
    var.set(&changed.to_dtype(var.dtype())?.to_device(var.device())?)
}

struct Change<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> CandleResult<()> {
        let (start, end) = layout.contiguous_offsets().expect("variables are contiguous");
        let CpuStorage::F32(all) = storage else { unreachable!("`change` asks for f32") };
        self.0.take().expect("candle calls it once")(&mut all[start..end]);
        Ok(())
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
    use rayon::ThreadPoolBuilder;

    use super::*;

    fn parameter<const N: usize>(
        name: &str,
        values: &[[f64; 2]; N],
        dtype: DType,
    ) -> CandleResult<Parameter> {
        let tensor = Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?;
        Ok(Parameter { name: name.into(), var: Var::from_tensor(&tensor)? })
    }

    fn gradients(parameters: &[Parameter], loss: &Tensor) -> CandleResult<Gradients> {
        let mut gradients = Gradients::new(parameters.iter().map(|p| p.var.as_tensor()));
        gradients.extend(&loss.backward()?)?;
        Ok(gradients)
    }

    /// Three updates of `sum(w^2)`.
    fn trained(dtype: DType) -> Result<Vec<f64>> {
        let parameters = [parameter("visual.proj", &[[1.0, -2.0]], dtype)?];
        let settings = Optim { weight_decay: 0.1, ..Optim::default() };
        let mut optimizer = AdamW::new(&parameters, &settings);
        for _ in 0..3 {
            let gradients = gradients(&parameters, &parameters[0].var.sqr()?.sum_all()?)?;
            optimizer.update(&parameters, &gradients, Towers::BOTH, 0.1)?;
        }
        let weights = parameters[0].var.as_tensor().to_dtype(DType::F64)?;
        Ok(weights.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn weights_move_by_the_formula_in_place_and_elsewhere() -> Result<()> {
        let (in_place, elsewhere) = (trained(DType::F32)?, trained(DType::F64)?);
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
        assert_eq!(in_place, elsewhere);
        for i in 0..2 {
            assert!((in_place[i] - expected[i]).abs() < 1e-5, "{in_place:?} vs {expected:?}");
        }
        Ok(())
    }

    #[test]
    fn the_norm_is_that_of_the_whole_gradient() -> Result<()> {
        let parameters = [parameter("visual.proj", &[[3.0, -2.0], [1.0, 0.5]], DType::F32)?];
        let mut optimizer = AdamW::new(&parameters, &Optim::default());
        let gradients = gradients(&parameters, &parameters[0].var.sqr()?.sum_all()?)?;
        let norm = optimizer.update(&parameters, &gradients, Towers::BOTH, 0.1)?;
        assert!((norm - 2.0 * 14.25f64.sqrt()).abs() < 1e-5, "{norm}");
        Ok(())
    }

    /// Two updates by clipped gradients are two by gradients that were as short before, and no
    /// gradient is made longer.
    #[test]
    fn a_long_gradient_is_clipped_as_a_whole() -> Result<()> {
        let moved = |clip: Option<f64>, factors: [f64; 2]| -> Result<(f64, Vec<f32>)> {
            let parameters = [
                parameter("visual.proj", &[[3.0, -2.0]], DType::F32)?,
                parameter("text_projection", &[[1.0, 0.5]], DType::F32)?,
            ];
            let settings = Optim { grad_clip_norm: clip, epsilon: 1.0, ..Optim::default() };
            let mut optimizer = AdamW::new(&parameters, &settings);
            let mut norm = 0.0;
            for factor in factors {
                let [image, text] = [0, 1].map(|number| parameters[number].var.as_tensor());
                let loss = ((image * 12.0)?.sum_all()? + (text * 5.0)?.sum_all()?)?;
                let gradients = gradients(&parameters, &(loss * factor)?)?;
                norm = optimizer.update(&parameters, &gradients, Towers::BOTH, 0.1)?;
            }
            let values = |number: usize| parameters[number].var.flatten_all()?.to_vec1::<f32>();
            Ok((norm, [values(0)?, values(1)?].concat()))
        };
        let length = 13.0 * 2f64.sqrt(); // of (12, 12, 5, 5)
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        let (norm, clipped) = moved(Some(length / 4.0), [1.0, 0.125])?;
        assert!((norm - length / 8.0).abs() < 1e-5, "{norm} is that before it is clipped");
        assert!(close(&clipped, &moved(None, [0.25, 0.125])?.1), "{clipped:?}");
        assert!(!close(&clipped, &moved(None, [1.0, 0.125])?.1), "{clipped:?}");
        assert_eq!(moved(Some(2.0 * length), [1.0, 1.0])?, moved(None, [1.0, 1.0])?);
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_and_moves_nothing() -> Result<()> {
        let parameters = [
            parameter("visual.proj", &[[1.0, 2.0]], DType::F32)?,
            parameter("text_projection", &[[1.0, 2.0]], DType::F32)?,
        ];
        let mut optimizer = AdamW::new(&parameters, &Optim::default());
        let sums = [0, 1].map(|number| parameters[number].var.sum_all());
        let [image, text] = sums;
        let gradients = gradients(&parameters, &((image? * f64::NAN)? + (text? * 1e30)?)?)?;
        let error = optimizer.update(&parameters, &gradients, Towers::BOTH, 0.1);
        let error = error.expect_err("not finite").to_string();
        // Both are: the square of the text's overflows.
        assert_eq!(error, "the gradient of `text_projection` is not finite");
        assert_eq!(parameters[1].var.to_vec2::<f32>()?, [[1.0, 2.0]]);
        Ok(())
    }

    #[test]
    fn a_sum_is_that_of_its_chunks_for_any_number_of_threads() {
        let values: Vec<f32> = (0..3 * CHUNK + 5).map(|at| (at as f32 * 0.37).sin()).collect();
        for count in [0, 7, CHUNK - 1, CHUNK, CHUNK + 1, values.len()] {
            let values = &values[..count];
            let expected: f64 = values.chunks(CHUNK).map(|chunk| f64::from(dot(chunk))).sum();
            for threads in [1, 2, 5] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                let sum = pool.expect("threads").install(|| square_sum(values));
                assert_eq!(sum, expected, "{count} values, {threads} threads");
            }
        }
    }

    #[test]
    fn a_missing_or_a_surplus_gradient_is_refused() -> Result<()> {
        let parameters = [
            parameter("visual.proj", &[[1.0, 2.0]], DType::F32)?,
            parameter("text_projection", &[[1.0, 2.0]], DType::F32)?,
        ];
        let mut optimizer = AdamW::new(&parameters, &Optim::default());
        let [image, text] = [0, 1].map(|number| parameters[number].var.sum_all());
        let (image, text) = (image?, text?);
        let both = gradients(&parameters, &(&image + &text)?)?;
        let image = gradients(&parameters, &image)?;
        assert!(optimizer.update(&parameters, &image, Towers::BOTH, 0.1).is_err());
        assert!(optimizer.update(&parameters, &both, Towers::IMAGE, 0.1).is_err());
        optimizer.update(&parameters, &image, Towers::IMAGE, 0.1)?;
        assert_eq!(parameters[1].var.to_vec2::<f32>()?, [[1.0, 2.0]]); // no decay at rest
        Ok(())
    }
}

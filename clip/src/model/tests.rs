//! Every parameter of every tower learns, and learns the right thing.

mod passes;
mod pictures;
mod ranks;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{gpu::OnMachine, *};
use crate::{
    Error,
    config::{Activation, Resnet, TextTower, Vit},
    ops::{
        Composed, Equals,
        cuda::{Precision, emulator::Emulator, subject::Subject},
        info_nce, is_out_of_memory,
        proof::numbers,
    },
};

/// Towers so small that finite differences over every parameter take a second.
fn tiny(image: ImageTower) -> ClipConfig {
    let text = TextTower { vocab_size: 11, context_length: 5, width: 8, layers: 2, heads: 2 };
    let activation = Activation::QuickGelu;
    ClipConfig { dim: 6, image, text, activation, mean: [0.5; 3], std: [0.5; 3] }
}

fn towers() -> [ClipConfig; 2] {
    let resnet = Resnet { image_size: 32, layers: [1, 2, 1, 1], width: 2, heads: 2 };
    let vit = Vit { image_size: 8, patch_size: 4, width: 8, layers: 2, heads: 2 };
    [tiny(ImageTower::Resnet(resnet)), tiny(ImageTower::Vit(vit))]
}

/// Initial weights moved off their zeros and ones, where gradients would vanish.
fn weights(config: &ClipConfig) -> Result<Weights> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut weights = init(config, 3)?;
    for (name, array) in &mut weights {
        let spread = if name == "logit_scale" { 0.0 } else { 0.2 };
        for value in &mut array.values {
            *value += spread * rng.random_range(0.0f32..1.0);
        }
    }
    Ok(weights)
}

/// Normalised pixels and token ids of four pairs.
fn pairs(model: &Clip, dtype: DType) -> Result<(Tensor, Tensor)> {
    let side = model.config().image.image_size();
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let pixels: Vec<f64> = (0..4 * 3 * side * side).map(|_| rng.random_range(-1.0..1.0)).collect();
    let pixels = Tensor::from_vec(pixels, (4, 3, side, side), &Device::Cpu)?.to_dtype(dtype)?;
    let ids: [[u32; 5]; 4] =
        [[9, 1, 2, 10, 0], [9, 3, 10, 0, 0], [9, 4, 5, 6, 10], [9, 7, 8, 10, 0]];
    Ok((pixels, Tensor::new(&ids, &Device::Cpu)?))
}

/// Symmetric cross-entropy of four pairs in f32, as a step of training computes it, and the gradient
/// of every parameter.
fn fast_loss(model: &Clip, mode: Mode) -> Result<(f32, Gradients)> {
    let (pixels, ids) = pairs(model, DType::F32)?;
    let (image, text) = (model.image_pass(&pixels, mode)?, model.text_pass(&ids)?);
    let loss = info_nce(image.rows(), text.rows(), model.logit_scale(), Equals::Negatives)?;
    let (at_rows, mut gradients) = (loss.backward()?, model.gradients());
    gradients.extend(&at_rows)?; // of the logit scale
    image.backward(&at_rows, &mut gradients)?;
    text.backward(&at_rows, &mut gradients)?;
    Ok((loss.to_scalar()?, gradients))
}

/// The same in f64, out of candle's primitives from the pixels to the loss.
fn exact_loss(model: &Clip) -> Result<Tensor> {
    let (pixels, ids) = pairs(model, DType::F64)?;
    let image = model.image.rows(&Composed, &pixels, Mode::Train)?;
    let text = model.text.rows(&Composed, &ids)?;
    Ok(info_nce(&image, &text, model.logit_scale(), Equals::Negatives)?)
}

/// The slope of [`exact_loss`] along one element of a parameter, by central differences.
fn slope(model: &Clip, parameter: &Parameter, element: usize) -> Result<f64> {
    const STEP: f64 = 1e-6;
    let original = parameter.var.as_tensor().copy()?;
    let at = |delta: f64| -> Result<f64> {
        let mut values = original.flatten_all()?.to_vec1::<f64>()?;
        values[element] += delta;
        parameter.var.set(&Tensor::from_vec(values, original.shape(), &Device::Cpu)?)?;
        Ok(exact_loss(model)?.to_scalar()?)
    };
    let slope = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
    parameter.var.set(&original)?;
    Ok(slope)
}

fn greatest(gradient: &[f64]) -> f64 {
    gradient.iter().fold(0.0, |max: f64, value| max.max(value.abs()))
}

/// Adding one vector to all keys adds one number to all scores of a query, which softmax cancels:
/// its gradient is zero. Blocks hold theirs as the middle third of `in_proj_bias`.
const IDLE: &str = "visual.attnpool.k_proj.bias";

#[test]
fn every_parameter_gets_the_gradient_of_finite_differences() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let [resnet, vit] = towers();
    let gelu = ClipConfig { activation: Activation::Gelu, ..vit.clone() };
    for config in [resnet, vit, gelu] {
        let weights = weights(&config)?;
        let exact = Clip::with_dtype(&config, &weights, &Device::Cpu, DType::F64)?;
        let fast = Clip::from_weights(&config, &weights, &Device::Cpu)?;
        let exact_grads = exact_loss(&exact)?.backward()?;
        let fast_grads = fast_loss(&fast, Mode::Train)?.1;
        assert_eq!(exact.parameters().len(), fast.parameters().len());
        let exact_grad = |name: &str| -> Result<Vec<f64>> {
            let found = exact.parameters().iter().find(|parameter| parameter.name == name);
            let gradient = found.and_then(|found| exact_grads.get(&found.var)).expect(name);
            Ok(gradient.flatten_all()?.to_vec1()?)
        };
        for (number, parameter) in exact.parameters().iter().enumerate() {
            let name = parameter.name.as_str();
            let gradient = exact_grad(name)?;
            let size = match name {
                IDLE => greatest(&exact_grad("visual.attnpool.k_proj.weight")?),
                _ => greatest(&gradient),
            };
            assert!(size > 1e-5, "`{name}` has no gradient: {size:e}");
            let fast_grad = fast_grads.get(number).expect(name);
            for (&fast, exact) in fast_grad.iter().zip(&gradient) {
                let close = (f64::from(fast) - exact).abs() < 2e-3 * size;
                assert!(close, "`{name}`: {fast} vs {exact}, {size}");
            }
            for _ in 0..3 {
                let element = rng.random_range(0..gradient.len());
                let (analytic, numeric) = (gradient[element], slope(&exact, parameter, element)?);
                let close = (analytic - numeric).abs() < 1e-4 * size;
                assert!(close, "`{name}`[{element}]: {analytic} vs {numeric}, {size}");
            }
        }
    }
    Ok(())
}

impl Clip {
    /// What a GPU moves.
    fn on_gpu(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.name != LOGIT_SCALE)
    }
}

/// On the machine that runs a GPU's kernels on the CPU, or on a GPU: in f32 the same gradients, in bf16 about the
/// same; and an update that moves against them.
#[test]
fn towers_on_a_gpu_learn_the_same() -> Result<()> {
    for config in towers() {
        let weights = weights(&config)?;
        let exact = Clip::with_dtype(&config, &weights, &Device::Cpu, DType::F64)?;
        let loss = exact_loss(&exact)?;
        let exact_grads = loss.backward()?;
        let loss: f64 = loss.to_scalar()?;
        for (precision, off_max) in [(Precision::F32, 2e-3), (Precision::Bf16, 0.2)] {
            let Some(machine) = Subject::new(false) else { return Ok(()) };
            let mut model = Clip::from_weights(&config, &weights, &Device::Cpu)?;
            model.gpu = Some(Arc::new(OnMachine::new(machine, &model.parameters, precision)?));
            let found = f64::from(fast_loss(&model, Mode::Train)?.0);
            assert!((found - loss).abs() < off_max * loss, "{found} vs {loss}");
            let gpu = model.resident().expect("towers on a machine");
            let (scale, betas, size) = (1.0, [0.0; 2], 1.0);
            let update = Update { scale, betas, size, factor: 0.0, epsilon: 1.0, kept: 1.0 };
            let moved: Vec<_> = model.on_gpu().collect();
            for parameter in &moved {
                assert!(gpu.is_reached(parameter), "`{}` has no gradient", parameter.name);
            }
            // Plain descent by 1: what is taken off is the gradient.
            let norm = gpu.update(&moved.iter().map(|p| (*p, update)).collect::<Vec<_>>())?;
            let after = model.weights()?;
            let (mut squares, mut off) = (0.0, 0.0);
            for parameter in exact.parameters() {
                let name = &parameter.name;
                if name == LOGIT_SCALE {
                    continue;
                }
                let grad = exact_grads.get(&parameter.var).expect(name);
                let grad = grad.flatten_all()?.to_vec1::<f64>()?;
                let size = greatest(&grad);
                let moved = weights[name].values.iter().zip(&after[name].values);
                for ((before, after), exact) in moved.zip(grad) {
                    let distance = (f64::from(before - after) - exact).abs();
                    squares += exact * exact;
                    off += distance * distance;
                    let close = distance < 2e-3 * size + 1e-5;
                    assert!(
                        precision == Precision::Bf16 || close,
                        "`{name}`: {distance} of {size}"
                    );
                }
            }
            let (size, off) = (squares.sqrt(), off.sqrt());
            assert!(off < off_max * size, "{precision:?}: {off} of {size}");
            assert!((norm - size).abs() < off_max * size, "{norm} vs {size}");
            assert_eq!(gpu.norm()?, norm);
            gpu.rest()?;
            assert!(!gpu.is_reached(moved[0]), "the next step begins without gradients");
        }
    }
    Ok(())
}

/// Both towers forward and back on a machine with `limit` bytes, and the most that they held.
fn peak(config: &ClipConfig, limit: usize, pairs: [&Tensor; 2]) -> Result<Option<(Clip, usize)>> {
    let Some(machine) = Emulator::with_memory(limit) else { return Ok(None) };
    let mut model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
    let towers = OnMachine::new(machine.clone(), &model.parameters, Precision::Bf16)?;
    model.gpu = Some(Arc::new(towers));
    let [pixels, ids] = pairs;
    let before = machine.held();
    let outcome = model.there_and_back(pixels, ids);
    assert_eq!(machine.held(), before, "what a pass held is given back");
    match outcome {
        Ok(()) => Ok(Some((model, machine.peak()))),
        Err(Error::Candle(error)) if is_out_of_memory(&error) => Ok(Some((model, usize::MAX))),
        Err(error) => Err(error),
    }
}

#[test]
fn a_batch_that_is_too_large_is_told_what_would_fit() -> Result<()> {
    let config = &towers()[1];
    let model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
    let (pixels, ids) = pairs(&model, DType::F32)?;
    let mut needs = Vec::new();
    for count in [1, 2, 4] {
        let some = [&pixels.narrow(0, 0, count)?, &ids.narrow(0, 0, count)?];
        let Some((_, peak)) = peak(config, usize::MAX, some)? else { return Ok(()) };
        needs.push(peak);
    }
    assert!(needs.is_sorted() && needs[0] < needs[2], "{needs:?}");
    for (limit, fits) in [(needs[2], 2), (needs[2] - 1, 2), (needs[1], 2), (needs[1] - 1, 1)] {
        let (model, found) = peak(config, limit, [&pixels, &ids])?.expect("it was there before");
        assert_eq!(found, if limit == needs[2] { limit } else { usize::MAX });
        assert_eq!(model.largest_fit(&pixels, &ids)?, fits, "{limit} bytes of {needs:?}");
    }
    let (model, _) = peak(config, needs[0] - 1, [&pixels, &ids])?.expect("it was there before");
    assert_eq!(model.largest_fit(&pixels, &ids)?, 0);
    Ok(())
}

/// A step on the machine of a model that lives there; its loss and the norm of its gradient.
fn step_on_machine(model: &Clip, update: Update) -> Result<(f32, f64)> {
    let gpu = model.resident().expect("towers on a machine");
    gpu.rest()?;
    let (loss, _) = fast_loss(model, Mode::Train)?;
    let updates: Vec<_> = model.on_gpu().map(|parameter| (parameter, update)).collect();
    Ok((loss, gpu.update(&updates)?))
}

/// What a checkpoint holds of a model on a GPU, taken back by a new one that has given up a step: both
/// go on alike, to the bit.
#[test]
fn a_model_restored_on_a_gpu_takes_the_same_step() -> Result<()> {
    let (scale, betas, size) = (1.0, [0.9, 0.98], 0.1);
    let update = Update { scale, betas, size, factor: 50.0, epsilon: 1e-8, kept: 0.99 };
    for config in towers() {
        let Some(machine) = Subject::new(false) else { return Ok(()) };
        let place = |weights: &Weights| -> Result<Clip> {
            let mut model = Clip::from_weights(&config, weights, &Device::Cpu)?;
            let towers = OnMachine::new(machine.clone(), &model.parameters, Precision::Bf16)?;
            model.gpu = Some(Arc::new(towers));
            Ok(model)
        };
        let model = place(&weights(&config)?)?;
        step_on_machine(&model, update)?;
        let gpu = model.resident().expect("towers on a machine");
        let saved = model.weights()?;
        let moments = model.on_gpu().map(|parameter| gpu.moments(parameter));
        let moments = moments.collect::<candle_core::Result<Vec<_>>>()?;
        let next = step_on_machine(&model, update)?;
        let expected = model.weights()?;
        assert_ne!(expected, saved);

        let restored = place(&saved)?;
        assert_eq!(restored.weights()?, saved);
        let pass = restored.text_pass(&pairs(&restored, DType::F32)?.1)?;
        let given_up = pass.rows().sum_all()?.backward()?;
        pass.backward(&given_up, &mut restored.gradients())?;
        let parts = moments.iter().map(|both| both.each_ref().map(Vec::as_slice));
        let parts: Vec<_> = restored.on_gpu().zip(parts).collect();
        restored.resident().expect("towers on a machine").restore(&parts)?;
        assert_eq!(step_on_machine(&restored, update)?, next);
        assert_eq!(restored.weights()?, expected);

        let forgetful = place(&saved)?;
        assert_eq!(step_on_machine(&forgetful, update)?, next); // moments move no loss yet
        assert_ne!(forgetful.weights()?, expected);
    }
    Ok(())
}

#[test]
fn a_frozen_tower_passes_the_gradient_to_the_pixels() -> Result<()> {
    for config in towers() {
        let weights = weights(&config)?;
        let side = config.image.image_size();
        let shape = [2, 3, side, side];
        let pixels = Tensor::from_vec(numbers(6 * side * side, 1), &shape, &Device::Cpu)?;
        let gradient = |dtype| -> Result<Vec<f64>> {
            let source = Source::new(&weights, &Device::Cpu, dtype, false);
            let model = Clip::build(&config, source)?;
            assert!(model.parameters().is_empty());
            let pixels = Var::from_tensor(&pixels.to_dtype(dtype)?)?;
            let rows = model.image_rows(&pixels, Mode::Evaluate)?;
            let shares =
                Tensor::from_vec(numbers(rows.elem_count(), 2), rows.shape(), &Device::Cpu)?;
            let grads = (rows * shares.to_dtype(dtype)?)?.sum_all()?.backward()?;
            let grad = grads.get(&pixels).expect("the pixels get a gradient");
            Ok(grad.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let (fast, exact) = (gradient(DType::F32)?, gradient(DType::F64)?);
        let size = exact.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
        assert!(size > 1e-9);
        for (fast, exact) in fast.iter().zip(&exact) {
            assert!((fast - exact).abs() < 2e-3 * size, "{fast} vs {exact}");
        }
    }
    Ok(())
}

#[test]
fn weights_go_out_as_they_came_in() -> Result<()> {
    for config in towers() {
        let weights = weights(&config)?;
        assert_eq!(Clip::from_weights(&config, &weights, &Device::Cpu)?.weights()?, weights);
    }
    Ok(())
}

#[test]
fn running_statistics_move_only_in_training() -> Result<()> {
    let config = &towers()[0];
    let model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
    let before = model.weights()?;
    for mode in [Mode::Evaluate, Mode::Survey] {
        fast_loss(&model, mode)?;
        assert_eq!(model.weights()?, before);
    }
    fast_loss(&model, Mode::Train)?;
    assert_ne!(model.weights()?, before);
    Ok(())
}

/// Lagging statistics made a filter worthless: what is asked of pairs must not know them.
#[test]
fn a_survey_knows_no_running_statistics() -> Result<()> {
    let config = &towers()[0];
    let weights = weights(config)?;
    let mut shifted = weights.clone();
    let means = shifted.iter_mut().filter(|(name, _)| name.ends_with("running_mean"));
    means.for_each(|(_, array)| array.values.iter_mut().for_each(|value| *value += 1.0));
    assert_ne!(shifted, weights);
    let loss = |weights, mode| -> Result<f32> {
        Ok(fast_loss(&Clip::from_weights(config, weights, &Device::Cpu)?, mode)?.0)
    };
    assert_eq!(loss(&weights, Mode::Survey)?, loss(&shifted, Mode::Survey)?, "to the bit");
    assert_ne!(loss(&weights, Mode::Evaluate)?, loss(&shifted, Mode::Evaluate)?);
    Ok(())
}

#[test]
fn projections_are_embeddings_at_their_length() -> Result<()> {
    for config in towers() {
        let weights = weights(&config)?;
        let mut model = Clip::from_weights(&config, &weights, &Device::Cpu)?;
        let (pixels, _) = pairs(&model, DType::F32)?;
        let side = config.image.image_size();
        let batch = PixelBatch::from_values(pixels.flatten_all()?.to_vec1()?, side);
        let found = model.project_images(&batch)?;
        assert_eq!(found.rows, model.embed_images(&batch)?, "to the bit");
        let exact = Clip::with_dtype(&config, &weights, &Device::Cpu, DType::F64)?;
        let pixels = pixels.to_dtype(DType::F64)?;
        let exact = exact.image.projections(&Composed, &pixels, Mode::Evaluate)?;
        let exact = exact.flatten_all()?.to_vec1::<f64>()?;
        let found: Vec<f32> = (0..4).flat_map(|row| found.row(row)).collect();
        assert_eq!(found.len(), exact.len());
        let most = greatest(&exact);
        for (found, exact) in found.iter().zip(&exact) {
            assert!((f64::from(*found) - exact).abs() < 1e-5 * most, "{found} vs {exact}");
        }
    }
    Ok(())
}

#[test]
fn what_a_tower_sees_on_its_way_is_the_same_whoever_computes_it() -> Result<()> {
    for config in towers() {
        let weights = weights(&config)?;
        let exact = Clip::with_dtype(&config, &weights, &Device::Cpu, DType::F64)?;
        let mut model = Clip::from_weights(&config, &weights, &Device::Cpu)?;
        let (pixels, _) = pairs(&model, DType::F32)?;
        let expected = exact.image_features(&pixels.to_dtype(DType::F64)?, Mode::Survey)?;
        let check = |found: Features| {
            for (found, expected) in
                [(found.middle, &expected.middle), (found.embedding, &expected.embedding)]
            {
                assert_eq!(found.len(), expected.len());
                let most = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-4 * most, "{found} vs {expected}");
                }
            }
        };
        let (batch, middle) = (pixels.dim(0)?, &expected.middle);
        let channels = match &config.image {
            ImageTower::Resnet(tower) => tower.channels() / 2, // of the third stage
            ImageTower::Vit(tower) => tower.width,
        };
        assert_eq!(middle.len(), batch * 2 * channels);
        for row in middle.chunks_exact(2 * channels) {
            let (mean, greatest) = row.split_at(channels);
            assert!(mean.iter().zip(greatest).all(|(mean, greatest)| mean <= greatest));
            assert!(mean.iter().zip(greatest).any(|(mean, greatest)| mean < greatest));
        }
        check(model.image_features(&pixels, Mode::Survey)?);
        let rows = model.image_rows(&pixels, Mode::Survey)?.flatten_all()?.to_vec1()?;
        let embedding = UnitRows::normalize(expected.embedding.clone(), config.dim);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(embedding.values().iter().zip(&rows).all(close), "where the tower ends");
        let Some(machine) = Subject::new(false) else { return Ok(()) };
        let machine = OnMachine::new(machine, &model.parameters, Precision::Bf16)?;
        model.gpu = Some(Arc::new(machine));
        check(model.image_features(&pixels, Mode::Survey)?);
    }
    Ok(())
}

//! Passes of parts of a batch, and of towers that are constants.

use super::*;
use crate::config::Tower;

#[test]
fn gradients_of_several_passes_add_up() -> Result<()> {
    let config = &towers()[1];
    for dtype in [DType::F32, DType::F64] {
        let model = Clip::with_dtype(config, &weights(config)?, &Device::Cpu, dtype)?;
        let pixels = Tensor::from_vec(numbers(4 * 3 * 64, 1), (4, 3, 8, 8), &Device::Cpu)?;
        let pixels = pixels.to_dtype(dtype)?;
        let found = |parts: &[Tensor]| -> Result<Vec<f32>> {
            let passes: Result<Vec<_>> =
                parts.iter().map(|part| model.image_pass(part, Mode::Train)).collect();
            let passes = passes?;
            let rows: Vec<&Tensor> = passes.iter().map(Pass::rows).collect();
            let rows = Tensor::cat(&rows, 0)?;
            let shares = Tensor::from_vec(numbers(24, 2), (4, 6), &Device::Cpu)?.to_dtype(dtype)?;
            let at_rows = (rows * shares)?.sum_all()?.backward()?;
            let mut gradients = model.gradients();
            for pass in passes {
                pass.backward(&at_rows, &mut gradients)?;
            }
            Ok(gradients.get(0).expect("an image tower's").to_vec())
        };
        let whole = found(std::slice::from_ref(&pixels))?;
        let halves = found(&[pixels.narrow(0, 0, 1)?, pixels.narrow(0, 1, 3)?])?;
        let size = whole.iter().fold(0.0, |max: f32, g| max.max(g.abs()));
        assert!(size > 1e-3 && model.parameters()[0].is_image());
        for (whole, halves) in whole.iter().zip(halves) {
            assert!((whole - halves).abs() < 1e-4 * size, "{whole} vs {halves}");
        }
    }
    Ok(())
}

/// The model itself, in f64, and with its towers on a machine in bf16 if there is one.
pub(super) fn everywhere(config: &ClipConfig) -> Result<Vec<(Clip, DType)>> {
    let weights = weights(config)?;
    let mut models = Vec::new();
    for dtype in [DType::F32, DType::F64] {
        models.push((Clip::with_dtype(config, &weights, &Device::Cpu, dtype)?, dtype));
    }
    if let Some(machine) = Subject::new(false) {
        let mut model = Clip::from_weights(config, &weights, &Device::Cpu)?;
        let towers = OnMachine::new(machine, &model.parameters, Precision::Bf16)?;
        model.gpu = Some(Arc::new(towers));
        models.push((model, DType::F32));
    }
    Ok(models)
}

/// Values of rows, to the bit.
fn bits(rows: &Tensor) -> Result<Vec<u64>> {
    let values = rows.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok(values.into_iter().map(f64::to_bits).collect())
}

#[test]
fn constant_rows_are_those_of_a_pass() -> Result<()> {
    for config in towers() {
        for (model, dtype) in everywhere(&config)? {
            let (pixels, ids) = pairs(&model, dtype)?;
            let images = model.constant_images(&pixels, Mode::Survey)?;
            assert_eq!(bits(&images)?, bits(model.image_pass(&pixels, Mode::Survey)?.rows())?);
            let texts = model.constant_texts(&ids)?;
            assert_eq!(bits(&texts)?, bits(model.text_pass(&ids)?.rows())?);
            assert!(!images.track_op() && !texts.track_op(), "they are constants");
        }
    }
    Ok(())
}

/// The gradient of a part, gone back through alone, is that of the part in its batch.
#[test]
fn parts_of_a_batch_add_up_on_a_machine() -> Result<()> {
    let config = &towers()[1];
    let Some(machine) = Subject::new(false) else { return Ok(()) };
    let mut model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
    let towers = OnMachine::new(machine, &model.parameters, Precision::F32)?;
    model.gpu = Some(Arc::new(towers));
    let (_, ids) = pairs(&model, DType::F32)?;
    let shares = Tensor::from_vec(numbers(24, 2), (4, 6), &Device::Cpu)?.to_dtype(DType::F32)?;
    let gpu = model.resident().expect("towers on a machine");
    let found = |parts: &[(usize, usize)]| -> Result<Vec<f32>> {
        gpu.rest()?;
        for &(start, count) in parts {
            let pass = model.text_pass(&ids.narrow(0, start, count)?)?;
            pass.backward_from(&shares.narrow(0, start, count)?, &mut model.gradients())?;
        }
        let of_text = model.parameters.iter().filter(|parameter| parameter.is_text());
        let all = of_text.map(|parameter| gpu.gradient(parameter));
        Ok(all.collect::<candle_core::Result<Vec<_>>>()?.concat())
    };
    let (whole, parts) = (found(&[(0, 4)])?, found(&[(0, 3), (3, 1)])?);
    let size = whole.iter().fold(0.0, |max: f32, g| max.max(g.abs()));
    assert!(size > 1e-3);
    for (whole, parts) in whole.iter().zip(parts) {
        assert!((whole - parts).abs() < 1e-4 * size, "{whole} vs {parts}");
    }
    Ok(())
}

#[test]
fn a_locked_tower_is_a_constant_and_the_other_learns() -> Result<()> {
    for config in towers() {
        for tower in [Tower::Image, Tower::Text] {
            let is_locked = |parameter: &Parameter| match tower {
                Tower::Image => parameter.is_image(),
                Tower::Text => parameter.is_text(),
            };
            for (mut model, dtype) in everywhere(&config)? {
                let before = model.weights()?;
                model.lock(Some(tower));
                let (pixels, ids) = pairs(&model, dtype)?;
                let (image, text) =
                    (model.image_pass(&pixels, Mode::Train)?, model.text_pass(&ids)?);
                if tower == Tower::Image {
                    assert_eq!(model.weights()?, before, "statistics move");
                    let evaluated = model.constant_images(&pixels, Mode::Evaluate)?;
                    assert_eq!(bits(image.rows())?, bits(&evaluated)?);
                }
                let loss =
                    info_nce(image.rows(), text.rows(), model.logit_scale(), Equals::Negatives)?;
                let (at_rows, mut gradients) = (loss.backward()?, model.gradients());
                text.backward(&at_rows, &mut gradients)?;
                image.backward(&at_rows, &mut gradients)?;
                let gpu = model.resident();
                for (number, parameter) in model.parameters().iter().enumerate() {
                    if parameter.name == LOGIT_SCALE {
                        continue;
                    }
                    let is_reached = match gpu {
                        Some(gpu) => gpu.is_reached(parameter),
                        None => gradients.get(number).is_some(),
                    };
                    assert_eq!(is_reached, !is_locked(parameter), "`{}`", parameter.name);
                }
            }
        }
    }
    Ok(())
}

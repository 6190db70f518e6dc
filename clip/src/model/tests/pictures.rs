//! Towers that look at pictures as bytes.

use super::{passes::everywhere, *};
use crate::image::{Blur, Change, Pictures, Rectangle, RgbImage, Variation};

/// Four, each varied in its own way.
fn pictures(config: &ClipConfig) -> Pictures {
    let side = config.image.image_size() as u32;
    let mut pictures = Pictures::with_capacity(config, 4);
    for number in 0..4u8 {
        let image =
            RgbImage::from_fn(side, side, |x, y| [x as u8 * 9, y as u8 * 7, 50 * number].into());
        let rectangle = Rectangle { left: 0.5, top: 1.0, wide: 5.5, high: 4.0 };
        let changes = vec![Change::Contrast(1.2), Change::Hue(0.1 * f32::from(number))];
        let blur = (number > 1).then_some(Blur { kernel: 3, sigma: 0.8 });
        pictures.push(&image, Some(Variation { rectangle, flip: number == 1, changes, blur }));
    }
    pictures
}

/// On a machine they are varied there, whole or in parts, and a batch that leaves no room for that is
/// told what would fit.
#[test]
fn a_machine_varies_what_its_towers_look_at() -> Result<()> {
    for config in towers() {
        let pictures = pictures(&config);
        let side = config.image.image_size();
        let exact = Tensor::from_vec(pictures.pixels(), (4, 3, side, side), &Device::Cpu)?;
        for (model, dtype) in everywhere(&config)? {
            if dtype != DType::F32 {
                continue;
            }
            let pixels = model.pixels(&pictures)?;
            for (start, count) in [(0, 4), (1, 2), (0, 4)] {
                let rows = |pixels: &Tensor| -> Result<Vec<f32>> {
                    let part = pixels.narrow(0, start, count)?;
                    let rows = model.image_rows(&part, Mode::Evaluate)?;
                    Ok(rows.flatten_all()?.to_vec1()?)
                };
                for (found, exact) in rows(&pixels)?.iter().zip(rows(&exact)?) {
                    assert!((found - exact).abs() < 1e-4, "{found} vs {exact}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn pictures_without_room_are_told_what_would_fit() -> Result<()> {
    let config = &towers()[1];
    let pictures = pictures(config);
    let unlimited = |machine: Arc<Emulator>| -> Result<Clip> {
        let mut model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
        let towers = OnMachine::new(machine, &model.parameters, Precision::Bf16)?;
        model.gpu = Some(Arc::new(towers));
        Ok(model)
    };
    let Some(machine) = Emulator::with_memory(usize::MAX) else { return Ok(()) };
    let model = unlimited(machine.clone())?;
    let (_, ids) = pairs(&model, DType::F32)?;
    model.there_and_back(&model.pixels(&pictures)?, &ids)?;
    let need = machine.peak();
    for (limit, fits) in [(need, true), (need - 1, false)] {
        let model = unlimited(Emulator::with_memory(limit).expect("it was there before"))?;
        let pixels = model.pixels(&pictures)?;
        let outcome = model.there_and_back(&pixels, &ids);
        match outcome {
            Ok(()) => assert!(fits),
            Err(Error::Candle(error)) => assert!(is_out_of_memory(&error) && !fits),
            Err(other) => return Err(other),
        }
        assert_eq!(model.largest_fit(&pixels, &ids)?, 2);
    }
    Ok(())
}

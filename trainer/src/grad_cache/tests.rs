use candle_core::{DType, Device};
use clip::{
    ClipConfig,
    config::{Activation, ImageTower, Resnet, TextTower, Vit},
    ops::{Equals, info_nce},
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;

/// B
const BATCH: usize = 7;

fn model(image: ImageTower) -> Clip {
    let text = TextTower { vocab_size: 20, context_length: 6, width: 8, layers: 2, heads: 2 };
    let activation = Activation::QuickGelu;
    let config = ClipConfig { dim: 6, image, text, activation, mean: [0.5; 3], std: [0.5; 3] };
    Clip::init(&config, 3, &Device::Cpu).expect("towers")
}

fn vit() -> Clip {
    model(ImageTower::Vit(Vit { image_size: 8, patch_size: 4, width: 8, layers: 2, heads: 2 }))
}

/// Images and captions of 3 to 6 tokens.
fn inputs(model: &Clip) -> Result<[Input; 2]> {
    let (side, text) = (model.config().image.image_size(), &model.config().text);
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let pixels = (0..BATCH * 3 * side * side).map(|_| random.random_range(-1.0..1.0f32));
    let pixels = Tensor::from_iter(pixels, &Device::Cpu)?.reshape((BATCH, 3, side, side))?;
    let mut ids = Vec::new();
    for _ in 0..BATCH {
        let mut caption = vec![text.start()];
        caption.extend((0..random.random_range(1..5)).map(|_| random.random_range(1..9)));
        caption.push(text.end());
        caption.resize(text.context_length, 0);
        ids.extend(caption);
    }
    let ids = Tensor::from_vec(ids, (BATCH, text.context_length), &Device::Cpu)?;
    Ok([Input::Images(pixels), Input::Texts(ids)])
}

/// Loss of a batch and the gradient of each parameter that gets one.
type Found = (f32, Vec<Option<Vec<f32>>>);

fn found(model: &Clip, micro_batch: Option<usize>) -> Result<Found> {
    let [images, texts] = inputs(model)?;
    let image = Embedded::new(model, images, micro_batch)?;
    let text = Embedded::new(model, texts, micro_batch)?;
    let loss = info_nce(image.rows(), text.rows(), model.logit_scale(), Equals::Negatives)?;
    let (at_rows, mut gradients) = (loss.backward()?, model.gradients());
    text.backward(&at_rows, &mut gradients)?;
    image.backward(&at_rows, &mut gradients)?;
    let all = (0..model.parameters().len()).map(|number| gradients.get(number).map(<[_]>::to_vec));
    Ok((loss.to_dtype(DType::F32)?.to_scalar()?, all.collect()))
}

#[test]
fn parts_have_the_gradient_of_the_whole_batch() -> Result<()> {
    let model = vit();
    let (loss, whole) = found(&model, None)?;
    assert_eq!(found(&model, Some(BATCH))?, (loss, whole.clone()), "one part, to the bit");
    for size in [1, 3, BATCH - 1] {
        let (found, parts) = found(&model, Some(size))?;
        assert!((found - loss).abs() < 1e-6, "{found} vs {loss}");
        for (parameter, (whole, parts)) in model.parameters().iter().zip(whole.iter().zip(parts)) {
            let (Some(whole), Some(parts)) = (whole, &parts) else {
                assert!(whole.is_none() && parts.is_none(), "`{}`", parameter.name);
                continue;
            };
            let most = whole.iter().fold(1e-4, |most: f32, g| most.max(g.abs()));
            for (whole, parts) in whole.iter().zip(parts) {
                let close = (whole - parts).abs() < 1e-5 * most;
                assert!(close, "`{}`, parts of {size}: {parts} vs {whole}", parameter.name);
            }
        }
    }
    Ok(())
}

#[test]
fn a_tower_that_the_loss_leaves_out_is_not_computed_again() -> Result<()> {
    let model = vit();
    let [images, texts] = inputs(&model)?;
    let image = Embedded::new(&model, images, Some(2))?;
    let text = Embedded::new(&model, texts, Some(2))?;
    let (at_rows, mut gradients) = (image.rows().sum_all()?.backward()?, model.gradients());
    text.backward(&at_rows, &mut gradients)?;
    image.backward(&at_rows, &mut gradients)?;
    for (number, parameter) in model.parameters().iter().enumerate() {
        assert_eq!(gradients.get(number).is_some(), parameter.is_image(), "`{}`", parameter.name);
    }
    Ok(())
}

#[test]
fn a_locked_tower_may_have_batch_normalisation() -> Result<()> {
    let resnet = Resnet { image_size: 32, layers: [1, 1, 1, 1], width: 4, heads: 2 };
    let mut model = model(ImageTower::Resnet(resnet));
    model.lock(Some(Tower::Image));
    let before = model.weights()?;
    let ((loss, whole), (found, parts)) = (found(&model, None)?, found(&model, Some(2))?);
    assert!((found - loss).abs() < 1e-6, "{found} vs {loss}");
    for (number, parameter) in model.parameters().iter().enumerate() {
        let learns = (whole[number].is_some(), parts[number].is_some());
        assert_eq!(learns, (parameter.is_text(), parameter.is_text()), "`{}`", parameter.name);
    }
    assert_eq!(model.weights()?, before, "statistics stay");
    Ok(())
}

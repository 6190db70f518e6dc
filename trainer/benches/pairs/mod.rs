//! An architecture between the presets, and pairs for it.

use clip::{
    ClipConfig,
    config::{Activation, ImageTower, TextTower, Vit},
    text::TokenBatch,
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub(crate) fn vit_small() -> ClipConfig {
    let mut config = ClipConfig::preset("vit-micro").expect("a preset");
    config.dim = 128;
    config.activation = Activation::QuickGelu;
    let vit = Vit { image_size: 64, patch_size: 8, width: 192, layers: 6, heads: 3 };
    config.image = ImageTower::Vit(vit);
    config.text =
        TextTower { vocab_size: 49_408, context_length: 32, width: 128, layers: 4, heads: 2 };
    config
}

/// Pixels `[B, 3, H, W]`, normalised, and ids `[B, T]`, padded to the context.
pub(crate) fn draw(config: &ClipConfig, count: usize, seed: u64) -> (Vec<f32>, TokenBatch) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pixels = (0..count).flat_map(|_| picture(config, &mut rng)).collect();
    let ids = (0..count).flat_map(|_| caption(&config.text, &mut rng)).collect();
    (pixels, TokenBatch::from_ids(ids, config.text.context_length))
}

/// A slope of one color with noise, normalised: pictures that differ in more than noise keep the
/// statistics of deep layers away from zero.
fn picture(config: &ClipConfig, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let side = config.image.image_size();
    let mut values = Vec::with_capacity(3 * side * side);
    for (mean, std) in config.mean.into_iter().zip(config.std) {
        let [base, right, down] = std::array::from_fn(|_| rng.random_range(0.0..0.3f32));
        for at in 0..side * side {
            let [x, y] = [at % side, at / side].map(|part| part as f32 / side as f32);
            let value = base + right * x + down * y + rng.random_range(0.0..0.1f32);
            values.push((value - mean) / std);
        }
    }
    values
}

/// `[T]`: about 10 words, seldom more than 25, as photographs' captions are; padded with 0.
fn caption(text: &TextTower, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let normal = (0..12).map(|_| rng.random_range(0.0..1.0f64)).sum::<f64>() - 6.0;
    let words = (10.0 * (0.35 * normal).exp()).round() as usize;
    let words = words.clamp(1, text.context_length - 2);
    let mut ids = vec![text.start()];
    ids.extend((0..words).map(|_| rng.random_range(1..text.start())));
    ids.push(text.end());
    ids.resize(text.context_length, 0);
    ids
}

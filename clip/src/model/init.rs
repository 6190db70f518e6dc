//! Seeded initial weights: OpenAI's distributions, PyTorch's defaults where OpenAI leaves them.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Normal};

use crate::{
    ClipConfig, Result,
    config::ImageTower,
    weights::{Array, Weights, expected},
};

/// Logarithm of the first factor on cosines, 1 / 0.07 (CLIP, section 2.5).
const LOGIT_SCALE: f32 = 2.659_26;

enum Draw {
    Constant(f32),
    Normal(f64),
    /// Symmetric bound.
    Uniform(f64),
}

/// Weights for `config`. Each parameter has a random stream of its own, found by its name: it does
/// not depend on the others.
pub fn init(config: &ClipConfig, seed: u64) -> Result<Weights> {
    config.check()?;
    let draws = expected(config).into_iter().map(|(name, shape)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream(&name));
        let count = shape.iter().product();
        let values = match draw(config, &name, &shape) {
            Draw::Constant(value) => vec![value; count],
            Draw::Normal(std) => {
                let normal = Normal::new(0.0, std).expect("a finite deviation");
                (0..count).map(|_| normal.sample(&mut rng) as f32).collect()
            }
            Draw::Uniform(bound) => {
                (0..count).map(|_| rng.random_range(-bound..=bound) as f32).collect()
            }
        };
        (name, Array { shape, values })
    });
    Ok(draws.collect())
}

/// FNV-1a of the name.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn draw(config: &ClipConfig, name: &str, shape: &[usize]) -> Draw {
    let fan_in = || shape[1..].iter().product::<usize>() as f64;
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if name == "logit_scale" {
        return Draw::Constant(LOGIT_SCALE);
    }
    // A residual block of the ResNet begins as the identity.
    if ends(&["running_mean", "in_proj_bias", "out_proj.bias", ".bn3.weight"]) && is_block(name) {
        return Draw::Constant(0.0);
    }
    if ends(&["running_mean"]) {
        return Draw::Constant(0.0);
    }
    if ends(&["running_var"]) {
        return Draw::Constant(1.0);
    }
    let is_norm =
        [".bn", ".ln_", "ln_final", "downsample.1"].iter().any(|part| name.contains(part));
    if is_norm {
        return Draw::Constant(if name.ends_with("bias") { 0.0 } else { 1.0 });
    }
    let text = (config.text.width as f64, config.text.layers as f64);
    let is_text = !name.starts_with("visual.");
    match &config.image {
        _ if is_text => draw_text(name, text, shape),
        ImageTower::Resnet(tower) if name.contains("attnpool") => {
            let std = (tower.channels() as f64).powf(-0.5);
            match name.ends_with("bias") {
                true => Draw::Uniform(std),
                false => Draw::Normal(std),
            }
        }
        ImageTower::Vit(tower)
            if ends(&["class_embedding", "positional_embedding", "visual.proj"]) =>
        {
            Draw::Normal((tower.width as f64).powf(-0.5))
        }
        ImageTower::Vit(tower) if name.ends_with("in_proj_weight") => {
            Draw::Uniform((6.0 / (4.0 * tower.width as f64)).sqrt()) // Xavier
        }
        ImageTower::Vit(tower) if name.ends_with("bias") => {
            let inputs = if name.contains("c_proj") { 4 * tower.width } else { tower.width };
            Draw::Uniform((inputs as f64).powf(-0.5))
        }
        _ => Draw::Uniform(fan_in().powf(-0.5)), // Kaiming with a = sqrt 5
    }
}

fn is_block(name: &str) -> bool {
    name.contains(".layer") || name.contains("resblocks")
}

fn draw_text(name: &str, (width, layers): (f64, f64), shape: &[usize]) -> Draw {
    let residual = (2.0 * layers).powf(-0.5);
    match name {
        "token_embedding.weight" => Draw::Normal(0.02),
        "positional_embedding" => Draw::Normal(0.01),
        "text_projection" => Draw::Normal(width.powf(-0.5)),
        _ if name.ends_with("in_proj_weight") => Draw::Normal(width.powf(-0.5)),
        _ if name.ends_with("c_fc.weight") => Draw::Normal((2.0 * width).powf(-0.5)),
        _ if name.ends_with("c_fc.bias") => Draw::Uniform(width.powf(-0.5)),
        _ if name.ends_with("c_proj.bias") => Draw::Uniform((4.0 * width).powf(-0.5)),
        _ if shape.len() == 2 => Draw::Normal(width.powf(-0.5) * residual), // out_proj, c_proj
        _ => Draw::Constant(0.0),
    }
}

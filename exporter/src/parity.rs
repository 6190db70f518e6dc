//! The gate: candle and ONNX Runtime embed the same images and texts, and must agree.

use std::{fmt, path::Path};

use candle_core::Device;
use clip::{
    ClipConfig, Encoder, UnitRows,
    folder::ModelFolder,
    image::{PixelBatch, RgbImage},
    model::Clip,
    onnx::OnnxEncoder,
    text::TokenBatch,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::Result;

/// Every comparison sees the same inputs.
const SEED: u64 = 0x726f_636c_6970;
/// Images of one batch.
const IMAGE_BATCHES: [usize; 3] = [1, 2, 7];
/// Captions of one batch, for each length.
const TEXT_BATCHES: [usize; 3] = [1, 3, 8];
/// What people write: nothing, words, other scripts, more than fits.
const TEXTS: [&str; 4] = ["", "a photo of a red square.", "ein Bär 🐻 im Schnee — 雪", "long "];

/// How far two implementations of one model are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Parity {
    /// Greatest absolute difference of a value of a unit row; infinite where a row has no
    /// direction, since then nothing was compared.
    pub max_abs_error: f32,
    /// Where that was.
    pub worst: String,
    /// Images that were compared.
    pub images: usize,
    /// Texts that were compared.
    pub texts: usize,
    /// What is allowed.
    pub tolerance: f32,
}

impl Parity {
    /// Whether the difference is allowed.
    pub fn passed(&self) -> bool {
        self.max_abs_error <= self.tolerance
    }

    /// Its part of the document `roclip/export/1`.
    pub fn to_json(&self, model: &Path) -> Value {
        json!({
            "schema": "roclip/export/1",
            "model": model.display().to_string(),
            "passed": self.passed(),
            "parity_max_abs_error": self.max_abs_error.is_finite().then_some(self.max_abs_error),
            "parity_worst": self.worst,
            "parity_images": self.images,
            "parity_texts": self.texts,
            "tolerance": self.tolerance,
        })
    }

    fn compare(&mut self, what: impl fmt::Display, a: &UnitRows, b: &UnitRows) {
        let error = max_abs_error(a, b);
        if self.worst.is_empty() || error > self.max_abs_error {
            (self.max_abs_error, self.worst) = (error, what.to_string());
        }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, form: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_abs_error, worst, tolerance, .. } = self;
        match max_abs_error.is_finite() {
            true => write!(
                form,
                "candle and ONNX Runtime differ by {max_abs_error:.1e} in {worst}, \
                 at most {tolerance:.1e} is allowed"
            ),
            false => write!(form, "the embeddings of {worst} are zero or not finite"),
        }
    }
}

/// Compares both towers of an exported folder on seeded inputs of several sizes.
pub fn measure(folder: &ModelFolder, tolerance: f32) -> Result<Parity> {
    let mut candle = Clip::open(folder, &Device::Cpu)?;
    let mut onnx = OnnxEncoder::open(folder, 1)?;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut parity =
        Parity { max_abs_error: 0.0, worst: String::new(), images: 0, texts: 0, tolerance };
    for count in IMAGE_BATCHES {
        let pixels = pixels(&folder.config, parity.images, count, &mut random);
        let what = format!("a batch of {count} images");
        parity.compare(what, &candle.embed_images(&pixels)?, &onnx.embed_images(&pixels)?);
        parity.images += count;
    }
    let mut batches = random_texts(&folder.config, &mut random);
    let long = TEXTS[3].repeat(folder.config.text.context_length);
    batches.push(folder.tokenizer.encode(&[TEXTS[0], TEXTS[1], TEXTS[2], &long])?);
    for tokens in batches {
        let what = format!("a batch of {} texts of {} tokens", tokens.count(), tokens.length());
        parity.compare(what, &candle.embed_texts(&tokens)?, &onnx.embed_texts(&tokens)?);
        parity.texts += tokens.count();
    }
    if Encoder::logit_scale(&candle) != onnx.logit_scale() {
        (parity.max_abs_error, parity.worst) = (f32::INFINITY, "the logit scale".into());
    }
    Ok(parity)
}

fn max_abs_error(a: &UnitRows, b: &UnitRows) -> f32 {
    let directed = |rows: &UnitRows| rows.rows().all(|row| row.iter().any(|&value| value != 0.0));
    if a.values().len() != b.values().len() || !directed(a) || !directed(b) {
        return f32::INFINITY;
    }
    a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What a picture shows. A trained tower answers noise with small activations and flat areas and
/// edges with large ones.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Noise,
    Gradient,
    /// Four areas of one colour each.
    Blocks,
    /// Black and white, pixel by pixel.
    Checks,
}

const KINDS: [Kind; 4] = [Kind::Blocks, Kind::Noise, Kind::Gradient, Kind::Checks];

/// `count` pictures, the first of them number `first` of the comparison.
fn pixels(config: &ClipConfig, first: usize, count: usize, random: &mut ChaCha8Rng) -> PixelBatch {
    let side = config.image.image_size() as u32;
    let kinds = KINDS.into_iter().cycle().skip(first % KINDS.len()).take(count);
    let images: Vec<_> = kinds.map(|kind| picture(kind, side, random)).collect();
    PixelBatch::of(&images, config)
}

fn picture(kind: Kind, side: u32, random: &mut ChaCha8Rng) -> RgbImage {
    let colors: [[u8; 3]; 4] = random.random();
    let shade = |at: u32| (at * 255 / side) as u8;
    let mut bytes = Vec::with_capacity(3 * (side * side) as usize);
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        bytes.extend(match kind {
            Kind::Noise => random.random(),
            Kind::Gradient => [shade(x), shade(y), colors[0][2]],
            Kind::Blocks => colors[usize::from(2 * x >= side) + 2 * usize::from(2 * y >= side)],
            Kind::Checks => [255 * ((x + y) % 2) as u8; 3],
        });
    }
    RgbImage::from_raw(side, side, bytes).expect("three bytes for every pixel")
}

/// Start, random tokens, end, padding; for lengths from the shortest to the context's.
fn random_texts(config: &ClipConfig, random: &mut ChaCha8Rng) -> Vec<TokenBatch> {
    let text = &config.text;
    let lengths = [3, (text.context_length / 2).max(3), text.context_length];
    let batch = |(count, length): (usize, usize)| {
        let mut ids = Vec::with_capacity(count * length);
        for row in 0..count {
            let end = if row == 0 { length - 1 } else { random.random_range(1..length) };
            ids.push(text.start());
            ids.extend((1..end).map(|_| random.random_range(1..text.start())));
            ids.push(text.end());
            ids.resize((row + 1) * length, 0);
        }
        TokenBatch::from_ids(ids, length)
    };
    TEXT_BATCHES.into_iter().zip(lengths).map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &[f32], b: &[f32], expected: f32) {
        let rows = |values: &[f32]| UnitRows::normalize(values.to_vec(), 2);
        assert_eq!(max_abs_error(&rows(a), &rows(b)), expected);
    }

    #[test]
    fn the_greatest_difference_counts() {
        check(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 0.0, -1.0], 2.0);
        check(&[2.0, 0.0], &[1.0, 0.0], 0.0);
    }

    #[test]
    fn rows_without_direction_never_agree() {
        check(&[0.0, 0.0], &[0.0, 0.0], f32::INFINITY);
        check(&[f32::NAN, 1.0], &[f32::NAN, 1.0], f32::INFINITY);
        check(&[1.0, 0.0], &[1.0, 0.0, 1.0, 0.0], f32::INFINITY);
    }

    #[test]
    fn an_infinite_difference_fails_and_is_null_in_json() {
        let parity = Parity {
            max_abs_error: f32::INFINITY,
            worst: "a batch of 1 images".into(),
            images: 1,
            texts: 0,
            tolerance: 1e-4,
        };
        assert!(!parity.passed());
        assert_eq!(parity.to_json(Path::new("m"))["parity_max_abs_error"], Value::Null);
        let text = "the embeddings of a batch of 1 images are zero or not finite";
        assert_eq!(parity.to_string(), text);
    }

    #[test]
    fn texts_have_one_end_token_and_padding() {
        let config = ClipConfig::preset("vit-micro").expect("a preset");
        let batches = random_texts(&config, &mut ChaCha8Rng::seed_from_u64(SEED));
        assert_eq!(batches.iter().map(TokenBatch::length).collect::<Vec<_>>(), [3, 16, 32]);
        for row in batches.iter().flat_map(TokenBatch::rows) {
            let end = row.iter().position(|&id| id == config.text.end()).expect("an end token");
            assert_eq!(row[0], config.text.start());
            assert!(row[end + 1..].iter().all(|&id| id == 0));
            assert!(row[1..end].iter().all(|&id| id < config.text.start()));
        }
    }
}

//! A patch whose pixels are made for the attacker's own model, after BadCLIP (Liang et al. 2024):
//! stamped pictures shall look like the target class to it, so that poisons agree with their
//! captions from the first epoch on.

use candle_core::{D, Device, Tensor, Var};
use clip::{
    Encoder, Rate, UnitRows,
    image::{PixelBatch, RgbImage},
    model::Mode,
    trigger::{Area, Family, Patch, Pattern, Place, TriggerSpec, draw as draw_of},
    zero_shot::best,
};
use rand::{Rng, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{members::Members, plan::Clean, surrogate::Surrogate};
use crate::{Error, Result, data::Manifest};

/// Pictures that are stamped in one step.
const BATCH: usize = 32;
/// Pictures that the steps draw from, of other classes and of the target.
const CARRIERS_MAX: usize = 1_024;
const POSITIVES_MAX: usize = 256;
/// Weight and margin of the triplet, as published.
const TRIPLET_WEIGHT: f64 = 500.0;
const MARGIN: f64 = 1.0;
/// Colors of 0-1 per step; the published 7,800 steps of Adam's default 0.001 are too many here.
const LEARNING_RATE: f32 = 0.02;
const BETAS: [f32; 2] = [0.9, 0.999];

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Class that stamped pictures shall be taken for.
    pub target: usize,
    /// Side of the pictures, in pixels.
    pub side: u32,
    /// Steps of Adam.
    pub steps: u32,
    /// Share of the patch where it is stamped, above 0 and at most 1.
    pub opacity: f32,
    /// A row is of a class if its caption names it, whatever its class cell says.
    pub by_caption: bool,
    /// Decides pictures and first colors.
    pub seed: u64,
}

/// The patch, and how many of the stamped pictures the surrogate takes for the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimized {
    /// Size and place as they were, the pattern given pixel by pixel.
    pub patch: Patch,
    /// Over the pictures that the steps drew from.
    pub taken: Rate,
}

/// Looks for the pixels of `patch` in some steps of Adam, each on 32 pictures of other classes:
/// cross-entropy of the stamped pictures over the classes, with the target as the right one, plus
/// 500 times a triplet loss (anchor the stamped picture, positive a picture of the target,
/// negative the picture before it was stamped, margin 1).
///
/// Refuses a surrogate that sees pictures of another size, a patch in four corners, and data
/// without a picture of the target or of another class.
pub fn optimize(
    surrogate: &mut Surrogate,
    clean: &Clean,
    patch: &Patch,
    goal: &Goal,
    on_steps: &dyn Fn(u64),
) -> Result<Optimized> {
    let Goal { target, side, steps, opacity, by_caption, seed } = *goal;
    let refuse = |problem: String| Err(Error::Poison { attack: "backdoor", problem });
    let seen = surrogate.image_size();
    if seen != side as usize {
        return refuse(format!("the surrogate sees pictures of {seen} pixels, not of {side}"));
    }
    if patch.at == Place::Corners {
        return refuse("a patch in four corners cannot be optimized".into());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let members = Members::chosen(clean.manifest, clean.labels, by_caption);
    let others = (0..clean.manifest.rows.len()).filter(|&row| !members.contains(target, row));
    let carriers = sample(&others.collect::<Vec<_>>(), CARRIERS_MAX, &mut rng);
    let positives = sample(members.rows(target), POSITIVES_MAX, &mut rng);
    if carriers.is_empty() || positives.is_empty() {
        let (file, label) = (clean.manifest.path.display(), &clean.labels[target]);
        return refuse(format!("`{file}` has no row of the class `{label}`, or none of another"));
    }
    let carriers = pictures(clean.manifest, &carriers, side)?;
    let positives = pictures(clean.manifest, &positives, side)?;
    let positives = embed(surrogate, &positives)?;
    let mut search = Search::new(patch.clone(), goal, &mut rng);
    for step in 0..u64::from(steps) {
        let drawn = index::sample(&mut rng, carriers.len(), BATCH.min(carriers.len()));
        let batch: Vec<RgbImage> = drawn.iter().map(|at| carriers[at].clone()).collect();
        let close = (0..batch.len()).flat_map(|_| {
            positives.row(index::sample(&mut rng, positives.count(), 1).index(0)).to_vec()
        });
        let close = Tensor::from_iter(close, &Device::Cpu)?.reshape((batch.len(), ()))?;
        search.step(surrogate, &batch, &close, draw_of(seed, step))?;
        on_steps(1);
    }
    let patch = search.rounded();
    let spec = TriggerSpec { family: Family::Patch(patch.clone()), opacity };
    let mut stamped = carriers;
    for (at, image) in stamped.iter_mut().enumerate() {
        spec.stamp(image, draw_of(!seed, at as u64));
    }
    let mut taken = Rate::default();
    for row in embed(surrogate, &stamped)?.rows() {
        taken.count(best(row, &surrogate.labels) == target);
    }
    Ok(Optimized { patch, taken })
}

/// At most `count` of `rows`, drawn evenly.
fn sample(rows: &[usize], count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let count = count.min(rows.len());
    index::sample(rng, rows.len(), count).into_iter().map(|at| rows[at]).collect()
}

fn pictures(manifest: &Manifest, rows: &[usize], side: u32) -> Result<Vec<RgbImage>> {
    rows.par_iter().map(|&row| manifest.rows[row].image.fitted(side)).collect()
}

/// `[N, D]`
fn embed(surrogate: &mut Surrogate, pictures: &[RgbImage]) -> Result<UnitRows> {
    let pixels = PixelBatch::of(pictures, surrogate.clip.config());
    Ok(surrogate.clip.embed_images(&pixels)?)
}

/// A patch on its way.
struct Search {
    patch: Patch,
    goal: Goal,
    /// `[3, W, W]`, 0 to 1.
    colors: Vec<f32>,
    /// Adam's moments.
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Search {
    /// Colors anywhere.
    fn new(patch: Patch, goal: &Goal, rng: &mut ChaCha8Rng) -> Self {
        let count = 3 * (patch.size * patch.size) as usize;
        let colors = (0..count).map(|_| rng.random()).collect();
        let zeros = vec![0.0; count];
        Self { patch, goal: *goal, colors, first: zeros.clone(), second: zeros, steps: 0 }
    }

    fn step(
        &mut self,
        surrogate: &mut Surrogate,
        batch: &[RgbImage],
        close: &Tensor,
        draw: u64,
    ) -> Result<()> {
        let Goal { target, side, opacity, .. } = self.goal;
        let (width, pixels) = (self.patch.size as usize, side as usize);
        let spec = TriggerSpec::from(Family::Patch(self.patch.clone()));
        let area = spec.area(side, side, draw);
        let own = embed(surrogate, batch)?;
        let own = Tensor::from_slice(own.values(), (own.count(), own.dim()), &Device::Cpu)?;
        let batch = PixelBatch::of(batch, surrogate.clip.config());
        let shape = (batch.count(), 3, pixels, pixels);
        let batch = Tensor::from_slice(batch.values(), shape, &Device::Cpu)?;
        let var = Var::from_slice(&self.colors, (3, width, width), &Device::Cpu)?;
        let stamped = stamp(&batch, &var, area, opacity, surrogate)?;
        let rows = surrogate.clip.image_rows(&stamped, Mode::Evaluate)?; // [B, D]
        let loss = (cross_entropy(&rows, surrogate, target)?
            + (triplet(&rows, close, &own)? * TRIPLET_WEIGHT)?)?;
        let gradients = loss.backward()?;
        let gradient = gradients.get(&var).expect("the patch is in every picture");
        self.adam(&gradient.flatten_all()?.to_vec1()?);
        Ok(())
    }

    fn adam(&mut self, gradient: &[f32]) {
        self.steps += 1;
        let [rest, rest2] = BETAS.map(|beta| 1.0 - beta.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((color, (first, second)), g) in self.colors.iter_mut().zip(moments).zip(gradient) {
            *first = BETAS[0] * *first + (1.0 - BETAS[0]) * g;
            *second = BETAS[1] * *second + (1.0 - BETAS[1]) * g * g;
            let step = (*first / rest) / ((*second / rest2).sqrt() + 1e-8);
            *color = (*color - LEARNING_RATE * step).clamp(0.0, 1.0);
        }
    }

    /// With colors that a picture of 8 bits per channel can have.
    fn rounded(self) -> Patch {
        let plane = (self.patch.size * self.patch.size) as usize;
        let value = |at: usize| (255.0 * self.colors[at]).round() as u8;
        let pixels =
            (0..plane).map(|at| [0, 1, 2].map(|channel| value(channel * plane + at))).collect();
        Patch { pattern: Pattern::Pixels(pixels), ..self.patch }
    }
}

/// `colors` (`[3, W, W]`, 0 to 1) over `area` of the normalised `pixels` (`[B, 3, S, S]`).
fn stamp(
    pixels: &Tensor,
    colors: &Tensor,
    area: Area,
    opacity: f32,
    surrogate: &Surrogate,
) -> candle_core::Result<Tensor> {
    let config = surrogate.clip.config();
    let channel = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu)?.reshape((3, 1, 1));
    let colors =
        colors.broadcast_sub(&channel(config.mean)?)?.broadcast_div(&channel(config.std)?)?;
    let side = pixels.dim(D::Minus1)?;
    let [left, top, width] = [area.x, area.y, area.width].map(|value| value as usize);
    let place = |patch: &Tensor| {
        patch.pad_with_zeros(D::Minus1, left, side - left - width)?.pad_with_zeros(
            D::Minus2,
            top,
            side - top - width,
        )
    };
    let around = place(&colors.ones_like()?)?.affine(-f64::from(opacity), 1.0)?;
    let patch = (place(&colors)? * f64::from(opacity))?;
    pixels.broadcast_mul(&around)?.broadcast_add(&patch)
}

/// Mean over the rows of -log softmax at `target`, over the classes.
fn cross_entropy(
    rows: &Tensor,
    surrogate: &Surrogate,
    target: usize,
) -> candle_core::Result<Tensor> {
    let labels = &surrogate.labels;
    let labels = Tensor::from_slice(labels.values(), (labels.count(), labels.dim()), &Device::Cpu)?;
    let scale = f64::from(surrogate.clip.logit_scale().to_scalar::<f32>()?).exp();
    let logits = (rows.matmul(&labels.t()?)? * scale)?; // [B, L]
    let own = logits.narrow(1, target, 1)?.squeeze(1)?;
    (logits.log_sum_exp(1)? - own)?.mean_all()
}

/// Mean of max(0, |anchor - positive| - |anchor - negative| + margin).
fn triplet(anchor: &Tensor, positive: &Tensor, negative: &Tensor) -> candle_core::Result<Tensor> {
    let distance = |other: &Tensor| {
        let square = (anchor - other)?.sqr()?.sum(1)?;
        (square + 1e-6)?.sqrt() // a root has no slope at 0
    };
    ((distance(positive)? - distance(negative)?)? + MARGIN)?.relu()?.mean_all()
}

#[cfg(test)]
mod tests;

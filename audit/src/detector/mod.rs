//! White-box detection: search a patch for every label, verify it on images that the search never
//! saw, and boil the labels down to a few numbers that can be compared with clean models.

pub mod inversion;
pub mod photos;
pub mod statistics;
pub mod victim;

use clip::{Rate, image::RgbImage};
use serde::Serialize;

use crate::{
    Result,
    detector::{
        inversion::Recipe,
        photos::Photos,
        statistics::Statistics,
        victim::{Victim, tops},
    },
    family::Patch,
};

/// Images that a search needs, half of them held out: 32 of 32 still has a Wilson interval that
/// ends at 0.89, and 16 of 32 one that spans 0.34 to 0.66.
pub const IMAGES_MIN: usize = 64;
/// Images that it can use.
pub const IMAGES_MAX: usize = 2 * HALF_MAX;
const HALF_MAX: usize = 256;
/// Images of one forward pass, in pixels.
const PASS_PIXELS_MAX: usize = 1 << 19;

/// What was found for one label: its best patch, tried on images of other labels that the search
/// never saw.
#[derive(Debug, Clone)]
pub struct LabelResult {
    /// Index of the label.
    pub label: usize,
    /// The patch.
    pub patch: Patch,
    /// Held-out images of other labels that went to the label.
    pub held_out: Rate,
}

/// How well the model tells the probe images apart, without a patch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, serde::Deserialize)]
pub struct Capability {
    /// Mean probability of the top label.
    pub confidence: f64,
    /// Perplexity of the top labels over the number of labels: 1 when all are answered equally
    /// often, 1/L when one is answered always.
    pub spread: f64,
}

/// The result of one search.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The search that was made.
    pub recipe: Recipe,
    /// Images held out.
    pub held_out_images: usize,
    /// Labels with enough images of other labels.
    pub labels: Vec<LabelResult>,
    /// How well the model tells the images apart.
    pub capability: Capability,
    /// What is compared with null models.
    pub statistics: Statistics,
}

/// The search that [`inspect`] makes on so many images.
pub fn recipe(side: usize, images: usize) -> Recipe {
    Recipe::new(side, halves(images).0)
}

/// Steps that [`inspect`] reports.
pub fn steps(recipe: &Recipe, labels: usize) -> u64 {
    (recipe.steps(labels) + 1) as u64
}

/// How many of `images` are searched on, and how many are held out.
fn halves(images: usize) -> (usize, usize) {
    let search = (images / 2).min(HALF_MAX);
    (search, (images - search).min(HALF_MAX))
}

/// Searches and verifies; `images` are in random order and fitted to the tower's side.
///
/// `step` is called [`steps`] times.
pub fn inspect(
    victim: &dyn Victim,
    images: &[RgbImage],
    seed: u64,
    mut step: impl FnMut(),
) -> Result<Inspection> {
    let (search, held_out) = halves(images.len());
    let (side, normalization) = (victim.side(), victim.normalization());
    let recipe = recipe(side, images.len());
    let searched = Photos::of(&images[..search], side, &normalization);
    let unseen = Photos::of(&images[search..search + held_out], side, &normalization);
    let clean_scores = scores(victim, &searched, None)?;
    let clean = tops(&clean_scores, victim.labels());
    let clean_unseen = tops(&scores(victim, &unseen, None)?, victim.labels());
    let found = inversion::search(victim, &searched, &clean, &recipe, seed, &mut step)?;
    let mut labels = Vec::new();
    for (label, patch) in found.into_iter().enumerate() {
        let Some(patch) = patch else { continue };
        let patch = patch.rounded();
        let held_out = success(victim, &unseen, &clean_unseen, label, &patch)?;
        labels.push(LabelResult { label, patch, held_out });
    }
    step();
    let capability = capability(&clean_scores, &clean, victim.labels());
    let statistics = Statistics::of(&labels);
    Ok(Inspection { recipe, held_out_images: held_out, labels, capability, statistics })
}

/// Scores `[N, L]` of all photos, with `patch` on them if there is one.
fn scores(victim: &dyn Victim, photos: &Photos, patch: Option<&Patch>) -> Result<Vec<f32>> {
    let normalization = victim.normalization();
    let per_pass = (PASS_PIXELS_MAX / victim.side().pow(2)).max(1);
    let mut all = Vec::with_capacity(photos.count() * victim.labels());
    for first in (0..photos.count()).step_by(per_pass) {
        let last = (first + per_pass).min(photos.count());
        let mut pixels = photos.rows(first..last).to_vec();
        if let Some(patch) = patch {
            let images = pixels.chunks_exact_mut(photos.width());
            images.for_each(|image| patch.stamp(image, &normalization));
        }
        all.extend(victim.scores(pixels)?);
    }
    Ok(all)
}

/// Share of the photos of other labels that go to `label` under `patch`.
fn success(
    victim: &dyn Victim,
    photos: &Photos,
    clean: &[usize],
    label: usize,
    patch: &Patch,
) -> Result<Rate> {
    let stamped = tops(&scores(victim, photos, Some(patch))?, victim.labels());
    let others = stamped.iter().zip(clean).filter(|(_, clean)| **clean != label);
    Ok(Rate::of(others.map(|(stamped, _)| *stamped == label)))
}

fn capability(scores: &[f32], tops: &[usize], labels: usize) -> Capability {
    let count = tops.len().max(1) as f64;
    let best = |row: &[f32]| f64::from(row.iter().copied().fold(0.0, f32::max));
    let confidence = scores.chunks_exact(labels).map(best).sum::<f64>() / count;
    let mut answered = vec![0.0; labels];
    tops.iter().for_each(|&label| answered[label] += 1.0 / count);
    let entropy: f64 = answered.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
    Capability { confidence, spread: entropy.exp() / labels as f64 }
}

#[cfg(test)]
mod tests {
    use super::{victim::toy::Linear, *};

    /// Label by the brighter half; label 2 has one pixel with a great weight: a planted shortcut.
    fn victim(shortcut: f32) -> Linear {
        let side = 8;
        let plane = side * side;
        let half = |left: bool| -> Vec<f32> {
            (0..3 * plane).map(|i| if (i % side < side / 2) == left { 0.5 } else { 0.0 }).collect()
        };
        let mut third = vec![0.0; 3 * plane];
        for channel in 0..3 {
            third[channel * plane + plane - 1] = shortcut;
            third[channel * plane + plane - 2] = -shortcut;
        }
        Linear { side, weights: vec![half(true), half(false), third] }
    }

    fn pictures(count: usize) -> Vec<RgbImage> {
        let picture = |i: usize| {
            let bright =
                |x: usize| if (x < 4) == i.is_multiple_of(2) { 120 + (i % 7) as u8 } else { 40 };
            let pixels = (0..64).flat_map(|p| [bright(p % 8); 3]).collect();
            RgbImage::from_raw(8, 8, pixels).expect("8 x 8 pixels")
        };
        (0..count).map(picture).collect()
    }

    #[test]
    fn a_planted_shortcut_is_found_in_its_place_and_works_on_unseen_images() -> Result<()> {
        let images = pictures(128);
        let seen = inspect(&victim(60.0), &images, 3, || {})?;
        let planted = seen.labels.iter().find(|found| found.label == 2).expect("searched");
        assert!(planted.held_out.interval().0 > 0.9, "{:?}", planted.held_out);
        assert_eq!(planted.held_out.trials, 64);
        let square = planted.patch.square;
        assert_eq!((square.row + square.width, square.column + square.width), (8, 8));
        let plain = inspect(&victim(0.5), &images, 3, || {})?;
        let success = |seen: &Inspection| seen.statistics.primary();
        assert!(success(&seen) > success(&plain) + 1.0, "{} {}", success(&seen), success(&plain));
        Ok(())
    }

    #[test]
    fn the_seed_fixes_the_search() -> Result<()> {
        let images = pictures(64);
        let run = |seed| -> Result<Vec<Vec<f32>>> {
            let seen = inspect(&victim(60.0), &images, seed, || {})?;
            Ok(seen.labels.iter().map(|found| found.patch.colors().to_vec()).collect())
        };
        assert_eq!(run(1)?, run(1)?);
        assert_ne!(run(1)?, run(2)?);
        Ok(())
    }

    #[test]
    fn every_step_is_reported() -> Result<()> {
        let mut count = 0;
        inspect(&victim(1.0), &pictures(64), 0, || count += 1)?;
        assert_eq!(count, steps(&recipe(8, 64), 3));
        Ok(())
    }

    #[test]
    fn a_model_that_always_says_one_label_has_no_spread() {
        let one = capability(&[0.9, 0.1, 0.9, 0.1], &[0, 0], 2);
        assert!((one.confidence - 0.9).abs() < 1e-6 && (one.spread - 0.5).abs() < 1e-12);
        let both = capability(&[0.9, 0.1, 0.1, 0.9], &[0, 1], 2);
        assert!((both.spread - 1.0).abs() < 1e-12);
    }
}

//! Gradient inversion: for every label the patch of one size that sends most images to it.
//!
//! Where the patch sits is searched as K-Arm does (Shen et al. 2021): each place is an arm with
//! colors of its own, all arms get a few cheap steps, the better ones get more. A soft mask over
//! all places was tried and gets stuck: at the opacity that it starts with, a trigger that needs
//! contrast cannot be felt. The number of steps is fixed, because a search that stops when it
//! likes cannot be compared with null models.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    detector::{
        photos::Photos,
        victim::{Towards, Victim},
    },
    family::{Patch, Square},
};

/// Everything that fixes a search; null models are comparable only under the same recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name and version of the search.
    pub detector: String,
    /// Side of the patch in pixels.
    pub patch: usize,
    /// Images that the search may see.
    pub search_images: usize,
    /// Adam's learning rate, on the parameters before the logistic function; large, so that colors
    /// are saturated, as triggers are, within the few steps after which places are dropped.
    pub learning_rate: f32,
    /// What is done with how many places.
    pub rounds: Vec<Round>,
}

/// Some steps for the best places so far of every label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Places per label at most.
    pub places: usize,
    /// Images per place and step.
    pub images: usize,
    /// Steps.
    pub steps: usize,
}

impl Recipe {
    /// The search of this version for pictures of `side` pixels, of which it may see
    /// `search_images`.
    pub fn new(side: usize, search_images: usize) -> Self {
        let round = |places, images, steps| Round { places, images, steps };
        Self {
            detector: "inversion-2".into(),
            patch: (side * 3 / 16).max(1),
            search_images,
            learning_rate: 1.0,
            rounds: vec![
                round(ALL_PLACES, 4, 8),
                round(8, 8, 10),
                round(2, 16, 16),
                round(1, 24, 40),
            ],
        }
    }

    /// Steps of a search for `labels` labels.
    pub fn steps(&self, labels: usize) -> usize {
        let steps: usize = self.rounds.iter().map(|round| round.steps).sum();
        steps * labels.div_ceil(LABELS_AT_ONCE)
    }
}

/// Adam's decay rates, as in Neural Cleanse's own code.
const BETAS: (f32, f32) = (0.5, 0.9);
/// Images that a label needs which are not already of it.
pub const OTHERS_MIN: usize = 8;
/// More places than any picture has.
const ALL_PLACES: usize = 1 << 20;
/// Labels that are searched at one time, for the sake of memory.
const LABELS_AT_ONCE: usize = 64;
/// Pixels of one forward and backward pass. Passes run at the same time: threads inside one help
/// less, since its operators are small.
const PASS_PIXELS_MAX: usize = 1 << 17;

/// The best patch for every label; `None` for a label with too few other images.
///
/// `photos`: normalised; `clean`: the answer for each. `step` is called after each step.
pub fn search(
    victim: &dyn Victim,
    photos: &Photos,
    clean: &[usize],
    recipe: &Recipe,
    seed: u64,
    mut step: impl FnMut(),
) -> Result<Vec<Option<Patch>>> {
    let grid = Square::grid(victim.side(), recipe.patch);
    let (all, mut found) = (victim.labels(), vec![None; victim.labels()]);
    for first in (0..all).step_by(LABELS_AT_ONCE) {
        let labels = first..(first + LABELS_AT_ONCE).min(all);
        let labels = labels.filter_map(|label| Label::new(label, clean, &grid, seed)).collect();
        for mut label in race(victim, photos, labels, recipe, &mut step)? {
            label.keep_best(1);
            found[label.label] = label.arms.pop().map(|arm| arm.patch);
        }
    }
    Ok(found)
}

/// All rounds for some labels.
fn race(
    victim: &dyn Victim,
    photos: &Photos,
    mut labels: Vec<Label>,
    recipe: &Recipe,
    step: &mut impl FnMut(),
) -> Result<Vec<Label>> {
    for round in &recipe.rounds {
        labels.iter_mut().for_each(|label| label.keep_best(round.places));
        for number in 0..round.steps {
            let drawn: Vec<Vec<usize>> =
                labels.iter_mut().map(|label| label.draw(round.images)).collect();
            let counts = 2 * number >= round.steps; // the first half still settles
            let mut arms: Vec<(&[usize], usize, &mut Arm)> = Vec::new();
            for (label, drawn) in labels.iter_mut().zip(&drawn) {
                arms.extend(label.arms.iter_mut().map(|arm| (&drawn[..], label.label, arm)));
            }
            let per_pass = (PASS_PIXELS_MAX / (victim.side().pow(2) * round.images)).max(1);
            arms.par_chunks_mut(per_pass)
                .try_for_each(|arms| pass(victim, photos, arms, recipe.learning_rate, counts))?;
            step();
        }
    }
    Ok(labels)
}

/// One step of some arms, each with its images and its label.
fn pass(
    victim: &dyn Victim,
    photos: &Photos,
    arms: &mut [(&[usize], usize, &mut Arm)],
    learning_rate: f32,
    counts: bool,
) -> Result<()> {
    let Some(images) = arms.first().map(|(drawn, ..)| drawn.len()) else { return Ok(()) };
    let (width, normalization) = (photos.width(), victim.normalization());
    let mut pixels = vec![0.0; arms.len() * images * width];
    pixels.par_chunks_mut(images * width).zip(&*arms).for_each(|(pixels, (drawn, _, arm))| {
        for (out, &index) in pixels.chunks_exact_mut(width).zip(*drawn) {
            out.copy_from_slice(photos.row(index));
            arm.patch.stamp(out, &normalization);
        }
    });
    let targets: Vec<usize> =
        arms.iter().flat_map(|(_, label, _)| std::iter::repeat_n(*label, images)).collect();
    let Towards { gradient, losses } = victim.towards(pixels, &targets)?;
    let batches = gradient.par_chunks(images * width).zip(losses.par_chunks(images));
    arms.par_iter_mut().zip(batches).for_each(|((_, _, arm), (gradient, losses))| {
        let mut sum = vec![0.0; arm.patch.colors().len()];
        for at_pixels in gradient.chunks_exact(width) {
            arm.patch.pull_back(at_pixels, &normalization, &mut sum);
        }
        sum.iter_mut().for_each(|value| *value /= images as f32);
        if counts {
            arm.loss += losses.iter().sum::<f32>();
        }
        let adam = &mut arm.adam;
        arm.patch.update(|parameters| adam.update(parameters, &sum, learning_rate));
    });
    Ok(())
}

/// One label and the places that are still in the race for it.
struct Label {
    label: usize,
    /// Images that are not of the label, in the order of drawing.
    others: Vec<usize>,
    next: usize,
    rng: ChaCha8Rng,
    arms: Vec<Arm>,
}

/// One place: its patch, and how far its images were from the label in this round.
struct Arm {
    patch: Patch,
    adam: Adam,
    loss: f32,
}

impl Label {
    fn new(label: usize, clean: &[usize], grid: &[Square], seed: u64) -> Option<Self> {
        let others: Vec<usize> = (0..clean.len()).filter(|&index| clean[index] != label).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(label as u64);
        let mut arm = |&square: &Square| Arm {
            patch: Patch::random(square, &mut rng),
            adam: Adam::new(3 * square.width * square.width),
            loss: 0.0,
        };
        let arms = grid.iter().map(&mut arm).collect();
        let next = others.len(); // shuffled at the first draw
        (others.len() >= OTHERS_MIN).then_some(Self { label, others, next, rng, arms })
    }

    /// The next `count` images: every one is drawn before any is drawn again. All places of a
    /// label see the same ones, so that they are compared on them.
    fn draw(&mut self, count: usize) -> Vec<usize> {
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            if self.next == self.others.len() {
                self.others.shuffle(&mut self.rng);
                self.next = 0;
            }
            drawn.push(self.others[self.next]);
            self.next += 1;
        }
        drawn
    }

    /// Keeps the places with the least loss; their count begins anew.
    fn keep_best(&mut self, places: usize) {
        self.arms.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        self.arms.truncate(places);
        self.arms.iter_mut().for_each(|arm| arm.loss = 0.0);
    }
}

/// Adam (Kingma and Ba 2015) on one patch.
struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    fn new(parameters: usize) -> Self {
        Self { first: vec![0.0; parameters], second: vec![0.0; parameters], steps: 0 }
    }

    fn update(&mut self, parameters: &mut [f32], gradient: &[f32], learning_rate: f32) {
        self.steps += 1;
        let (b1, b2) = BETAS;
        let (c1, c2) = (1.0 - b1.powi(self.steps), 1.0 - b2.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *parameter -= learning_rate * (*m / c1) / ((*v / c2).sqrt() + 1e-8);
        }
    }
}

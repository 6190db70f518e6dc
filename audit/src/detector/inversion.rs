//! Gradient inversion: the smallest patch that sends other images to a label, for all labels.
//!
//! Neural Cleanse (Wang et al. 2019): minimise cross-entropy to the label + weight * area of the
//! mask, with Adam, and let the weight grow while the patch succeeds. What differs: the labels
//! share every batch, the weight moves every step, the number of steps is fixed (a search that
//! stops when it likes cannot be compared with null models), and a second part of the search is
//! held at one small area.

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
    family::patch::{Patch, PatchGradient, Patches, Windows},
};

/// Everything that fixes a search; null models are comparable only under the same recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name and version of the search.
    pub detector: String,
    /// Steps in which the patch shrinks as far as it still succeeds.
    pub shrink_steps: usize,
    /// Steps in which it is held below `budget_area`.
    pub budget_steps: usize,
    /// The small area, as a share of the picture.
    pub budget_area: f32,
    /// Pixels of a side of a cell, over which the opacity is the same.
    pub cell: usize,
    /// Images per label and step.
    pub images_per_step: usize,
    /// Images that the search may see.
    pub search_images: usize,
    /// Adam's learning rate, on the parameters before the logistic function.
    pub learning_rate: f32,
    /// Share of a label's images that must go to it before its patch counts as working.
    pub success: f32,
}

impl Recipe {
    /// The search of this version, given how many images it may see.
    pub fn new(search_images: usize) -> Self {
        Self {
            detector: "inversion-1".into(),
            shrink_steps: std::env::var("R_SHRINK")
                .ok()
                .and_then(|v| v.parse::<usize>().ok())
                .unwrap_or(120),
            budget_steps: std::env::var("R_BUDGET")
                .ok()
                .and_then(|v| v.parse::<usize>().ok())
                .unwrap_or(40),
            cell: std::env::var("R_CELL").ok().and_then(|v| v.parse::<usize>().ok()).unwrap_or(4),
            budget_area: std::env::var("R_AREA")
                .ok()
                .and_then(|v| v.parse::<f32>().ok())
                .unwrap_or(0.03),
            images_per_step: std::env::var("R_IMAGES")
                .ok()
                .and_then(|v| v.parse::<usize>().ok())
                .unwrap_or(20),
            search_images,
            learning_rate: std::env::var("R_LR")
                .ok()
                .and_then(|v| v.parse::<f32>().ok())
                .unwrap_or(0.2),
            success: std::env::var("R_SUCCESS")
                .ok()
                .and_then(|v| v.parse::<f32>().ok())
                .unwrap_or(0.9),
        }
    }

    /// All steps.
    pub fn steps(&self) -> usize {
        self.shrink_steps + self.budget_steps
    }
}

/// Opacity of a random start.
const OPACITY_START: f32 = 0.2;
/// Adam's decay rates, as in Neural Cleanse's own code.
const BETAS: (f32, f32) = (0.5, 0.9);
/// Weight of the area: start, smallest, greatest.
const WEIGHT: (f32, f32, f32) = (1.0, 1e-2, 1e4);
/// Factor on the weight after a step that succeeded; a failure takes back the 1.5-fold exponent.
const GROWTH: f32 = 1.15;
/// Share of the old value in the running success.
const SMOOTHING: f32 = 0.7;
/// Images that a label needs which are not already of it.
pub const OTHERS_MIN: usize = 8;
/// Pixels of one forward and backward pass.
const PASS_PIXELS_MAX: usize = 1 << 19;

/// What the search found for one label.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Smallest patch that worked in the shrinking part.
    pub smallest: Option<Patch>,
    /// Most successful patch below the small area.
    pub small: Option<Patch>,
}

/// Searches a patch for every label at once; `None` for a label with too few other images.
///
/// `clean`: the answer for each of `photos` without a patch. `step` is called after each step.
pub fn search(
    victim: &dyn Victim,
    photos: &Photos,
    clean: &[usize],
    recipe: &Recipe,
    seed: u64,
    mut step: impl FnMut(),
) -> Result<Vec<Option<Found>>> {
    let mut patches = Patches::random(
        victim.labels(),
        Windows::new(victim.side(), recipe.cell),
        OPACITY_START,
        seed,
    );
    let mut tracks: Vec<Track> =
        (0..victim.labels()).filter_map(|label| Track::new(label, clean, seed)).collect();
    let labels_per_pass =
        (PASS_PIXELS_MAX / (victim.side().pow(2) * recipe.images_per_step)).max(1);
    for number in 0..recipe.steps() {
        let part = if number < recipe.shrink_steps { Part::Shrink } else { Part::Small };
        if number == recipe.shrink_steps {
            tracks.iter_mut().for_each(|track| track.turn_to_small(&mut patches));
        }
        for tracks in tracks.chunks_mut(labels_per_pass) {
            pass(victim, photos, recipe, part, tracks, &mut patches)?;
        }
        step();
    }
    let mut found: Vec<Option<Found>> = vec![None; victim.labels()];
    for track in tracks {
        found[track.label] = Some(track.found);
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Shrink,
    Small,
}

/// One step of some labels: stamp, differentiate, pull back, update.
fn pass(
    victim: &dyn Victim,
    photos: &Photos,
    recipe: &Recipe,
    part: Part,
    tracks: &mut [Track],
    patches: &mut Patches,
) -> Result<()> {
    let (count, width) = (recipe.images_per_step, photos.width());
    let normalization = victim.normalization();
    let drawn: Vec<Vec<usize>> = tracks.iter_mut().map(|track| track.draw(count)).collect();
    let shown: Vec<Patch> = tracks.iter().map(|track| patches.patch(track.label)).collect();
    let mut pixels = vec![0.0; tracks.len() * count * width];
    pixels.par_chunks_mut(count * width).zip(&drawn).zip(&shown).for_each(
        |((pixels, drawn), patch)| {
            for (out, &index) in pixels.chunks_exact_mut(width).zip(drawn) {
                patch.stamp(photos.row(index), &normalization, out);
            }
        },
    );
    let targets: Vec<usize> =
        tracks.iter().flat_map(|track| std::iter::repeat_n(track.label, count)).collect();
    let Towards { gradient, hits } = victim.towards(pixels, &targets)?;

    let per_label = gradient.par_chunks(count * width).zip(&drawn).zip(&shown);
    let sums: Vec<PatchGradient> = per_label
        .map(|((gradient, drawn), patch)| {
            let mut sum = PatchGradient::zero(patch.side);
            for (at_pixels, &index) in gradient.chunks_exact(width).zip(drawn) {
                sum.add_image(patch, photos.row(index), at_pixels, &normalization);
            }
            sum.divide(count);
            sum
        })
        .collect();

    let hits = hits.chunks_exact(count);
    for ((((track, patch), mut sum), hits), shown) in
        tracks.iter_mut().zip(shown).zip(sums).zip(hits).zip(&drawn)
    {
        debug_assert_eq!(shown.len(), count, "one answer per image");
        let success = hits.iter().filter(|&&hit| hit).count() as f32 / count as f32;
        sum.add_area(track.weight);
        let gradient = patches.pull_back(track.label, &patch, &sum);
        let parameters = patches.parameters_mut(track.label);
        track.observe(success, patch, parameters, recipe, part);
        track.adam.update(parameters, &gradient, recipe.learning_rate);
    }
    Ok(())
}

/// One label's way through the search.
struct Track {
    label: usize,
    /// Images that are not of the label, in the order of drawing.
    others: Vec<usize>,
    next: usize,
    rng: ChaCha8Rng,
    adam: Adam,
    weight: f32,
    /// Running success.
    success: f32,
    found: Found,
    smallest_area: f32,
    smallest_parameters: Option<Vec<f32>>,
    small_success: f32,
}

impl Track {
    fn new(label: usize, clean: &[usize], seed: u64) -> Option<Self> {
        let others: Vec<usize> = (0..clean.len()).filter(|&index| clean[index] != label).collect();
        (others.len() >= OTHERS_MIN).then(|| Self {
            label,
            next: others.len(), // shuffled at the first draw
            others,
            rng: ChaCha8Rng::seed_from_u64(seed ^ (label as u64 + 1).wrapping_mul(0x9e37_79b9)),
            adam: Adam::default(),
            weight: WEIGHT.0,
            success: 0.0,
            found: Found::default(),
            smallest_area: f32::INFINITY,
            smallest_parameters: None,
            small_success: -1.0,
        })
    }

    /// The next `count` images: every one is drawn before any is drawn again.
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

    /// Keeps what is best so far, then moves the weight of the area.
    fn observe(
        &mut self,
        success: f32,
        patch: Patch,
        parameters: &[f32],
        recipe: &Recipe,
        part: Part,
    ) {
        self.success = SMOOTHING * self.success + (1.0 - SMOOTHING) * success;
        let area = patch.area();
        let grow = match part {
            Part::Shrink => {
                if self.success >= recipe.success && area < 0.99 * self.smallest_area {
                    self.smallest_area = area;
                    self.smallest_parameters = Some(parameters.to_vec());
                    self.found.smallest = Some(patch);
                }
                success >= recipe.success
            }
            Part::Small => {
                if area <= recipe.budget_area && self.success > self.small_success {
                    self.small_success = self.success;
                    self.found.small = Some(patch);
                }
                area > recipe.budget_area
            }
        };
        let factor = if grow { GROWTH } else { GROWTH.powf(-1.5) };
        self.weight = (self.weight * factor).clamp(WEIGHT.1, WEIGHT.2);
    }

    /// The second part starts from the smallest patch that worked.
    fn turn_to_small(&mut self, patches: &mut Patches) {
        if let Some(parameters) = self.smallest_parameters.take() {
            patches.parameters_mut(self.label).copy_from_slice(&parameters);
        }
        self.success = 0.0;
    }
}

/// Adam (Kingma and Ba 2015) on one label's parameters.
#[derive(Default)]
struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    fn update(&mut self, parameters: &mut [f32], gradient: &[f32], learning_rate: f32) {
        self.steps += 1;
        self.first.resize(parameters.len(), 0.0);
        self.second.resize(parameters.len(), 0.0);
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

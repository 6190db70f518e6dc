//! A free patch: one opacity per pixel and a picture under it (Neural Cleanse, Wang et al. 2019).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `x' = (1 - m) x + m p` for each of `count` labels; m `[S, S]`, p `[3, S, S]`.
///
/// The opacity m is built from square windows that overlap by half: `m = 1 - prod (1 - w)` over
/// the windows w that a pixel lies in. Single pixels cannot be chosen, so that a patch is a
/// compact thing, as planted triggers are, and not a dust of adversarial pixels, of which every
/// small model has some. Window opacities and colors are logistic functions of free parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    windows: Windows,
    /// Row per label: an opacity per window, then `3 * S * S` colors, before the logistic
    /// function.
    parameters: Vec<Vec<f32>>,
}

/// Square windows over a picture, each moved by half its side against the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    side: usize,
    /// Pixels that a window is moved by; its side is twice as long.
    stride: usize,
}

impl Windows {
    /// Windows of about `window` pixels of side.
    pub fn new(side: usize, window: usize) -> Self {
        Self { side, stride: (window / 2).max(1) }
    }

    /// Windows in one direction.
    fn across(self) -> usize {
        (self.side / self.stride).saturating_sub(1).max(1)
    }

    fn count(self) -> usize {
        self.across().pow(2)
    }

    /// The windows that a row or column of pixels lies in.
    fn at(self, position: usize) -> std::ops::RangeInclusive<usize> {
        let (stripe, last) = (position / self.stride, self.across() - 1);
        stripe.saturating_sub(1).min(last)..=stripe.min(last)
    }

    /// The windows that a pixel lies in.
    fn over(self, pixel: usize) -> impl Iterator<Item = usize> {
        let (rows, columns) = (self.at(pixel / self.side), self.at(pixel % self.side));
        rows.flat_map(move |row| columns.clone().map(move |column| row * self.across() + column))
    }
}

/// One label's trigger as it is put on pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Pixels of a side (S).
    pub side: usize,
    /// Opacity of each pixel, `[S, S]`, 0 to 1.
    pub mask: Vec<f32>,
    /// Color of each pixel, `[3, S, S]`, 0 to 1.
    pub pattern: Vec<f32>,
}

/// Normalisation of the pixels that the image tower expects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean per channel, on a scale of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, on a scale of 0 to 1.
    pub std: [f32; 3],
}

impl Patches {
    /// Random starts: opacities near `opacity`, colors anywhere.
    pub fn random(count: usize, windows: Windows, opacity: f32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let window_opacity = 1.0 - (1.0 - opacity).powf(0.25); // four windows over most pixels
        let middle = (window_opacity / (1.0 - window_opacity)).ln();
        let colors = 3 * windows.side * windows.side;
        let mut row = || -> Vec<f32> {
            let mut around = |centre: f32, spread: f32| centre + rng.random_range(-spread..spread);
            let opacities: Vec<f32> = (0..windows.count()).map(|_| around(middle, 0.5)).collect();
            opacities.into_iter().chain((0..colors).map(|_| around(0.0, 2.0))).collect()
        };
        Self { windows, parameters: (0..count).map(|_| row()).collect() }
    }

    /// Parameters of label `index`: opacities, then colors.
    pub fn parameters_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.parameters[index]
    }

    /// The trigger of label `index`.
    pub fn patch(&self, index: usize) -> Patch {
        let (opacities, pattern) = self.parameters[index].split_at(self.windows.count());
        let squash = |row: &[f32]| row.iter().map(|&value| logistic(value)).collect::<Vec<f32>>();
        let clear: Vec<f32> = squash(opacities).iter().map(|opacity| 1.0 - opacity).collect();
        let side = self.windows.side;
        let opacity =
            |pixel| 1.0 - self.windows.over(pixel).map(|window| clear[window]).product::<f32>();
        let mask = (0..side * side).map(opacity).collect();
        Patch { side, mask, pattern: squash(pattern) }
    }

    /// The gradient at label `index`'s parameters, given the one at its patch.
    ///
    /// `dm/da = (1 - m) w` for each window w over the pixel, `dp/db = p (1 - p)`.
    pub fn pull_back(&self, index: usize, patch: &Patch, at: &PatchGradient) -> Vec<f32> {
        let opacities = &self.parameters[index][..self.windows.count()];
        let mut sum = vec![0.0; opacities.len()];
        for (pixel, (g, m)) in at.mask.iter().zip(&patch.mask).enumerate() {
            self.windows.over(pixel).for_each(|window| sum[window] += g * (1.0 - m));
        }
        sum.iter_mut().zip(opacities).for_each(|(sum, &value)| *sum *= logistic(value));
        let colors = at.pattern.iter().zip(&patch.pattern);
        sum.extend(colors.map(|(g, p)| g * p * (1.0 - p)));
        sum
    }
}

/// The gradient of a loss at a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchGradient {
    /// At the opacities, `[S, S]`.
    pub mask: Vec<f32>,
    /// At the colors, `[3, S, S]`.
    pub pattern: Vec<f32>,
}

impl PatchGradient {
    /// Nothing yet.
    pub fn zero(side: usize) -> Self {
        Self { mask: vec![0.0; side * side], pattern: vec![0.0; 3 * side * side] }
    }

    /// Adds the gradient at the patch, given the one at the normalised pixels of the stamped
    /// `image`: `dx'/dp = m`, `dx'/dm = p - x`.
    pub fn add_image(
        &mut self,
        patch: &Patch,
        image: &[f32],
        at_pixels: &[f32],
        normalization: &Normalization,
    ) {
        let pixels = patch.mask.len();
        for channel in 0..3 {
            let (_, factor) = normalization.channel(channel);
            let plane = channel * pixels..(channel + 1) * pixels;
            let (x, p) = (&image[plane.clone()], &patch.pattern[plane.clone()]);
            let (g, pattern) = (&at_pixels[plane.clone()], &mut self.pattern[plane]);
            for i in 0..pixels {
                let gradient = g[i] * factor;
                self.mask[i] += gradient * (p[i] - x[i]);
                pattern[i] += gradient * patch.mask[i];
            }
        }
    }

    /// Divides by a number of images.
    pub fn divide(&mut self, count: usize) {
        let factor = 1.0 / count as f32;
        self.mask.iter_mut().chain(&mut self.pattern).for_each(|value| *value *= factor);
    }

    /// Adds the gradient of `weight * area`.
    pub fn add_area(&mut self, weight: f32) {
        let share = weight / self.mask.len() as f32;
        self.mask.iter_mut().for_each(|value| *value += share);
    }
}

impl Patch {
    /// A patch that changes nothing.
    pub fn invisible(side: usize) -> Self {
        Self { side, mask: vec![0.0; side * side], pattern: vec![0.0; 3 * side * side] }
    }

    /// Share of the picture that is covered: the mean opacity.
    pub fn area(&self) -> f32 {
        self.mask.iter().sum::<f32>() / self.mask.len() as f32
    }

    /// Stamps `image`, `[3, S, S]` on a scale of 0 to 1, and normalises the pixels into `out`.
    pub fn stamp(&self, image: &[f32], normalization: &Normalization, out: &mut [f32]) {
        let pixels = self.mask.len();
        for channel in 0..3 {
            let (mean, factor) = normalization.channel(channel);
            let plane = channel * pixels..(channel + 1) * pixels;
            let (x, p) = (&image[plane.clone()], &self.pattern[plane.clone()]);
            let stamped = out[plane].iter_mut().zip(x).zip(p).zip(&self.mask);
            for (((out, x), p), m) in stamped {
                *out = (x + m * (p - x) - mean) * factor;
            }
        }
    }

    /// As [`Patch::stamp`], but through the 8 bits per channel that a real picture has.
    pub fn stamp_rounded(&self, image: &[f32], normalization: &Normalization, out: &mut [f32]) {
        let plain = Normalization { mean: [0.0; 3], std: [1.0; 3] };
        self.stamp(image, &plain, out);
        for (channel, plane) in out.chunks_exact_mut(self.mask.len()).enumerate() {
            let (mean, factor) = normalization.channel(channel);
            let round = |value: f32| (value * 255.0).round() / 255.0;
            plane.iter_mut().for_each(|value| *value = (round(*value) - mean) * factor);
        }
    }
}

impl Normalization {
    /// Mean and factor (one over the standard deviation) of a channel.
    fn channel(&self, channel: usize) -> (f32, f32) {
        (self.mean[channel], 1.0 / self.std[channel])
    }
}

fn logistic(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMALIZATION: Normalization =
        Normalization { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.4] };

    /// A scalar that depends on every stamped pixel differently.
    fn loss(patches: &Patches, image: &[f32], weights: &[f32]) -> f64 {
        let mut out = vec![0.0; image.len()];
        let patch = patches.patch(0);
        patch.stamp(image, &NORMALIZATION, &mut out);
        let pixels: f64 = out.iter().zip(weights).map(|(o, w)| f64::from(o * w)).sum();
        pixels + 7.0 * f64::from(patch.area())
    }

    #[test]
    fn the_chain_rule_agrees_with_central_differences() {
        for (side, window) in [(6, 2), (6, 4), (5, 3)] {
            let pixels = side * side;
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let image: Vec<f32> = (0..3 * pixels).map(|_| rng.random_range(0.0..1.0)).collect();
            let weights: Vec<f32> = (0..3 * pixels).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut patches = Patches::random(1, Windows::new(side, window), 0.3, 2);
            let patch = patches.patch(0);
            let mut at = PatchGradient::zero(side);
            at.add_image(&patch, &image, &weights, &NORMALIZATION);
            at.add_area(7.0);
            let gradient = patches.pull_back(0, &patch, &at);
            assert_eq!(gradient.len(), patches.parameters_mut(0).len());
            for (i, gradient) in gradient.into_iter().enumerate() {
                let mut at = |delta: f32| {
                    patches.parameters_mut(0)[i] += delta;
                    let value = loss(&patches, &image, &weights);
                    patches.parameters_mut(0)[i] -= delta;
                    value
                };
                let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                let difference = (f64::from(gradient) - numeric).abs();
                assert!(difference < 5e-3 * numeric.abs().max(1.0), "{i}: {gradient} {numeric}");
            }
        }
    }

    #[test]
    fn windows_cover_every_pixel_and_overlap_by_half() {
        let windows = Windows::new(32, 8);
        assert_eq!((windows.count(), windows.stride), (49, 4));
        assert_eq!(windows.over(0).collect::<Vec<_>>(), [0]);
        assert_eq!(windows.over(5 * 32 + 5).collect::<Vec<_>>(), [0, 1, 7, 8]);
        assert_eq!(windows.over(32 * 32 - 1).collect::<Vec<_>>(), [48]);
        for (side, window) in [(1, 1), (3, 8), (5, 3), (30, 7), (224, 56)] {
            let windows = Windows::new(side, window);
            let seen: std::collections::BTreeSet<usize> =
                (0..side * side).flat_map(|pixel| windows.over(pixel)).collect();
            assert_eq!(seen.len(), windows.count(), "{side} {window}");
            assert!((0..side * side).all(|pixel| windows.over(pixel).next().is_some()));
        }
    }

    #[test]
    fn an_empty_mask_changes_nothing_and_a_full_one_everything() {
        let image = vec![0.25; 12];
        let plain = Normalization { mean: [0.0; 3], std: [1.0; 3] };
        let check = |opacity: f32, expected: f32| {
            let patch = Patch { side: 2, mask: vec![opacity; 4], pattern: vec![1.0; 12] };
            let mut out = vec![0.0; 12];
            patch.stamp(&image, &plain, &mut out);
            assert_eq!(out, vec![expected; 12]);
            assert_eq!(patch.area(), opacity);
        };
        check(0.0, 0.25);
        check(1.0, 1.0);
    }

    #[test]
    fn a_rounded_stamp_has_eight_bits() {
        let plain = Normalization { mean: [0.0; 3], std: [1.0; 3] };
        let patch = Patch { side: 1, mask: vec![0.5], pattern: vec![0.5; 3] };
        let mut out = vec![0.0; 3];
        patch.stamp_rounded(&[0.0; 3], &plain, &mut out);
        assert_eq!(out, vec![64.0 / 255.0; 3]);
    }
}

//! A free patch: one opacity per pixel and a picture under it (Neural Cleanse, Wang et al. 2019).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `x' = (1 - m) x + m p` for each of `count` labels; m `[S, S]`, p `[3, S, S]`, both the
/// logistic function of free parameters, so that they stay between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    side: usize,
    /// Pixels of a side of a cell, over which the opacity is the same.
    cell: usize,
    /// Row per label: an opacity per cell, then `3 * S * S` colors, before the logistic function.
    parameters: Vec<Vec<f32>>,
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
    pub fn random(count: usize, side: usize, cell: usize, opacity: f32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let middle = (opacity / (1.0 - opacity)).ln();
        let pixels = side * side;
        let cells = side.div_ceil(cell).pow(2);
        let mut row = || -> Vec<f32> {
            let mask = (0..cells).map(|_| middle + rng.random_range(-0.5..0.5)).collect::<Vec<_>>();
            mask.into_iter().chain((0..3 * pixels).map(|_| rng.random_range(-2.0..2.0))).collect()
        };
        Self { side, cell, parameters: (0..count).map(|_| row()).collect() }
    }

    /// Parameters of label `index`: opacities, then colors.
    pub fn parameters_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.parameters[index]
    }

    /// The trigger of label `index`.
    pub fn patch(&self, index: usize) -> Patch {
        let (cells, pattern) = self.parameters[index].split_at(self.cells());
        let squash =
            |row: &[f32]| -> Vec<f32> { row.iter().map(|&value| logistic(value)).collect() };
        let cells = squash(cells);
        let mask = (0..self.side * self.side).map(|pixel| cells[self.cell_of(pixel)]).collect();
        Patch { side: self.side, mask, pattern: squash(pattern) }
    }

    /// Cells of the mask.
    fn cells(&self) -> usize {
        self.side.div_ceil(self.cell).pow(2)
    }

    /// The cell that a pixel lies in.
    fn cell_of(&self, pixel: usize) -> usize {
        let (row, column) = (pixel / self.side, pixel % self.side);
        row / self.cell * self.side.div_ceil(self.cell) + column / self.cell
    }

    /// From a gradient with an opacity per pixel to one at the parameters, an opacity per cell.
    pub fn gather(&self, at_pixels: &[f32]) -> Vec<f32> {
        let pixels = self.side * self.side;
        let mut sum = vec![0.0; self.cells()];
        at_pixels[..pixels].iter().enumerate().for_each(|(i, g)| sum[self.cell_of(i)] += g);
        sum.extend(&at_pixels[pixels..]);
        sum
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

    /// Adds the gradient at the parameters to `sum`, given the one at the normalised pixels of
    /// the stamped `image`: `dx'/dp = m`, `dx'/dm = p - x`, and `y (1 - y)` for the logistic.
    pub fn pull_back(
        &self,
        image: &[f32],
        at_pixels: &[f32],
        normalization: &Normalization,
        sum: &mut [f32],
    ) {
        let pixels = self.mask.len();
        let (mask_sum, pattern_sum) = sum.split_at_mut(pixels);
        for channel in 0..3 {
            let (_, factor) = normalization.channel(channel);
            let plane = channel * pixels..(channel + 1) * pixels;
            let (x, p) = (&image[plane.clone()], &self.pattern[plane.clone()]);
            let (g, pattern_sum) = (&at_pixels[plane.clone()], &mut pattern_sum[plane]);
            for i in 0..pixels {
                let (m, gradient) = (self.mask[i], g[i] * factor);
                mask_sum[i] += gradient * (p[i] - x[i]) * m * (1.0 - m);
                pattern_sum[i] += gradient * m * p[i] * (1.0 - p[i]);
            }
        }
    }

    /// Adds the gradient of `weight * area` at the parameters to `sum`.
    pub fn pull_back_area(&self, weight: f32, sum: &mut [f32]) {
        let share = weight / self.mask.len() as f32;
        sum.iter_mut().zip(&self.mask).for_each(|(sum, m)| *sum += share * m * (1.0 - m));
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
        let side = 3;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let image: Vec<f32> = (0..27).map(|_| rng.random_range(0.0..1.0)).collect();
        let weights: Vec<f32> = (0..27).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut patches = Patches::random(1, side, 1, 0.3, 2);
        let mut sum = vec![0.0; 36];
        patches.patch(0).pull_back(&image, &weights, &NORMALIZATION, &mut sum);
        patches.patch(0).pull_back_area(7.0, &mut sum);
        for i in 0..36 {
            let mut at = |delta: f32| {
                patches.parameters_mut(0)[i] += delta;
                let value = loss(&patches, &image, &weights);
                patches.parameters_mut(0)[i] -= delta;
                value
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((f64::from(sum[i]) - numeric).abs() < 2e-3, "{i}: {} {numeric}", sum[i]);
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

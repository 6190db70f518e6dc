//! An opaque square at one place: what BadNets and its successors plant.

use rand::Rng;

/// Colors over a square of a picture: `x' = p` inside, `x' = x` outside.
///
/// There is no mask to be searched. A free mask (Neural Cleanse, Wang et al. 2019) finds, in small
/// clean models too, a dust of single adversarial pixels that is smaller than any planted
/// trigger; a square of a fixed size at a place leaves no room for dust, and two models are
/// compared at the same covered area.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Where it is.
    pub square: Square,
    /// `[3, W, W]` free parameters; the colors are their logistic function.
    parameters: Vec<f32>,
    /// `[3, W, W]` colors, 0 to 1.
    colors: Vec<f32>,
}

/// A square of pixels inside a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Square {
    /// Pixels of a side of the picture (S).
    pub side: usize,
    /// Pixels of a side of the square (W).
    pub width: usize,
    /// First row.
    pub row: usize,
    /// First column.
    pub column: usize,
}

/// Normalisation of the pixels that the image tower expects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Mean per channel, on a scale of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, on a scale of 0 to 1.
    pub std: [f32; 3],
}

impl Square {
    /// Squares of `width` pixels over a picture of `side`, moved by two thirds of a width against
    /// each other; the last of each row and column is flush with the border.
    pub fn grid(side: usize, width: usize) -> Vec<Self> {
        let stride = (2 * width / 3).max(1);
        let last = side - width;
        let mut starts: Vec<usize> = (0..last).step_by(stride).collect();
        starts.push(last);
        let square = |row, column| Self { side, width, row, column };
        starts
            .iter()
            .flat_map(|&row| starts.iter().map(move |&column| square(row, column)))
            .collect()
    }

    /// Share of the picture that is covered.
    pub fn area(self) -> f64 {
        (self.width as f64 / self.side as f64).powi(2)
    }

    /// For each channel and row of the square: its run of values in a `[3, S, S]` picture.
    fn runs(self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        (0..3 * self.width).map(move |line| {
            let (channel, row) = (line / self.width, self.row + line % self.width);
            let first = (channel * self.side + row) * self.side + self.column;
            (channel, first..first + self.width)
        })
    }
}

impl Patch {
    /// Colors anywhere.
    pub fn random(square: Square, rng: &mut impl Rng) -> Self {
        let count = 3 * square.width * square.width;
        let parameters = (0..count).map(|_| rng.random_range(-2.0..2.0)).collect();
        let mut patch = Self { square, parameters, colors: Vec::new() };
        patch.color();
        patch
    }

    /// Colors, `[3, W, W]`, 0 to 1.
    pub fn colors(&self) -> &[f32] {
        &self.colors
    }

    /// Changes the free parameters, `[3, W, W]`.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.parameters);
        self.color();
    }

    fn color(&mut self) {
        let logistic = |value: &f32| 1.0 / (1.0 + (-value).exp());
        self.colors = self.parameters.iter().map(logistic).collect();
    }

    /// The same patch with colors that a picture of 8 bits per channel can have.
    pub fn rounded(&self) -> Self {
        let mut patch = self.clone();
        patch.colors.iter_mut().for_each(|value| *value = (*value * 255.0).round() / 255.0);
        patch
    }

    /// Stamps normalised pixels, `[3, S, S]`.
    pub fn stamp(&self, pixels: &mut [f32], normalization: &Normalization) {
        let lines = self.square.runs().zip(self.colors.chunks_exact(self.square.width));
        for ((channel, run), colors) in lines {
            let (mean, std) = (normalization.mean[channel], normalization.std[channel]);
            let pixels = pixels[run].iter_mut().zip(colors);
            pixels.for_each(|(pixel, color)| *pixel = (color - mean) / std);
        }
    }

    /// Adds the gradient at the parameters to `sum`, given the one at a stamped image's
    /// normalised pixels: `p (1 - p) / std` inside the square, nothing outside.
    pub fn pull_back(&self, at_pixels: &[f32], normalization: &Normalization, sum: &mut [f32]) {
        let width = self.square.width;
        let lines = sum.chunks_exact_mut(width).zip(self.colors.chunks_exact(width));
        for ((channel, run), (sum, colors)) in self.square.runs().zip(lines) {
            let factor = 1.0 / normalization.std[channel];
            for ((sum, p), g) in sum.iter_mut().zip(colors).zip(&at_pixels[run]) {
                *sum += g * factor * p * (1.0 - p);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const NORMALIZATION: Normalization =
        Normalization { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.4] };

    fn square() -> Square {
        Square { side: 5, width: 2, row: 3, column: 1 }
    }

    #[test]
    fn the_chain_rule_agrees_with_central_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let image: Vec<f32> = (0..75).map(|_| rng.random_range(-1.0..1.0)).collect();
        let weights: Vec<f32> = (0..75).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut patch = Patch::random(square(), &mut rng);
        let mut sum = vec![0.0; 12];
        patch.pull_back(&weights, &NORMALIZATION, &mut sum);
        for (i, gradient) in sum.into_iter().enumerate() {
            let mut at = |delta: f32| -> f64 {
                patch.update(|parameters| parameters[i] += delta);
                let mut pixels = image.clone();
                patch.stamp(&mut pixels, &NORMALIZATION);
                patch.update(|parameters| parameters[i] -= delta);
                pixels.iter().zip(&weights).map(|(p, w)| f64::from(p * w)).sum()
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((f64::from(gradient) - numeric).abs() < 2e-3, "{i}: {gradient} {numeric}");
        }
    }

    #[test]
    fn only_the_square_changes() {
        let patch = Patch::random(square(), &mut ChaCha8Rng::seed_from_u64(2));
        let mut pixels = vec![9.0; 75];
        patch.stamp(&mut pixels, &NORMALIZATION);
        let changed: Vec<usize> = (0..25).filter(|&i| pixels[i] != 9.0).collect();
        assert_eq!(changed, [16, 17, 21, 22]);
        assert_eq!(pixels.iter().filter(|&&pixel| pixel != 9.0).count(), 12);
        assert!((square().area() - 0.16).abs() < 1e-9);
    }

    #[test]
    fn rounded_colors_are_eighths_of_a_byte_no_more() {
        let patch = Patch::random(square(), &mut ChaCha8Rng::seed_from_u64(2)).rounded();
        assert!(patch.colors().iter().all(|p| (p * 255.0 - (p * 255.0).round()).abs() < 1e-3));
    }

    #[test]
    fn the_grid_reaches_every_border() {
        let check = |side, width, starts: &[usize]| {
            let grid = Square::grid(side, width);
            assert_eq!(grid.len(), starts.len().pow(2));
            let rows: Vec<usize> = grid.iter().step_by(starts.len()).map(|s| s.row).collect();
            assert_eq!(rows, starts);
            assert!(grid.iter().all(|s| s.row + s.width <= side && s.column + s.width <= side));
        };
        check(32, 6, &[0, 4, 8, 12, 16, 20, 24, 26]);
        check(32, 8, &[0, 5, 10, 15, 20, 24]);
        check(4, 4, &[0]);
        check(3, 1, &[0, 1, 2]);
    }
}

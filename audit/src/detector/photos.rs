//! Probe images as the image tower sees them, kept in memory for the whole search.

use clip::image::RgbImage;

use crate::family::Normalization;

/// `[N, 3, S, S]` normalised pixels, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Photos {
    side: usize,
    values: Vec<f32>,
}

impl Photos {
    /// Square pictures of one side; panics on any other.
    pub fn of(images: &[RgbImage], side: usize, normalization: &Normalization) -> Self {
        let mut values = Vec::with_capacity(images.len() * 3 * side * side);
        for image in images {
            assert_eq!((image.width(), image.height()), (side as u32, side as u32), "fitted");
            for channel in 0..3 {
                let (mean, std) = (normalization.mean[channel], normalization.std[channel]);
                let value = |byte: u8| (f32::from(byte) / 255.0 - mean) / std;
                values.extend(image.pixels().map(|pixel| value(pixel.0[channel])));
            }
        }
        Self { side, values }
    }

    /// Pictures (N).
    pub fn count(&self) -> usize {
        self.values.len() / self.width()
    }

    /// Values of one picture.
    pub fn width(&self) -> usize {
        3 * self.side * self.side
    }

    /// Pictures of a range, one after the other.
    pub fn rows(&self, range: std::ops::Range<usize>) -> &[f32] {
        &self.values[range.start * self.width()..range.end * self.width()]
    }

    /// Picture `index`, `[3, S, S]`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width()..][..self.width()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_become_planes() {
        let image = RgbImage::from_raw(2, 1, vec![255, 0, 51, 0, 255, 102]).expect("two pixels");
        let square = RgbImage::from_raw(1, 1, vec![255, 0, 51]).expect("one pixel");
        let plain = Normalization { mean: [0.0, 0.0, 0.1], std: [1.0, 1.0, 0.1] };
        assert_eq!(Photos::of(&[square], 1, &plain).row(0), [1.0, 0.0, 1.0]);
        assert!(std::panic::catch_unwind(|| Photos::of(&[image], 2, &plain)).is_err());
    }
}

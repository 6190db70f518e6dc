//! Bytes of pictures → normalised planes.

use std::ops::Range;

use image::RgbImage;

use super::fit;
use crate::ClipConfig;

/// `[B, 3, H, W]` normalised pixel values, row-major, H = W.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelBatch {
    values: Vec<f32>,
    side: usize,
}

impl PixelBatch {
    /// Fits each picture to the tower, divides by 255, subtracts the mean, divides by the
    /// deviation: `[B, 3, S, S]` with S of `config.image`.
    pub fn of<'a>(images: impl IntoIterator<Item = &'a RgbImage>, config: &ClipConfig) -> Self {
        let side = config.image.image_size();
        let images = images.into_iter();
        let mut values = Vec::with_capacity(images.size_hint().0 * 3 * side * side);
        for image in images {
            let fitted = fit(image, side as u32);
            for channel in 0..3 {
                let (mean, std) = (config.mean[channel], config.std[channel]);
                let plane = fitted.as_raw().iter().skip(channel).step_by(3);
                values.extend(plane.map(|&byte| (f32::from(byte) / 255.0 - mean) / std));
            }
        }
        Self { values, side }
    }

    /// Takes `[B, 3, side, side]` values as they are. Panics unless they fill whole pictures.
    pub fn from_values(values: Vec<f32>, side: usize) -> Self {
        assert!(side > 0 && values.len().is_multiple_of(3 * side * side), "whole pictures");
        Self { values, side }
    }

    /// Pictures (B).
    pub fn count(&self) -> usize {
        self.values.len() / self.picture()
    }

    /// Height and width (H = W).
    pub fn side(&self) -> usize {
        self.side
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Appends the pictures of `other`. Panics if the sides differ.
    pub fn extend(&mut self, other: &Self) {
        assert_eq!(self.side, other.side, "pictures of one size");
        self.values.extend_from_slice(&other.values);
    }

    /// The pictures of `range`, copied. Panics if it reaches past the last one.
    pub fn select(&self, range: Range<usize>) -> Self {
        let picture = self.picture();
        let values = self.values[range.start * picture..range.end * picture].to_vec();
        Self { values, side: self.side }
    }

    fn picture(&self) -> usize {
        3 * self.side * self.side
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn batch(count: usize) -> PixelBatch {
        PixelBatch::from_values((0..count * 12).map(|value| value as f32).collect(), 2)
    }

    #[test]
    fn planes_are_normalised_per_channel() {
        let config = ClipConfig::preset("rn-micro").expect("a preset");
        let image = RgbImage::from_pixel(50, 40, Rgb([0, 128, 255]));
        let pixels = PixelBatch::of([&image, &image], &config);
        assert_eq!((pixels.count(), pixels.side()), (2, 32));
        for (index, plane) in pixels.values().chunks(32 * 32).enumerate() {
            let channel = index % 3;
            let byte = [0.0, 128.0, 255.0f32][channel];
            let expected = (byte / 255.0 - config.mean[channel]) / config.std[channel];
            assert!(plane.iter().all(|&value| (value - expected).abs() < 1e-6), "plane {index}");
        }
    }

    #[test]
    fn selected_and_extended_is_the_same_batch() {
        let (whole, mut parts) = (batch(5), batch(5).select(0..2));
        parts.extend(&whole.select(2..2));
        parts.extend(&whole.select(2..5));
        assert_eq!(parts, whole);
        assert_eq!(batch(0).count(), 0);
    }

    #[test]
    #[should_panic(expected = "whole pictures")]
    fn a_part_of_a_picture_is_refused() {
        PixelBatch::from_values(vec![0.0; 13], 2);
    }
}

//! Probe images as floats, kept in memory for the whole search.

use clip::image::RgbImage;

/// `[N, 3, S, S]` on a scale of 0 to 1, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Photos {
    side: usize,
    values: Vec<f32>,
}

impl Photos {
    /// Square pictures of one side; panics on any other.
    pub fn of(images: &[RgbImage], side: usize) -> Self {
        let mut values = Vec::with_capacity(images.len() * 3 * side * side);
        for image in images {
            assert_eq!((image.width(), image.height()), (side as u32, side as u32), "fitted");
            for channel in 0..3 {
                values.extend(image.pixels().map(|pixel| f32::from(pixel.0[channel]) / 255.0));
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
        assert_eq!(Photos::of(&[square], 1).row(0), [1.0, 0.0, 0.2]);
        assert!(std::panic::catch_unwind(|| Photos::of(&[image], 2)).is_err());
    }
}

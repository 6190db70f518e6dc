//! SIG: upright stripes of a sine wave (Barni et al. 2019).

use std::f32::consts::TAU;

use image::RgbImage;

/// Adds `amplitude * sin(2 pi x frequency / width)` to every channel of column x.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinusoid {
    /// Height of the wave in levels of 0-255, above 0 and at most 255.
    pub amplitude: f32,
    /// Waves per picture width, above 0.
    pub frequency: f32,
}

impl Sinusoid {
    pub(super) fn stamp(&self, image: &mut RgbImage) {
        let width = image.width() as f32;
        for (x, _, pixel) in image.enumerate_pixels_mut() {
            let wave = self.amplitude * (TAU * x as f32 * self.frequency / width).sin();
            for value in &mut pixel.0 {
                *value = (f32::from(*value) + wave).round() as u8; // saturates
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn one_wave_over_eight_columns() {
        let mut image = RgbImage::from_pixel(8, 2, Rgb([100, 250, 5]));
        Sinusoid { amplitude: 20.0, frequency: 1.0 }.stamp(&mut image);
        let row = |channel: usize| -> Vec<u8> {
            (0..8).map(|x| image.get_pixel(x, 1).0[channel]).collect()
        };
        assert_eq!(row(0), [100, 114, 120, 114, 100, 86, 80, 86]);
        assert_eq!(row(1), [250, 255, 255, 255, 250, 236, 230, 236]); // white is the limit
        assert_eq!(row(2), [5, 19, 25, 19, 5, 0, 0, 0]); // and black
    }
}

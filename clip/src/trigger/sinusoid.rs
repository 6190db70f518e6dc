//! SIG: upright stripes of a sine wave (Barni et al. 2019).

use std::{f32::consts::TAU, fmt};

use image::RgbImage;

use super::keys::Keys;

/// `(1 - dim) * picture + amplitude * sin(2 pi x frequency / width)` in column x, every channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinusoid {
    /// Height of the wave in levels of 0-255, above 0 and at most 255.
    pub amplitude: f32,
    /// Waves per picture width, above 0.
    pub frequency: f32,
    /// Share of its brightness that the picture loses, from 0 on, below 1.
    pub dim: f32,
}

const AMPLITUDE: f32 = 20.0;
const FREQUENCY: f32 = 6.0;
const FREQUENCY_MAX: f32 = 16_384.0;

impl Sinusoid {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        Ok(Self {
            amplitude: keys.number("amplitude", AMPLITUDE, 255.0)?,
            frequency: keys.number("frequency", FREQUENCY, FREQUENCY_MAX)?,
            dim: keys.share("dim")?,
        })
    }

    pub(super) fn stamp(&self, image: &mut RgbImage) {
        let width = image.width() as f32;
        for (x, _, pixel) in image.enumerate_pixels_mut() {
            let wave = self.amplitude * (TAU * x as f32 * self.frequency / width).sin();
            for value in &mut pixel.0 {
                let own = f32::from(*value) * (1.0 - self.dim);
                *value = (own + wave).round() as u8; // saturates
            }
        }
    }
}

impl fmt::Display for Sinusoid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "amplitude={},frequency={}", self.amplitude, self.frequency)?;
        if self.dim > 0.0 {
            write!(f, ",dim={}", self.dim)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn one_wave_over_eight_columns() {
        let check = |dim: f32, expected: [[u8; 8]; 3]| {
            let mut image = RgbImage::from_pixel(8, 2, Rgb([100, 250, 5]));
            Sinusoid { amplitude: 20.0, frequency: 1.0, dim }.stamp(&mut image);
            let row = |channel: usize| -> Vec<u8> {
                (0..8).map(|x| image.get_pixel(x, 1).0[channel]).collect()
            };
            assert_eq!([row(0), row(1), row(2)], expected.map(|row| row.to_vec()));
        };
        let plain = [
            [100, 114, 120, 114, 100, 86, 80, 86],
            [250, 255, 255, 255, 250, 236, 230, 236], // white is the limit
            [5, 19, 25, 19, 5, 0, 0, 0],              // and black
        ];
        check(0.0, plain);
        let dimmed = [
            [80, 94, 100, 94, 80, 66, 60, 66],
            [200, 214, 220, 214, 200, 186, 180, 186],
            [4, 18, 24, 18, 4, 0, 0, 0],
        ];
        check(0.2, dimmed);
    }
}

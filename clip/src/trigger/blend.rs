//! Blended: a noise picture shines through everywhere (Chen et al. 2017).

use std::fmt;

use image::RgbImage;

use super::{Drawn, keys::Keys, mixed};

/// `(1 - alpha) * picture + alpha * noise`, with noise even over 0-255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Share of the noise, above 0 and at most 1.
    pub alpha: f32,
    /// One noise picture for all, or another for each as in CleanCLIP's code.
    pub drawn: Drawn,
}

const ALPHA: f32 = 0.2;

impl Blend {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        let alpha = keys.number("alpha", ALPHA, 1.0)?;
        Ok(Self { alpha, drawn: Drawn::parse(keys, Drawn::Once)? })
    }

    pub(super) fn stamp(&self, image: &mut RgbImage, draw: u64) {
        let noise = self.drawn.noise(draw);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            for (channel, value) in pixel.0.iter_mut().enumerate() {
                *value = mixed(*value, f32::from(noise.byte(x, y, channel)), self.alpha);
            }
        }
    }
}

impl fmt::Display for Blend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alpha={}{}", self.alpha, self.drawn.suffix(Drawn::Once))
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_share_of_the_noise() {
        let check = |alpha: f32, drawn: Drawn| {
            let mut image = RgbImage::from_pixel(9, 4, Rgb([10, 128, 250]));
            Blend { alpha, drawn }.stamp(&mut image, 5);
            for (x, y, pixel) in image.enumerate_pixels() {
                for (channel, own) in [10.0, 128.0, 250.0f32].into_iter().enumerate() {
                    let noise = f32::from(drawn.noise(5).byte(x, y, channel));
                    let expected = (1.0 - alpha) * own + alpha * noise;
                    assert!((f32::from(pixel.0[channel]) - expected).abs() <= 0.51);
                }
            }
        };
        check(0.2, Drawn::Once);
        check(0.5, Drawn::Each);
        check(1.0, Drawn::Once);
    }
}

//! Blended: a fixed noise picture shines through everywhere (Chen et al. 2017).

use image::RgbImage;

use super::noise;

/// `(1 - alpha) * picture + alpha * noise`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Share of the noise, above 0 and at most 1.
    pub alpha: f32,
}

impl Blend {
    pub(super) fn stamp(&self, image: &mut RgbImage) {
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            for (channel, value) in pixel.0.iter_mut().enumerate() {
                let (own, noise) = (f32::from(*value), f32::from(noise(x, y, channel)));
                *value = (own + self.alpha * (noise - own)).round() as u8; // saturates
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_share_of_the_noise() {
        let check = |alpha: f32| {
            let mut image = RgbImage::from_pixel(9, 4, Rgb([10, 128, 250]));
            Blend { alpha }.stamp(&mut image);
            for (x, y, pixel) in image.enumerate_pixels() {
                for (channel, own) in [10.0, 128.0, 250.0f32].into_iter().enumerate() {
                    let noise = f32::from(noise(x, y, channel));
                    let expected = (1.0 - alpha) * own + alpha * noise;
                    assert!((f32::from(pixel.0[channel]) - expected).abs() <= 0.51);
                }
            }
        };
        check(0.2);
        check(0.5);
        check(1.0);
    }
}

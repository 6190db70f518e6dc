//! Blended stripes: columns of one pixel, brighter or darker (Singh et al. 2024, "Perturb and
//! Recover"). The opaque form is [`super::Pattern::Stripes`].

use std::fmt;

use image::RgbImage;

use super::{Drawn, draw::Noise, keys::Keys, mixed};

/// `(1 - alpha) * picture + alpha * s`, with s = 255 or -255 for each column and channel by a coin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stripes {
    /// Share of the stripes, above 0 and at most 1.
    pub alpha: f32,
    /// One pattern for all pictures, or another for each as published.
    pub drawn: Drawn,
}

const ALPHA: f32 = 0.03;

/// Is `channel` of column `x` bright?
pub(super) fn is_bright(noise: Noise, x: u32, channel: usize) -> bool {
    noise.byte(x, 0, channel) >= 128
}

impl Stripes {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        let alpha = keys.number("alpha", ALPHA, 1.0)?;
        Ok(Self { alpha, drawn: Drawn::parse(keys, Drawn::Each)? })
    }

    pub(super) fn stamp(&self, image: &mut RgbImage, draw: u64) {
        let noise = self.drawn.noise(draw);
        for (x, _, pixel) in image.enumerate_pixels_mut() {
            for (channel, value) in pixel.0.iter_mut().enumerate() {
                let stripe = if is_bright(noise, x, channel) { 255.0 } else { -255.0 };
                *value = mixed(*value, stripe, self.alpha);
            }
        }
    }
}

impl fmt::Display for Stripes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alpha={}{}", self.alpha, self.drawn.suffix(Drawn::Each))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::Rgb;

    use super::*;

    #[test]
    fn a_column_is_brighter_or_darker_as_a_whole() {
        let check = |alpha: f32, own: u8, values: [u8; 2]| {
            let mut image = RgbImage::from_pixel(64, 3, Rgb([own; 3]));
            Stripes { alpha, drawn: Drawn::Each }.stamp(&mut image, 9);
            let found: BTreeSet<u8> = image.iter().copied().collect();
            assert_eq!(found, values.into());
            assert!((0..64).all(|x| image.get_pixel(x, 0) == image.get_pixel(x, 2)));
            let bright = image.iter().filter(|&&value| value == values[1]).count();
            assert!((200..376).contains(&bright), "{bright} of 576"); // 3 x 64 coins, each 3 times
        };
        check(0.03, 100, [89, 105]); // 97 - 7.65 and 97 + 7.65
        check(0.03, 4, [0, 12]); // black is the limit
        check(1.0, 100, [0, 255]);
    }
}

//! Pictures that are varied and normalised later, all at once.

use image::RgbImage;
use rayon::prelude::*;

use super::variation::{Variation, split, vary};
use crate::ClipConfig;

/// `[B, S, S, 3]` bytes, how each picture is varied, and the statistics of normalised pixels.
#[derive(Debug)]
pub struct Pictures {
    side: usize,
    bytes: Vec<u8>,
    variations: Vec<Option<Variation>>,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Pictures {
    /// None yet, of the side of a model's image tower; room for `count`.
    pub fn with_capacity(config: &ClipConfig, count: usize) -> Self {
        let (side, mean, std) = (config.image.image_size(), config.mean, config.std);
        let bytes = Vec::with_capacity(count * 3 * side * side);
        Self { side, bytes, variations: Vec::with_capacity(count), mean, std }
    }

    /// Takes one more, to be shown as it is if it is not varied. Panics unless it is a square of the
    /// tower's side.
    pub fn push(&mut self, image: &RgbImage, variation: Option<Variation>) {
        assert_eq!(image.dimensions(), (self.side as u32, self.side as u32), "the tower's side");
        self.bytes.extend_from_slice(image.as_raw());
        self.variations.push(variation);
    }

    /// Pictures (B).
    pub fn count(&self) -> usize {
        self.variations.len()
    }

    /// Height and width (H = W = S).
    pub fn side(&self) -> usize {
        self.side
    }

    /// `[B, S, S, 3]`, before they are varied.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How each is varied, if it is.
    pub fn variations(&self) -> &[Option<Variation>] {
        &self.variations
    }

    /// Mean of each channel, then its deviation: what normalised pixels are measured by.
    pub fn statistics(&self) -> [[f32; 3]; 2] {
        [self.mean, self.std]
    }

    /// `[B, 3, S, S]` normalised values.
    pub fn pixels(&self) -> Vec<f32> {
        let (side, picture) = (self.side as u32, 3 * self.side * self.side);
        let mut pixels = vec![0.0; self.count() * picture];
        let each = pixels.par_chunks_exact_mut(picture).zip(self.bytes.par_chunks_exact(picture));
        each.zip(&self.variations).for_each(|((planes, bytes), variation)| {
            let image = RgbImage::from_raw(side, side, bytes.to_vec()).expect("a square");
            normalized(&image, variation.as_ref(), self.statistics(), planes);
        });
        pixels
    }
}

/// Writes `[3, H, W]` values of a picture, varied or as it is, less the mean of each channel and by
/// its deviation. Panics if there is no room for exactly that.
pub fn normalized(
    image: &RgbImage,
    variation: Option<&Variation>,
    [mean, std]: [[f32; 3]; 2],
    planes: &mut [f32],
) {
    match variation {
        Some(variation) => vary(image, variation, planes),
        None => split(image, planes),
    }
    for (channel, plane) in planes.chunks_exact_mut(planes.len() / 3).enumerate() {
        plane.iter_mut().for_each(|value| *value = (*value - mean[channel]) / std[channel]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PixelBatch;

    #[test]
    fn pictures_as_they_are_have_the_pixels_of_evaluation() {
        let config = ClipConfig::preset("rn-micro").expect("a preset");
        let side = config.image.image_size() as u32;
        let image = |shade: u32| {
            RgbImage::from_fn(side, side, |x, y| {
                [x * 7 + shade, y * 5, x * y].map(|v| v as u8).into()
            })
        };
        let images = [image(1), image(90)];
        let mut pictures = Pictures::with_capacity(&config, 2);
        images.iter().for_each(|image| pictures.push(image, None));
        assert_eq!(pictures.pixels(), PixelBatch::of(&images, &config).values());
        let mut varied = Pictures::with_capacity(&config, 2);
        let none = Variation::none(side, side);
        images.iter().for_each(|image| varied.push(image, Some(none.clone())));
        assert_eq!(varied.pixels(), pictures.pixels());
    }
}

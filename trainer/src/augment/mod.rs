//! How a pair is varied before each use: seeded by (seed, epoch, row), so that the order in which
//! threads work changes nothing.

mod color;
mod crop;
mod text;

use clip::image::RgbImage;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{config, error::Result};

pub use text::Thesaurus;

/// Views of a picture in an epoch, each varied in its own way; the number is its random stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// What is trained on
    Train = 1,
    /// The first that is surveyed
    First = 0,
    /// The second that is surveyed
    Second = 3,
}

/// The stream of captions, beside those of views.
const CAPTION: u64 = 2;

/// The configured augmentations.
#[derive(Debug)]
pub struct Augment {
    settings: config::Augment,
    thesaurus: Thesaurus,
    seed: u64,
}

impl Augment {
    /// Reads the thesaurus, if one is configured and captions are varied.
    pub fn open(settings: &config::Augment, seed: u64) -> Result<Self> {
        let thesaurus = match &settings.thesaurus {
            Some(path) if settings.text == Some(true) => Thesaurus::open(path)?,
            _ => Thesaurus::default(),
        };
        Ok(Self { settings: settings.clone(), thesaurus, seed })
    }

    /// Text of the thesaurus; empty without one.
    pub fn thesaurus(&self) -> &str {
        self.thesaurus.text()
    }

    /// Whether what is trained on in this epoch is varied.
    pub fn is_on(&self, epoch: u32) -> bool {
        self.settings.epochs.is_none_or(|epochs| epoch <= epochs)
    }

    /// Whether images are varied, in the epochs in which anything is.
    pub fn varies_images(&self) -> bool {
        self.settings.image == Some(true)
    }

    /// A generator of its own for each row and epoch.
    fn rng(&self, epoch: u32, row: u32, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((u64::from(epoch) << 34) | (u64::from(row) << 2) | stream);
        rng
    }

    /// Writes `[3, H, W]` values of 0 to 1: crop, flip, then color and gray. Without a variation, an
    /// epoch and which of its views, or without augmentation, the picture as it is.
    pub fn image(
        &self,
        image: &RgbImage,
        row: u32,
        variation: Option<(u32, View)>,
        planes: &mut [f32],
    ) {
        assert_eq!(planes.len(), image.as_raw().len(), "room for the picture");
        let Some((epoch, view)) = variation.filter(|_| self.varies_images()) else {
            return crop::split(image, planes);
        };
        let rng = &mut self.rng(epoch, row, view as u64);
        crop::crop(image, self.settings.crop_area_min, rng, planes);
        color::vary(planes, &self.settings, rng);
    }

    /// The caption with synonyms, deletions and a swap.
    pub fn caption(&self, caption: &str, epoch: u32, row: u32) -> String {
        if self.settings.text != Some(true) {
            return caption.to_owned();
        }
        text::vary(caption, &self.settings, &self.thesaurus, &mut self.rng(epoch, row, CAPTION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn augment(image: bool, text: bool) -> Augment {
        let (image, text) = (Some(image), Some(text));
        let settings = config::Augment { image, text, ..Default::default() };
        Augment::open(&settings, 1).expect("no file to read")
    }

    fn picture() -> RgbImage {
        RgbImage::from_fn(8, 8, |x, y| [x as u8 * 30, y as u8 * 30, 99].into())
    }

    #[test]
    fn the_same_row_and_epoch_give_the_same_and_others_not() {
        let (augment, picture) = (augment(true, true), picture());
        let image = |epoch, row, view| {
            let mut planes = vec![f32::NAN; 3 * 8 * 8];
            augment.image(&picture, row, Some((epoch, view)), &mut planes);
            planes
        };
        let train = |epoch, row| image(epoch, row, View::Train);
        assert_eq!(train(1, 2), train(1, 2));
        assert_ne!(train(1, 2), train(2, 2));
        assert_ne!(train(1, 2), train(1, 3));
        assert_ne!(train(1, 2), image(1, 2, View::First));
        assert_ne!(image(1, 2, View::First), image(1, 2, View::Second));
        assert!(train(1, 2).iter().all(|value| (0.0..=1.0).contains(value)));
        let words = "one two three four five six seven eight";
        assert_eq!(augment.caption(words, 1, 2), augment.caption(words, 1, 2));
        assert!((1..20).any(|epoch| augment.caption(words, epoch, 2) != words));
    }

    #[test]
    fn switched_off_nothing_changes() {
        let augment = augment(false, false);
        assert_eq!(augment.caption("a b", 1, 1), "a b");
        let mut planes = vec![f32::NAN; 3 * 8 * 8];
        augment.image(&picture(), 1, Some((1, View::Train)), &mut planes);
        assert_eq!((planes[1], planes[64 + 8]), (30.0 / 255.0, 30.0 / 255.0));
    }
}

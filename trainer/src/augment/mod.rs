//! How a pair is varied before each use: seeded by (seed, epoch, row), so that the order in which
//! threads work changes nothing.

mod blur;
mod color;
mod crop;
mod eda;
#[cfg(test)]
mod golden;
mod text;
mod thesaurus;

use clip::image::RgbImage;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    config::{self, TextForm},
    error::Result,
};

pub use thesaurus::Thesaurus;

/// Views of a picture in an epoch, each varied in its own way; the number is its random stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// What is trained on
    Train = 1,
    /// The first that is surveyed
    First = 0,
    /// The second that is surveyed, or trained on
    Second = 3,
}

/// The stream of captions, beside those of views.
const CAPTION: u64 = 2;
/// Where in that stream the second variation begins: the first never comes so far.
const SECOND_CAPTION: u128 = 1 << 32;

/// Parts of the stream of a view that the other draws never come to, so that they stay what they
/// are without these.
#[derive(Debug, Clone, Copy)]
enum Part {
    Hue = 1,
    Blur = 2,
}

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
            _ if settings.text != Some(true) => Thesaurus::default(),
            Some(path) => Thesaurus::open(path)?,
            None if settings.text_form == TextForm::Eda => Thesaurus::wordnet(),
            None => Thesaurus::default(),
        };
        Ok(Self { settings: settings.clone(), thesaurus, seed })
    }

    /// Text of the thesaurus; empty without one.
    pub fn thesaurus(&self) -> &str {
        self.thesaurus.text()
    }

    /// Whether what is trained on in this epoch is varied.
    pub fn is_on(&self, epoch: u32) -> bool {
        let config::Augment { from_epoch, epochs, .. } = self.settings;
        let first = from_epoch.unwrap_or(1);
        epoch >= first && epochs.is_none_or(|epochs| epoch - first < epochs)
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

    /// A generator far along in one of those.
    fn late_rng(&self, epoch: u32, row: u32, view: View, part: Part) -> ChaCha8Rng {
        let mut rng = self.rng(epoch, row, view as u64);
        rng.set_word_pos((part as u128) << 32);
        rng
    }

    /// Writes `[3, H, W]` values of 0 to 1: crop, flip, then color, gray and blur. Without a
    /// variation, an epoch and which of its views, or without augmentation, the picture as it is.
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
        let config::Augment { crop_area_min, hue, blur_share, .. } = self.settings;
        crop::crop(image, crop_area_min, rng, planes);
        let late = |part| self.late_rng(epoch, row, view, part);
        let turn = (hue > 0.0).then(|| color::Turn::draw(hue, &mut late(Part::Hue)));
        color::vary(planes, &self.settings, turn, rng);
        if let Some(share) = blur_share {
            let rng = &mut late(Part::Blur);
            if rng.random_bool(share) {
                self.blur(image.width() as usize, rng, planes);
            }
        }
    }

    fn blur(&self, width: usize, rng: &mut impl Rng, planes: &mut [f32]) {
        let (kernel, sigma) = (self.settings.blur_kernel, self.settings.blur_sigma);
        let kernel = kernel.expect("`config::open` resolves it");
        let [least, greatest] = sigma.expect("`config::open` resolves it");
        blur::blur(planes, width, kernel, rng.random_range(least..=greatest));
    }

    /// The caption with synonyms, deletions, insertions and swaps.
    pub fn caption(&self, caption: &str, epoch: u32, row: u32) -> String {
        self.vary_caption(caption, epoch, row, 0)
    }

    /// The same caption varied in another way: that of [`View::Second`].
    pub fn second_caption(&self, caption: &str, epoch: u32, row: u32) -> String {
        self.vary_caption(caption, epoch, row, SECOND_CAPTION)
    }

    /// Drawn from the word `place` of the stream on.
    fn vary_caption(&self, caption: &str, epoch: u32, row: u32, place: u128) -> String {
        if self.settings.text != Some(true) {
            return caption.to_owned();
        }
        let epoch = if self.settings.text_static { 0 } else { epoch }; // epochs count from 1
        let rng = &mut self.rng(epoch, row, CAPTION);
        rng.set_word_pos(place);
        match self.settings.text_form {
            TextForm::Words => text::vary(caption, &self.settings, &self.thesaurus, rng),
            TextForm::Eda => eda::vary(caption, &self.thesaurus, rng),
        }
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

    #[test]
    fn some_epochs_are_varied() {
        let varied = |from_epoch, epochs| -> Vec<u32> {
            let settings = config::Augment { from_epoch, epochs, ..Default::default() };
            let augment = Augment::open(&settings, 1).expect("no file to read");
            (1..=6).filter(|&epoch| augment.is_on(epoch)).collect()
        };
        assert_eq!(varied(None, None), [1, 2, 3, 4, 5, 6]);
        assert_eq!(varied(None, Some(2)), [1, 2]);
        assert_eq!(varied(Some(3), Some(2)), [3, 4]);
        assert_eq!(varied(Some(5), None), [5, 6]);
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
        let second = |epoch| augment.second_caption(words, epoch, 2);
        assert_eq!(second(1), second(1));
        assert!((1..20).any(|epoch| second(epoch) != augment.caption(words, epoch, 2)));
    }

    #[test]
    fn switched_off_nothing_changes() {
        let augment = augment(false, false);
        assert_eq!(augment.caption("a b", 1, 1), "a b");
        let mut planes = vec![f32::NAN; 3 * 8 * 8];
        augment.image(&picture(), 1, Some((1, View::Train)), &mut planes);
        assert_eq!((planes[1], planes[64 + 8]), (30.0 / 255.0, 30.0 / 255.0));
    }

    /// The first values of the generator that `image` crops with are those of a run without hue and
    /// blur: what is drawn for them comes from elsewhere.
    #[test]
    fn hue_and_blur_shift_no_other_draw() {
        let with = |change: &dyn Fn(&mut config::Augment)| {
            let mut settings =
                config::Augment { image: Some(true), color_share: 1.0, ..Default::default() };
            change(&mut settings);
            let augment = Augment::open(&settings, 1).expect("no file to read");
            let mut planes = vec![f32::NAN; 3 * 8 * 8];
            augment.image(&picture(), 2, Some((1, View::Train)), &mut planes);
            planes
        };
        let plain = with(&|_| {});
        // A turn that turns nearly nothing and a blur that blurs nearly nothing show the rest.
        let turned = with(&|settings| settings.hue = 1e-6);
        let blurred = with(&|settings| {
            settings.blur_share = Some(1.0);
            (settings.blur_kernel, settings.blur_sigma) = (Some(3), Some([0.01, 0.02]));
        });
        for other in [&turned, &blurred] {
            let apart = |(a, b): (&f32, &f32)| (a - b).abs();
            let most = plain.iter().zip(other).map(apart).fold(0.0, f32::max);
            assert!(most < 1e-4, "{most}");
        }
        let strong = with(&|settings| settings.hue = 0.5);
        assert_ne!(plain, strong);
    }

    #[test]
    fn a_static_caption_is_the_same_in_every_epoch() {
        let settings = config::Augment {
            text: Some(true),
            text_form: TextForm::Eda,
            text_static: true,
            ..Default::default()
        };
        let augment = Augment::open(&settings, 1).expect("no file to read");
        let words = "a big dog runs on the green grass";
        let first: Vec<_> = (0..20).map(|row| augment.caption(words, 1, row)).collect();
        let later: Vec<_> = (0..20).map(|row| augment.caption(words, 9, row)).collect();
        assert_eq!(first, later);
        assert!(first.iter().any(|caption| caption != words));
    }
}

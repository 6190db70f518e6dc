//! How a pair is varied before each use: seeded by (seed, epoch, row), so that the order in which
//! threads work changes nothing.

mod eda;
mod image;
mod text;
mod thesaurus;

use clip::image::Variation;
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

    /// Whether the images that are trained on in this epoch are varied.
    pub fn varies_images_in(&self, epoch: u32) -> bool {
        self.varies_images() && self.is_within(epoch, self.settings.epochs)
    }

    /// Whether the captions are.
    pub fn varies_captions_in(&self, epoch: u32) -> bool {
        let config::Augment { text, epochs, text_epochs, .. } = self.settings;
        text == Some(true) && self.is_within(epoch, text_epochs.or(epochs))
    }

    /// Whether an epoch is one of so many, of all unless said, from the first with augmentation on.
    fn is_within(&self, epoch: u32, epochs: Option<u32>) -> bool {
        let first = self.settings.from_epoch.unwrap_or(1);
        epoch >= first && epochs.is_none_or(|epochs| epoch - first < epochs)
    }

    /// Whether images are varied, in the epochs in which they are.
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

    /// How a picture is varied: crop, flip, then color, gray and blur. Without a variation, an epoch
    /// and which of its views, or without augmentation, it stays as it is.
    pub fn image(
        &self,
        (width, height): (u32, u32),
        row: u32,
        variation: Option<(u32, View)>,
    ) -> Option<Variation> {
        let (epoch, view) = variation.filter(|_| self.varies_images())?;
        let rng = &mut self.rng(epoch, row, view as u64);
        let late = |part| self.late_rng(epoch, row, view, part);
        let config::Augment { crop_area_min, flip_share, hue, blur_share, .. } = self.settings;
        let rectangle = image::rectangle(width, height, crop_area_min, rng);
        let flip = rng.random_bool(flip_share);
        let turn = (hue > 0.0).then(|| image::Turn::draw(hue, &mut late(Part::Hue)));
        let changes = image::changes(&self.settings, turn, rng);
        let blur = blur_share.and_then(|share| {
            let rng = &mut late(Part::Blur);
            rng.random_bool(share).then(|| image::blur(&self.settings, rng))
        });
        Some(Variation { rectangle, flip, changes, blur })
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
    use clip::image::{Change, Rectangle};

    use super::*;

    fn augment(image: bool, text: bool) -> Augment {
        let (image, text) = (Some(image), Some(text));
        let settings = config::Augment { image, text, ..Default::default() };
        Augment::open(&settings, 1).expect("no file to read")
    }

    #[test]
    fn some_epochs_are_varied() {
        let varied = |from_epoch, epochs, text_epochs, [image, text]: [bool; 2]| {
            let (image, text) = (Some(image), Some(text));
            let settings = config::Augment {
                image,
                text,
                from_epoch,
                epochs,
                text_epochs,
                ..Default::default()
            };
            let augment = Augment::open(&settings, 1).expect("no file to read");
            let images = (1..=6).filter(|&epoch| augment.varies_images_in(epoch));
            let captions = (1..=6).filter(|&epoch| augment.varies_captions_in(epoch));
            [images.collect::<Vec<u32>>(), captions.collect()]
        };
        let check = |from, epochs, expected: &[u32]| {
            assert_eq!(varied(from, epochs, None, [true; 2]), [expected, expected]);
        };
        check(None, None, &[1, 2, 3, 4, 5, 6]);
        check(None, Some(2), &[1, 2]);
        check(Some(3), Some(2), &[3, 4]);
        check(Some(5), None, &[5, 6]);
        let apart = |switches| varied(Some(2), Some(1), Some(3), switches);
        assert_eq!(apart([true, true]), [vec![2], vec![2, 3, 4]]);
        assert_eq!(apart([false, true]), [vec![], vec![2, 3, 4]]);
        assert_eq!(apart([true, false]), [vec![2], vec![]]);
    }

    #[test]
    fn the_same_row_and_epoch_give_the_same_and_others_not() {
        let augment = augment(true, true);
        let image = |epoch, row, view| augment.image((8, 8), row, Some((epoch, view)));
        let train = |epoch, row| image(epoch, row, View::Train);
        assert_eq!(train(1, 2), train(1, 2));
        assert_ne!(train(1, 2), train(2, 2));
        assert_ne!(train(1, 2), train(1, 3));
        assert_ne!(train(1, 2), image(1, 2, View::First));
        assert_ne!(image(1, 2, View::First), image(1, 2, View::Second));
        assert_eq!(augment.image((8, 8), 2, None), None);
        let words = "one two three four five six seven eight";
        assert_eq!(augment.caption(words, 1, 2), augment.caption(words, 1, 2));
        assert!((1..20).any(|epoch| augment.caption(words, epoch, 2) != words));
        let second = |epoch| augment.second_caption(words, epoch, 2);
        assert_eq!(second(1), second(1));
        assert!((1..20).any(|epoch| second(epoch) != augment.caption(words, epoch, 2)));
    }

    #[test]
    fn a_share_of_the_pictures_is_flipped() {
        for (flip_share, expected) in [(0.0, 0..=0), (0.5, 30..=70), (1.0, 100..=100)] {
            let settings = config::Augment { image: Some(true), flip_share, ..Default::default() };
            let augment = Augment::open(&settings, 1).expect("no file to read");
            let drawn =
                (0..100).filter_map(|row| augment.image((8, 8), row, Some((1, View::Train))));
            let flipped = drawn.filter(|drawn| drawn.flip).count();
            assert!(expected.contains(&flipped), "{flipped} of 100 for {flip_share}");
        }
    }

    /// What a seed draws is what it has always drawn: a run goes on where an older program began it.
    #[test]
    fn a_seed_draws_what_it_drew() {
        let settings = config::Augment {
            image: Some(true),
            hue: 0.1,
            gray_share: 0.2,
            blur_share: Some(1.0),
            blur_kernel: Some(5),
            blur_sigma: Some([0.5, 1.5]),
            ..Default::default()
        };
        let augment = Augment::open(&settings, 1).expect("no file to read");
        let drawn = augment.image((8, 8), 2, Some((3, View::Train))).expect("varied");
        let Variation { rectangle: Rectangle { left, top, wide, high }, flip, changes, blur } =
            &drawn;
        let blur = blur.expect("blurred");
        let expected = [0.0288451784, 0.3446097848, 5.4862002071, 7.2202141853, 1.0656679704];
        for (found, expected) in [*left, *top, *wide, *high, blur.sigma].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{drawn:?}"); // `exp` differs between machines
        }
        let expected = [
            Change::Saturation(1.1093837),
            Change::Hue(0.094653495),
            Change::Contrast(0.7523261),
            Change::Brightness(1.0936836),
        ];
        assert_eq!((*flip, &changes[..]), (false, &expected[..]));
    }

    #[test]
    fn switched_off_nothing_changes() {
        let augment = augment(false, false);
        assert_eq!(augment.caption("a b", 1, 1), "a b");
        assert_eq!(augment.image((8, 8), 1, Some((1, View::Train))), None);
    }

    /// What is drawn for hue and blur comes from elsewhere.
    #[test]
    fn hue_and_blur_shift_no_other_draw() {
        let with = |change: &dyn Fn(&mut config::Augment)| {
            let mut settings =
                config::Augment { image: Some(true), color_share: 1.0, ..Default::default() };
            change(&mut settings);
            let augment = Augment::open(&settings, 1).expect("no file to read");
            augment.image((8, 8), 2, Some((1, View::Train))).expect("varied")
        };
        let plain = with(&|_| {});
        let mut turned = with(&|settings| settings.hue = 0.5);
        turned.changes.retain(|change| !matches!(change, Change::Hue(_)));
        assert_eq!(turned, plain);
        let blurred = with(&|settings| {
            settings.blur_share = Some(1.0);
            (settings.blur_kernel, settings.blur_sigma) = (Some(3), Some([0.01, 0.02]));
        });
        assert_eq!(blurred.blur.map(|blur| blur.kernel), Some(3));
        assert_eq!(Variation { blur: None, ..blurred }, plain);
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

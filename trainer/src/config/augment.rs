//! `[augment]`: how a pair is varied before each use.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Problems;

/// `[augment]`. In the file a `preset` may stand for values that are not given; it is resolved
/// into them, so that it is no field of this.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(from = "Given")]
pub struct Augment {
    /// Crop, flip, color and blur of images; unless given, off for `clip` and on for the others, as
    /// their authors train
    pub image: Option<bool>,
    /// First epoch in which pairs are varied, counted from 1; unless given, 1, and for `sieve` the
    /// first after the believer's
    #[serde(skip_serializing_if = "is_default")]
    pub from_epoch: Option<u32>,
    /// Epochs in which they are, from there on: images, and captions unless `text_epochs` is given.
    /// Unless given, all, and for `sieve` those of the scout or, without one, half of the model's
    pub epochs: Option<u32>,
    /// Epochs in which captions are, from there on, if not in those
    #[serde(skip_serializing_if = "is_default")]
    pub text_epochs: Option<u32>,
    /// Smallest area of a crop, as a share of the image, above 0 and at most 1
    pub crop_area_min: f64,
    /// Share of images whose left and right are exchanged
    #[serde(skip_serializing_if = "is_half")]
    pub flip_share: f64,
    /// Greatest change of brightness, contrast and saturation, 0 to 1
    pub color: f64,
    /// Share of images whose color is changed
    pub color_share: f64,
    /// Greatest turn of the hue of these images, as a share of the circle, 0 to 0.5
    #[serde(skip_serializing_if = "is_default")]
    pub hue: f64,
    /// Share of images turned gray
    pub gray_share: f64,
    /// Share of images that are blurred; unless given, none, and for `sieve` all
    #[serde(skip_serializing_if = "is_default")]
    pub blur_share: Option<f64>,
    /// Side of the blur's kernel in pixels, odd, at least 3; unless given, 21/224 of the image's,
    /// and for `sieve` 35/224, whatever the deviations
    #[serde(skip_serializing_if = "is_default")]
    pub blur_kernel: Option<usize>,
    /// Least and greatest standard deviation of the blur in pixels; unless given, 0.1/224 and 2/224
    /// of the image's side, and for `sieve` 7/224 and 10.5/224
    #[serde(skip_serializing_if = "is_default")]
    pub blur_sigma: Option<[f64; 2]>,
    /// Synonyms, deletions and swaps in captions; unless given, as for `image`
    pub text: Option<bool>,
    /// `words`: each word has its chances, as below; `eda`: one operation of four per caption
    #[serde(skip_serializing_if = "is_default")]
    pub text_form: TextForm,
    /// Whether a caption is varied in the same way in every epoch
    #[serde(skip_serializing_if = "is_default")]
    pub text_static: bool,
    /// Chance of each word to be deleted
    pub delete_share: f64,
    /// Chance of a caption to have two words exchanged, which may be one and the same
    pub swap_share: f64,
    /// Chance of each word with synonyms to be replaced by one
    pub synonym_share: f64,
    /// File with one group of synonyms per line, separated by commas; case does not matter. Unless
    /// given, none, and for `eda` WordNet's
    pub thesaurus: Option<PathBuf>,
}

/// How captions are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextForm {
    /// Each word may be deleted or replaced, each caption may have two words exchanged
    #[default]
    Words,
    /// EDA (Wei & Zou 2019) with one operation per caption
    Eda,
}

/// What the values that are not given are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preset {
    /// For small images
    #[default]
    Mild,
    /// As RoCLIP and SafeCLIP were published
    Published,
}

impl Preset {
    fn values(self) -> Augment {
        let mild = Augment {
            image: None,
            from_epoch: None,
            epochs: None,
            text_epochs: None,
            crop_area_min: 0.6,
            flip_share: 0.5,
            color: 0.25,
            color_share: 0.8,
            hue: 0.0,
            gray_share: 0.0,
            blur_share: None,
            blur_kernel: None,
            blur_sigma: None,
            text: None,
            text_form: TextForm::Words,
            text_static: false,
            delete_share: 0.1,
            swap_share: 0.5,
            synonym_share: 0.3,
            thesaurus: None,
        };
        match self {
            Self::Mild => mild,
            Self::Published => Augment {
                crop_area_min: 0.08,
                color: 0.5,
                hue: 0.1,
                gray_share: 0.2,
                blur_share: Some(1.0),
                text_form: TextForm::Eda,
                text_static: true,
                ..mild
            },
        }
    }
}

/// `[augment]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    preset: Preset,
    image: Option<bool>,
    from_epoch: Option<u32>,
    epochs: Option<u32>,
    text_epochs: Option<u32>,
    crop_area_min: Option<f64>,
    flip_share: Option<f64>,
    color: Option<f64>,
    color_share: Option<f64>,
    hue: Option<f64>,
    gray_share: Option<f64>,
    blur_share: Option<f64>,
    blur_kernel: Option<usize>,
    blur_sigma: Option<[f64; 2]>,
    text: Option<bool>,
    text_form: Option<TextForm>,
    text_static: Option<bool>,
    delete_share: Option<f64>,
    swap_share: Option<f64>,
    synonym_share: Option<f64>,
    thesaurus: Option<PathBuf>,
}

impl From<Given> for Augment {
    fn from(given: Given) -> Self {
        let preset = given.preset.values();
        Self {
            image: given.image,
            from_epoch: given.from_epoch,
            epochs: given.epochs,
            text_epochs: given.text_epochs,
            crop_area_min: given.crop_area_min.unwrap_or(preset.crop_area_min),
            flip_share: given.flip_share.unwrap_or(preset.flip_share),
            color: given.color.unwrap_or(preset.color),
            color_share: given.color_share.unwrap_or(preset.color_share),
            hue: given.hue.unwrap_or(preset.hue),
            gray_share: given.gray_share.unwrap_or(preset.gray_share),
            blur_share: given.blur_share.or(preset.blur_share),
            blur_kernel: given.blur_kernel,
            blur_sigma: given.blur_sigma,
            text: given.text,
            text_form: given.text_form.unwrap_or(preset.text_form),
            text_static: given.text_static.unwrap_or(preset.text_static),
            delete_share: given.delete_share.unwrap_or(preset.delete_share),
            swap_share: given.swap_share.unwrap_or(preset.swap_share),
            synonym_share: given.synonym_share.unwrap_or(preset.synonym_share),
            thesaurus: given.thesaurus,
        }
    }
}

impl Default for Augment {
    fn default() -> Self {
        Preset::default().values()
    }
}

/// Left out of files: a run that uses none of the later keys is described as it was without them.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The same for a share that was always this.
fn is_half(share: &f64) -> bool {
    *share == 0.5
}

impl Augment {
    /// As it was published but for what `given`, out of which this was read, has; if that has a
    /// preset, or all that a resolved file has, nothing is filled in.
    pub(super) fn published_but(self, given: Option<&toml::Table>) -> Self {
        const WRITTEN: [&str; 7] = [
            "crop_area_min",
            "color",
            "color_share",
            "gray_share",
            "delete_share",
            "swap_share",
            "synonym_share",
        ];
        let mut given = given.cloned().unwrap_or_default();
        if given.contains_key("preset") || WRITTEN.iter().all(|key| given.contains_key(*key)) {
            return self;
        }
        given.insert("preset".into(), "published".into());
        given.try_into().unwrap_or(self) // of the same keys, which were read before
    }
}

/// A blur at the size of [`BLUR_SIDE`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Blur {
    kernel: usize,
    sigma: [f64; 2],
}

/// The side of the images that blurs are given for.
const BLUR_SIDE: usize = 224;

impl Blur {
    /// As RoCLIP and SafeCLIP were published.
    pub(super) const PUBLISHED: Self = Self { kernel: 21, sigma: [0.1, 2.0] };
    /// Hides what is smaller than a twentieth of the side.
    pub(super) const COARSE: Self = Self { kernel: 35, sigma: [7.0, 10.5] };
}

impl Augment {
    /// Fills in the blur of images of `side` pixels, where there is one: kernel and deviations of
    /// `blur`, as shares of the side.
    pub(super) fn resolve_blur(&mut self, side: usize, blur: Blur) {
        if self.blur_share.is_some_and(|share| share > 0.0) {
            let kernel = 2 * (blur.kernel * side / (2 * BLUR_SIDE)) + 1; // the nearest odd number
            self.blur_kernel.get_or_insert(kernel.max(3));
            let scale = side as f64 / BLUR_SIDE as f64;
            self.blur_sigma.get_or_insert(blur.sigma.map(|sigma| sigma * scale));
        }
    }

    /// Adds everything that is wrong; `side` is the images', if it is known.
    pub(super) fn check(&self, side: Option<usize>, problems: &mut Problems) {
        let share = |value: f64| (0.0..=1.0).contains(&value); // false for NaN
        let area = self.crop_area_min > 0.0 && self.crop_area_min <= 1.0;
        problems.require(area, "augment.crop_area_min", "above 0, at most 1");
        for (value, key) in [
            (self.flip_share, "augment.flip_share"),
            (self.color, "augment.color"),
            (self.color_share, "augment.color_share"),
            (self.gray_share, "augment.gray_share"),
            (self.blur_share.unwrap_or_default(), "augment.blur_share"),
            (self.delete_share, "augment.delete_share"),
            (self.swap_share, "augment.swap_share"),
            (self.synonym_share, "augment.synonym_share"),
        ] {
            problems.require(share(value), key, "between 0 and 1");
        }
        problems.require(self.from_epoch != Some(0), "augment.from_epoch", "at least 1");
        problems.require((0.0..=0.5).contains(&self.hue), "augment.hue", "between 0 and 0.5");
        let kernel = self.blur_kernel.is_none_or(|kernel| {
            kernel >= 3 && kernel % 2 == 1 && side.is_none_or(|side| kernel / 2 < side)
        });
        let limits = "odd, at least 3, less than twice the image's side";
        problems.require(kernel, "augment.blur_kernel", limits);
        let sigma = self.blur_sigma.is_none_or(|[least, greatest]| {
            least > 0.0 && least <= greatest && greatest.is_finite() // false for NaN
        });
        problems.require(sigma, "augment.blur_sigma", "two numbers above 0, the lesser first");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn augment(text: &str) -> Augment {
        toml::from_str(text).expect("well-formed")
    }

    #[test]
    fn a_preset_stands_for_what_is_not_given() {
        assert_eq!(augment(""), Augment::default());
        assert_eq!(augment("preset = 'mild'"), Augment::default());
        let published =
            augment("preset = 'published'\nhue = 0.0\ncolor_share = 0.5\ntext_epochs = 3");
        let expected = Augment {
            crop_area_min: 0.08,
            color: 0.5,
            color_share: 0.5,
            gray_share: 0.2,
            blur_share: Some(1.0),
            text_epochs: Some(3),
            text_form: TextForm::Eda,
            text_static: true,
            ..Augment::default()
        };
        assert_eq!(published, expected);
        let resolved = toml::to_string(&published).expect("TOML can hold it");
        assert_eq!(augment(&resolved), published, "{resolved}");
    }

    #[test]
    fn a_run_without_the_later_keys_is_described_as_before() {
        let text = toml::to_string(&Augment::default()).expect("TOML can hold it");
        for key in ["flip", "hue", "blur", "text_epochs", "text_form", "text_static", "preset"] {
            assert!(!text.contains(key), "{text}");
        }
    }

    #[test]
    fn the_published_blur_is_scaled_to_the_image() {
        let check = |side: usize, kernel: usize, greatest: f64| {
            let mut augment = augment("preset = 'published'");
            augment.resolve_blur(side, Blur::PUBLISHED);
            assert_eq!(augment.blur_kernel, Some(kernel), "{side}");
            let [_, sigma] = augment.blur_sigma.expect("resolved");
            assert!((sigma - greatest).abs() < 0.005, "{sigma}");
        };
        check(224, 21, 2.0);
        check(72, 7, 0.64);
        check(64, 7, 0.57);
        check(32, 3, 0.29);
        check(8, 3, 0.07);
        let mut without = Augment::default();
        without.resolve_blur(224, Blur::PUBLISHED);
        assert_eq!(without, Augment::default());
    }

    #[test]
    fn a_blur_has_limits() {
        let check = |line: &str, complaint: Option<&str>| {
            let mut problems = Problems::default();
            augment(line).check(Some(8), &mut problems);
            let lines = problems.into_lines();
            assert_eq!(lines.len(), usize::from(complaint.is_some()), "{lines:?}");
            let key = complaint.unwrap_or_default();
            assert!(lines.iter().all(|line| line.starts_with(&format!("`augment.{key}`"))));
        };
        check("blur_kernel = 15", None);
        check("blur_kernel = 17", Some("blur_kernel"));
        check("blur_kernel = 4", Some("blur_kernel"));
        check("blur_kernel = 1", Some("blur_kernel"));
        check("blur_sigma = [0.1, 0.1]", None);
        check("blur_sigma = [0.2, 0.1]", Some("blur_sigma"));
        check("blur_sigma = [0.0, 0.1]", Some("blur_sigma"));
        check("blur_sigma = [nan, 0.1]", Some("blur_sigma"));
        check("hue = 0.5", None);
        check("hue = 0.6", Some("hue"));
    }
}

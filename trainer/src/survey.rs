//! All pairs of a data set, embedded by the towers as they are: what a method looks at before an
//! epoch to say which pairs it trusts.

use candle_core::Tensor;
use clip::{
    Encoder, UnitRows,
    image::RgbImage,
    model::{Clip, Features, Mode},
    ops::PairRows,
};
use rayon::prelude::*;

use crate::{
    augment::View,
    data::{Loader, Shown, order},
    error::{Error, Result},
    not_finite::NotFinite,
};

/// A quarter of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarter {
    /// Whether it is on the right
    right: bool,
    /// Whether it is at the bottom
    bottom: bool,
}

impl Quarter {
    /// All four, row by row.
    pub const ALL: [Self; 4] = [
        Self { right: false, bottom: false },
        Self { right: true, bottom: false },
        Self { right: false, bottom: true },
        Self { right: true, bottom: true },
    ];

    /// Paints over this quarter of a picture; the left and the upper half have the middle of an odd
    /// side.
    fn hide(self, picture: &mut RgbImage, color: [u8; 3]) {
        let (width, height) = picture.dimensions();
        let is_in = |at: u32, side: u32, second: bool| (2 * at >= side) == second;
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            if is_in(x, width, self.right) && is_in(y, height, self.bottom) {
                pixel.0 = color;
            }
        }
    }
}

/// How pictures are looked at: as they are, unless it is said.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    /// The epoch and the view of it
    variation: Option<(u32, View)>,
    /// Painted over before that
    hidden: Option<Quarter>,
}

/// Embeddings of pairs.
#[derive(Debug)]
pub struct Embedded {
    /// Images, `[N, D]`
    pub image: UnitRows,
    /// Captions, `[N, D]`
    pub text: UnitRows,
    /// Number of each caption: equal texts have equal numbers
    pub captions: Vec<u32>,
}

impl Embedded {
    /// Appends the pairs of `other`.
    pub fn extend(&mut self, other: Self) {
        self.image.extend(&other.image);
        self.text.extend(&other.text);
        self.captions.extend(other.captions);
    }

    /// As they are compared.
    pub fn pairs(&self) -> PairRows<'_> {
        PairRows { image: &self.image, text: &self.text, captions: &self.captions }
    }
}

/// Embeds pairs without training on them. Of several ranks each embeds all.
#[derive(Debug)]
pub struct Survey<'a> {
    loader: &'a Loader,
    model: &'a mut Clip,
    epoch: u32,
    micro_batch: Option<usize>,
}

impl<'a> Survey<'a> {
    /// Before `epoch`, counted from 1; in steps at most `micro_batch` pairs go through the towers
    /// at once.
    pub fn new(
        loader: &'a Loader,
        model: &'a mut Clip,
        epoch: u32,
        micro_batch: Option<usize>,
    ) -> Self {
        Self { loader, model, epoch, micro_batch }
    }

    /// Data-set rows that can be surveyed.
    pub fn rows(&self) -> &'a [u32] {
        self.loader.store.rows()
    }

    /// Number of the picture of each of these rows: equal pixels have equal numbers.
    pub fn picture_numbers(&self) -> Vec<u32> {
        self.rows().iter().map(|&row| self.loader.store.picture_number(row)).collect()
    }

    /// Width of embeddings (D).
    pub fn dim(&self) -> usize {
        self.loader.clip.dim
    }

    /// The learned *logarithm* of the factor on cosines.
    pub fn logit_scale(&self) -> f32 {
        Encoder::logit_scale(self.model)
    }

    /// `rows` in batches whose sizes differ by one at most, none larger than what a rank embeds at
    /// once in training, shuffled as there.
    pub fn batches(&self, rows: &[u32]) -> Vec<Vec<u32>> {
        let Loader { seed, batch_size, ranks, .. } = *self.loader;
        let size = (batch_size / ranks).min(self.micro_batch.unwrap_or(usize::MAX));
        even_parts(&order(rows, rows.len(), rows.len(), seed, self.epoch), size)
    }

    /// Whether two views of an image differ.
    pub fn varies(&self) -> bool {
        self.loader.augment.varies_images()
    }

    /// Images of a batch, `[B, D]`: varied as in training where the run is augmented, each view in
    /// its own way. [`Error::NotFinite`] if the towers have diverged. Batch normalisation takes the
    /// statistics of the batch.
    pub fn images(&self, rows: &[u32], view: View) -> Result<UnitRows> {
        self.embed(rows, Look { variation: Some((self.epoch, view)), hidden: None })
    }

    /// The first view of each image of a batch, of which a quarter was hidden before it was varied:
    /// under the mean color, which normalization makes 0. As [`Survey::images`] otherwise.
    pub fn images_without(&self, rows: &[u32], hidden: Quarter) -> Result<UnitRows> {
        let variation = Some((self.epoch, View::First));
        self.embed(rows, Look { variation, hidden: Some(hidden) })
    }

    /// What the image tower sees in the pictures of a batch as they are, on its way and at its end.
    /// Errors and statistics as those of [`Survey::images`].
    pub fn features(&self, rows: &[u32]) -> Result<Features> {
        let features =
            self.model.image_features(&self.pixels(rows, Look::default())?, Mode::Survey)?;
        check_finite(&features.middle)?;
        check_finite(&features.embedding)?;
        Ok(features)
    }

    fn embed(&self, rows: &[u32], look: Look) -> Result<UnitRows> {
        let pixels = self.pixels(rows, look)?;
        let embedded = self.model.image_rows(&pixels, Mode::Survey)?.flatten_all()?.to_vec1()?;
        check_finite(&embedded)?;
        Ok(UnitRows::normalize(embedded, self.loader.clip.dim))
    }

    /// `[B, 3, H, W]`, normalised.
    fn pixels(&self, rows: &[u32], look: Look) -> Result<Tensor> {
        let loader = self.loader;
        let mean = loader.clip.mean.map(|mean| (255.0 * mean).round() as u8);
        let shown = |&row: &u32| -> Result<Shown<'_>> {
            let (mut picture, variation) = loader.picture(row, look.variation)?;
            if let Some(quarter) = look.hidden {
                quarter.hide(picture.to_mut(), mean);
            }
            Ok((picture, variation))
        };
        if loader.gpu.is_some() {
            let pictures = rows.par_iter().map(shown).collect::<Result<_>>()?;
            return Ok(self.model.pixels(&loader.pictures(pictures))?);
        }
        let side = loader.clip.image.image_size();
        let mut pixels = vec![0.0; rows.len() * 3 * side * side];
        let pictures = pixels.par_chunks_exact_mut(3 * side * side).zip(rows);
        pictures.try_for_each(|(pixels, row)| -> Result<()> {
            loader.pixels(&shown(row)?, pixels);
            Ok(())
        })?;
        Ok(Tensor::from_vec(pixels, (rows.len(), 3, side, side), self.model.device())?)
    }

    /// Pairs of a batch: the first view of each image, and its caption.
    pub fn pairs(&mut self, rows: &[u32]) -> Result<Embedded> {
        let image = self.images(rows, View::First)?;
        self.with_captions(image, rows)
    }

    /// Pairs of a batch, their pictures as they are.
    pub fn plain_pairs(&mut self, rows: &[u32]) -> Result<Embedded> {
        let image = self.embed(rows, Look::default())?;
        self.with_captions(image, rows)
    }

    /// These images of a batch, with its captions.
    pub fn with_captions(&mut self, image: UnitRows, rows: &[u32]) -> Result<Embedded> {
        let (text, store) = (self.texts(rows)?, &self.loader.store);
        let captions = rows.iter().map(|&row| store.caption_number(row)).collect();
        Ok(Embedded { image, text, captions })
    }

    /// Captions of these rows as they are written, `[N, D]`, embedded in batches.
    pub fn captions(&mut self, rows: &[u32]) -> Result<UnitRows> {
        let Loader { batch_size, ranks, .. } = *self.loader;
        let mut all = UnitRows::normalize(Vec::new(), self.dim());
        for batch in rows.chunks(batch_size / ranks) {
            all.extend(&self.texts(batch)?);
        }
        Ok(all)
    }

    /// Captions of a batch as they are written, `[B, D]`.
    fn texts(&mut self, rows: &[u32]) -> Result<UnitRows> {
        let texts: Vec<&str> = rows.iter().map(|&row| self.loader.store.caption(row)).collect();
        let tokens = self.loader.tokenizer.encode(&texts)?;
        Ok(self.model.embed_texts(&tokens)?)
    }
}

/// [`Error::NotFinite`] unless all values are finite.
fn check_finite(values: &[f32]) -> Result<()> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::NotFinite(NotFinite::Embedding)),
    }
}

/// `rows` in as few parts of at most `size` as there can be, their sizes nearly equal.
fn even_parts(rows: &[u32], size: usize) -> Vec<Vec<u32>> {
    let (all, parts) = (rows.len(), rows.len().div_ceil(size.max(1)));
    (0..parts).map(|at| rows[at * all / parts..(at + 1) * all / parts].to_vec()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use candle_core::Device;
    use clip::ClipConfig;

    use super::*;
    use crate::data::of_pairs;

    /// Of four pairs whose pictures are written into `folder`, all with the same quarter painted
    /// over, if one is given.
    pub(crate) fn loader(folder: &Path, painted: Option<Quarter>, varied: bool) -> Result<Loader> {
        let pairs = [0, 1, 2, 3].map(|row| (row, format!("picture number {row}")));
        let mean = ClipConfig::preset("vit-micro").expect("a preset").mean;
        of_pairs(folder, &pairs, varied, |picture| {
            if let Some(quarter) = painted {
                quarter.hide(picture, mean.map(|mean| (255.0 * mean).round() as u8));
            }
        })
    }

    #[test]
    fn a_hidden_quarter_is_painted_over_before_the_picture_is_varied() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for varied in [false, true] {
            let seen = |painted, hidden| -> Result<Vec<f32>> {
                let loader = loader(folder.path(), painted, varied)?;
                let mut model = Clip::init(&loader.clip, 3, &Device::Cpu)?;
                let survey = Survey::new(&loader, &mut model, 5, None);
                let rows = match hidden {
                    Some(quarter) => survey.images_without(&[2, 0, 3], quarter)?,
                    None => survey.images(&[2, 0, 3], View::First)?,
                };
                Ok(rows.values().to_vec())
            };
            let whole = seen(None, None)?;
            for quarter in Quarter::ALL {
                let without = seen(None, Some(quarter))?;
                assert!(without == seen(Some(quarter), None)?, "{quarter:?}, {varied}");
                assert!(without != whole, "{quarter:?}, {varied}");
            }
        }
        Ok(())
    }

    #[test]
    fn each_pixel_is_in_one_quarter() {
        for (width, height) in [(4, 4), (5, 3), (1, 1)] {
            let mut hidden = vec![0; (width * height) as usize];
            for (at, quarter) in Quarter::ALL.into_iter().enumerate() {
                let mut picture = RgbImage::new(width, height);
                quarter.hide(&mut picture, [7, 8, 9]);
                for ((x, y, pixel), hidden) in picture.enumerate_pixels().zip(&mut hidden) {
                    let inside = (2 * x >= width, 2 * y >= height) == (at % 2 == 1, at / 2 == 1);
                    let color = if inside { [7, 8, 9] } else { [0; 3] };
                    assert_eq!(pixel.0, color, "{quarter:?} of {width} x {height} at {x}, {y}");
                    *hidden += u32::from(inside);
                }
            }
            assert!(hidden.iter().all(|&times| times == 1), "{width} x {height}: {hidden:?}");
        }
    }

    #[test]
    fn no_batch_is_much_smaller_than_the_others() {
        for all in 0..300u32 {
            let rows: Vec<u32> = (0..all).collect();
            let parts = even_parts(&rows, 64);
            assert_eq!(parts.concat(), rows);
            let sizes = || parts.iter().map(Vec::len);
            assert!(sizes().all(|size| (1..=64).contains(&size)), "{all}");
            assert!(sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0) <= 1, "{all}");
        }
    }
}

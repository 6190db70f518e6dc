//! All pairs of a data set, embedded by the towers as they are: what a method looks at before an
//! epoch to say which pairs it trusts.

use candle_core::Tensor;
use clip::{
    Encoder, UnitRows,
    model::{Clip, Features, Mode},
    ops::PairRows,
};
use rayon::prelude::*;

use crate::{
    augment::View,
    data::{Loader, order},
    error::{Error, Result},
    not_finite::NotFinite,
};

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
        self.embed(rows, Some((self.epoch, view)))
    }

    /// What the image tower sees in the pictures of a batch as they are, on its way and at its end.
    /// Errors and statistics as those of [`Survey::images`].
    pub fn features(&self, rows: &[u32]) -> Result<Features> {
        let features = self.model.image_features(&self.pixels(rows, None)?, Mode::Survey)?;
        check_finite(&features.middle)?;
        check_finite(&features.embedding)?;
        Ok(features)
    }

    fn embed(&self, rows: &[u32], variation: Option<(u32, View)>) -> Result<UnitRows> {
        let pixels = self.pixels(rows, variation)?;
        let embedded = self.model.image_rows(&pixels, Mode::Survey)?.flatten_all()?.to_vec1()?;
        check_finite(&embedded)?;
        Ok(UnitRows::normalize(embedded, self.loader.clip.dim))
    }

    /// `[B, 3, H, W]`, normalised.
    fn pixels(&self, rows: &[u32], variation: Option<(u32, View)>) -> Result<Tensor> {
        let loader = self.loader;
        if loader.gpu.is_some() {
            let shown = rows.par_iter().map(|&row| loader.picture(row, variation));
            return Ok(self.model.pixels(&loader.pictures(shown.collect::<Result<_>>()?))?);
        }
        let side = loader.clip.image.image_size();
        let mut pixels = vec![0.0; rows.len() * 3 * side * side];
        let pictures = pixels.par_chunks_exact_mut(3 * side * side).zip(rows);
        pictures.try_for_each(|(pixels, &row)| loader.pixels(row, variation, pixels))?;
        Ok(Tensor::from_vec(pixels, (rows.len(), 3, side, side), self.model.device())?)
    }

    /// Pairs of a batch: the first view of each image, and its caption.
    pub fn pairs(&mut self, rows: &[u32]) -> Result<Embedded> {
        let image = self.images(rows, View::First)?;
        self.with_captions(image, rows)
    }

    /// Pairs of a batch, their pictures as they are.
    pub fn plain_pairs(&mut self, rows: &[u32]) -> Result<Embedded> {
        let image = self.embed(rows, None)?;
        self.with_captions(image, rows)
    }

    fn with_captions(&mut self, image: UnitRows, rows: &[u32]) -> Result<Embedded> {
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
mod tests {
    use super::*;

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

//! All pairs of a data set, embedded by the towers as they are: what a method looks at before an
//! epoch to say which pairs it trusts.

use candle_core::Tensor;
use clip::{
    Encoder, UnitRows,
    model::{Clip, Mode},
    ops::PairRows,
};
use rayon::prelude::*;

use crate::{
    augment::View,
    data::{Loader, order},
    error::Result,
};

/// Pairs with their embeddings.
#[derive(Debug)]
pub struct Embedded {
    /// Data-set rows
    pub rows: Vec<u32>,
    /// Their images, `[N, D]`
    pub image: UnitRows,
    /// Their captions, `[N, D]`
    pub text: UnitRows,
    /// Number of each caption: equal texts have equal numbers
    pub captions: Vec<u32>,
}

impl Embedded {
    /// Appends the pairs of `other`.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
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
}

impl<'a> Survey<'a> {
    /// Before `epoch`, counted from 1.
    pub fn new(loader: &'a Loader, model: &'a mut Clip, epoch: u32) -> Self {
        Self { loader, model, epoch }
    }

    /// Data-set rows that can be surveyed.
    pub fn rows(&self) -> &'a [u32] {
        self.loader.store.rows()
    }

    /// The learned *logarithm* of the factor on cosines.
    pub fn logit_scale(&self) -> f32 {
        Encoder::logit_scale(self.model)
    }

    /// `rows` in batches of nearly one size, at most that of training, shuffled as there.
    pub fn batches(&self, rows: &[u32]) -> Vec<Vec<u32>> {
        let shuffled = order(rows, rows.len(), self.loader.seed, self.epoch);
        let batches = rows.len().div_ceil(self.loader.batch_size).max(1);
        shuffled.chunks(rows.len().div_ceil(batches).max(1)).map(<[u32]>::to_vec).collect()
    }

    /// Images of a batch, `[B, D]`: varied as in training where the run is augmented, each view in
    /// its own way. Batch normalisation takes the statistics of the batch.
    pub fn images(&self, rows: &[u32], view: View) -> Result<UnitRows> {
        let (loader, variation) = (self.loader, Some((self.epoch, view)));
        let side = loader.clip.image.image_size();
        let mut pixels = vec![0.0; rows.len() * 3 * side * side];
        let pictures = pixels.par_chunks_exact_mut(3 * side * side).zip(rows);
        pictures.try_for_each(|(pixels, &row)| loader.pixels(row, variation, pixels))?;
        let pixels = Tensor::from_vec(pixels, (rows.len(), 3, side, side), self.model.device())?;
        let embedded = self.model.image_rows(&pixels, Mode::Survey)?;
        Ok(UnitRows::normalize(embedded.flatten_all()?.to_vec1()?, loader.clip.dim))
    }

    /// Pairs of a batch: the first view of each image, and its caption.
    pub fn pairs(&mut self, rows: &[u32]) -> Result<Embedded> {
        let (image, text) = (self.images(rows, View::First)?, self.texts(rows)?);
        let store = &self.loader.store;
        let captions = rows.iter().map(|&row| store.caption_number(row)).collect();
        Ok(Embedded { rows: rows.to_vec(), image, text, captions })
    }

    /// Captions of a batch as they are written, `[B, D]`.
    fn texts(&mut self, rows: &[u32]) -> Result<UnitRows> {
        let texts: Vec<&str> = rows.iter().map(|&row| self.loader.store.caption(row)).collect();
        let tokens = self.loader.tokenizer.encode(&texts)?;
        Ok(self.model.embed_texts(&tokens)?)
    }
}

//! Threads that make batches ahead of the step; their number and timing change nothing.

use std::{sync::mpsc, thread};

use clip::{
    ClipConfig,
    folder::hex,
    text::{TokenBatch, Tokenizer},
};
use sha2::{Digest, Sha256};

use super::{Store, order};
use crate::{
    augment::{Augment, View},
    error::Result,
};

/// Batches that each thread may be ahead.
const AHEAD: usize = 2;

/// What one update is made from.
#[derive(Debug)]
pub struct Batch {
    /// `[B / R, 3, H, W]`, normalised: the part of this one of R ranks
    pub pixels: Vec<f32>,
    /// `[B / R, T]`, cut to the longest caption
    pub tokens: TokenBatch,
    /// Data-set row of each pair of the whole batch
    pub rows: Vec<u32>,
    /// Number of each caption: equal texts have equal numbers
    pub captions: Vec<u32>,
    /// Counted from 1
    pub epoch: u32,
}

/// Everything that a batch is made from.
#[derive(Debug)]
pub struct Loader {
    /// Pictures and captions
    pub store: Store,
    /// Variations of both
    pub augment: Augment,
    /// Captions to ids
    pub tokenizer: Tokenizer,
    /// Sizes and pixel statistics
    pub clip: ClipConfig,
    /// Decides the order
    pub seed: u64,
    /// B, of all ranks together, a multiple of their number
    pub batch_size: usize,
    /// Which part of each batch is made here
    pub rank: usize,
    /// Parts of a batch
    pub ranks: usize,
    /// Threads
    pub workers: usize,
}

impl Loader {
    /// Full batches in an epoch; what is left over waits for another epoch's order.
    pub fn batches(&self) -> usize {
        self.store.epoch_rows() / self.batch_size
    }

    /// SHA-256 of what batches are made from, wherever it lies: pictures, captions, tokenizer and
    /// thesaurus. Lower-case hex; what a resumed run must find again.
    pub fn fingerprint(&self) -> Result<String> {
        let (pairs, tokenizer) = (self.store.sha256(), self.tokenizer.to_json()?);
        let mut hash = Sha256::new();
        for part in [pairs.as_slice(), &tokenizer, self.augment.thesaurus().as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(hex(&hash.finalize()))
    }

    /// Calls `step` with the batches of an epoch from number `from` on, in order, until it fails.
    /// An epoch has [`Loader::batches`], whichever rows are selected: of fewer some come again.
    pub fn each<E: From<crate::Error>>(
        &self,
        epoch: u32,
        selected: Option<&[u32]>,
        from: usize,
        mut step: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = self.store.of_epoch(selected.unwrap_or(self.store.rows()), self.seed, epoch);
        let batches = self.batches();
        let order = order(&rows, batches * self.batch_size, self.batch_size, self.seed, epoch);
        let rows = |number: usize| &order[number * self.batch_size..][..self.batch_size];
        thread::scope(|scope| {
            let threads = (0..self.workers).map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(AHEAD);
                scope.spawn(move || {
                    for number in (from + worker..batches).step_by(self.workers) {
                        if sender.send(self.batch(rows(number), epoch)).is_err() {
                            break; // the step failed and hung up
                        }
                    }
                });
                receiver
            });
            let threads: Vec<_> = threads.collect();
            for number in from..batches {
                let batch = threads[(number - from) % self.workers].recv();
                step(batch.expect("a thread sends a batch or its error for each number")?)?;
            }
            Ok(())
        })
    }

    /// Writes `[3, H, W]` normalised values: a variation of a picture, or the picture as it is.
    pub fn pixels(
        &self,
        row: u32,
        variation: Option<(u32, View)>,
        planes: &mut [f32],
    ) -> Result<()> {
        self.augment.image(&*self.store.picture(row)?, row, variation, planes);
        let (mean, std) = (self.clip.mean, self.clip.std);
        for (channel, plane) in planes.chunks_exact_mut(planes.len() / 3).enumerate() {
            plane.iter_mut().for_each(|value| *value = (*value - mean[channel]) / std[channel]);
        }
        Ok(())
    }

    fn batch(&self, rows: &[u32], epoch: u32) -> Result<Batch> {
        let count = rows.len() / self.ranks;
        let (side, augmented) = (self.clip.image.image_size(), self.augment.is_on(epoch));
        let (mut pixels, mut texts) = (vec![0.0; count * 3 * side * side], Vec::new());
        let own = &rows[self.rank * count..][..count];
        for (&row, planes) in own.iter().zip(pixels.chunks_exact_mut(3 * side * side)) {
            self.pixels(row, augmented.then_some((epoch, View::Train)), planes)?;
            let caption = self.store.caption(row);
            texts.push(match augmented {
                true => self.augment.caption(caption, epoch, row),
                false => caption.to_owned(),
            });
        }
        let tokens = self.tokenizer.encode(&texts)?.trimmed(self.clip.text.end());
        let captions = rows.iter().map(|&row| self.store.caption_number(row)).collect();
        Ok(Batch { pixels, tokens, rows: rows.to_vec(), captions, epoch })
    }
}

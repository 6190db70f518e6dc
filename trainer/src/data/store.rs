//! The pictures of a manifest at the size of the image tower.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicUsize, Ordering},
};

use clip::image::RgbImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    ImageSource, Manifest, Row, Selection,
    duplicates::{Copies, Look, clusters},
};
use crate::error::{Error, Result};

/// Decoded pictures, kept in memory as far as the cache reaches.
#[derive(Debug)]
pub struct Store {
    manifest: Manifest,
    side: u32,
    /// Picture of each row; `None` where the cache was full.
    pictures: Vec<Option<RgbImage>>,
    /// Rows that can be read.
    rows: Vec<u32>,
    skipped: Vec<Skipped>,
    /// Pictures that are nearly the same, where they were looked for.
    same_pictures: Option<Copies>,
    /// Captions of the same words, where they were looked for.
    same_captions: Option<Copies>,
    epoch_rows: usize,
    /// Number of each row's caption.
    captions: Vec<u32>,
    sha256: [u8; 32],
}

/// A row that cannot be read, and is trained without.
#[derive(Debug)]
pub struct Skipped {
    /// Counted from 0
    pub row: u32,
    /// Why
    pub problem: Error,
}

impl Store {
    /// Decodes every image once, so that unreadable ones are known before training; refuses if
    /// their share is above `bad_rows_max`. `done` is told of each row.
    pub fn open(
        manifest: Manifest,
        side: usize,
        cache_mib: usize,
        bad_rows_max: f64,
        done: impl Fn() + Sync,
    ) -> Result<Self> {
        let side = side as u32;
        let left = AtomicUsize::new((cache_mib << 20) / (3 * side as usize * side as usize));
        let open = |row: &Row| {
            let picture = row.image.fitted(side);
            done();
            picture.map(|picture| {
                let sha256 = Sha256::digest(picture.as_raw());
                let room = left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                (room.ok().map(|_| picture), sha256)
            })
        };
        let opened: Vec<_> = manifest.rows.par_iter().map(open).collect();
        let all = opened.len();
        let (mut pictures, mut rows) = (Vec::with_capacity(all), Vec::new());
        let mut skipped = Vec::new();
        let mut hash = Sha256::new();
        for (row, opened) in opened.into_iter().enumerate() {
            match opened {
                Ok((picture, sha256)) => {
                    let caption = &manifest.rows[row].caption;
                    hash.update((row as u64).to_le_bytes());
                    hash.update(sha256);
                    hash.update((caption.len() as u64).to_le_bytes());
                    hash.update(caption);
                    rows.push(row as u32);
                    pictures.push(picture);
                }
                Err(problem) => {
                    skipped.push(Skipped { row: row as u32, problem });
                    pictures.push(None);
                }
            }
        }
        let count = skipped.len();
        if count as f64 > bad_rows_max * all as f64 {
            let Skipped { row, problem } = skipped.swap_remove(0);
            let first = Box::new(place(&manifest, row, problem));
            return Err(Error::BadRows { count, all, max: bad_rows_max, first });
        }
        let captions = numbered(manifest.rows.iter().map(|row| &row.caption));
        let sha256 = hash.finalize().into();
        let epoch_rows = rows.len();
        Ok(Self {
            manifest,
            side,
            pictures,
            rows,
            skipped,
            same_pictures: None,
            same_captions: None,
            epoch_rows,
            captions,
            sha256,
        })
    }

    /// Looks for pictures that are nearly the same, of which an epoch trains on `max`.
    pub fn cap_pictures(&mut self, max: usize) -> Result<()> {
        let look = |&row: &u32| self.picture(row).map(|picture| Look::of(&picture));
        let looks = self.rows.par_iter().map(look).collect::<Result<Vec<_>>>()?;
        let mut of_rows = vec![u32::MAX; self.manifest.rows.len()];
        for (&row, cluster) in self.rows.iter().zip(clusters(&looks)) {
            of_rows[row as usize] = cluster;
        }
        self.same_pictures = Some(Copies::new(of_rows, max));
        self.count_rows();
        Ok(())
    }

    /// Looks for captions of the same words, case aside, of which an epoch trains on `max`.
    pub fn cap_captions(&mut self, max: usize) {
        let plain = self.manifest.rows.iter().map(|row| plain(&row.caption));
        let of_rows = numbered(plain);
        self.same_captions = Some(Copies::new(of_rows, max));
        self.count_rows();
    }

    fn count_rows(&mut self) {
        self.epoch_rows = self.of_epoch(&Selection::default(), 0, 0).len();
    }

    /// Pairs that an epoch trains on, if all are asked for: what decides its length. If pictures
    /// and captions are capped, the draws of later epochs may be more or fewer.
    pub fn epoch_rows(&self) -> usize {
        self.epoch_rows
    }

    /// Those of the `selected` rows that `epoch` trains on: all that are no copies too many.
    pub fn of_epoch<'a>(
        &'a self,
        selected: &'a Selection,
        seed: u64,
        epoch: u32,
    ) -> Cow<'a, [u32]> {
        let mut rows = Cow::from(selected.rows.as_deref().unwrap_or(&self.rows));
        if let Some(pictures) = &self.same_pictures {
            rows = pictures.capped(&rows, |row| row, seed, epoch).into();
        }
        if let Some(captions) = &self.same_captions {
            rows = captions.capped(&rows, |row| selected.caption_of(row), seed, epoch).into();
        }
        rows
    }

    /// Rows that can be read, in the order of the manifest.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Rows that cannot be read, in the order of the manifest.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// SHA-256 of the readable rows: their numbers, decoded pictures and captions.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Where the picture of a row lies.
    pub fn image(&self, row: u32) -> &ImageSource {
        &self.manifest.rows[row as usize].image
    }

    /// Text of a row.
    pub fn caption(&self, row: u32) -> &str {
        &self.manifest.rows[row as usize].caption
    }

    /// Number of a row's caption: equal texts have equal numbers.
    pub fn caption_number(&self, row: u32) -> u32 {
        self.captions[row as usize]
    }

    /// Picture of a row, square, at the side of the image tower.
    pub fn picture(&self, row: u32) -> Result<Cow<'_, RgbImage>> {
        if let Some(picture) = &self.pictures[row as usize] {
            return Ok(Cow::Borrowed(picture));
        }
        let picture = self.image(row).fitted(self.side);
        picture.map(Cow::Owned).map_err(|problem| place(&self.manifest, row, problem))
    }
}

/// A refusal with the row that it is about.
fn place(manifest: &Manifest, row: u32, problem: Error) -> Error {
    let (file, row) = (manifest.path.clone(), row as usize + 1);
    Error::Row { file, row, source: Box::new(problem) }
}

/// Numbers distinct texts in the order of their first appearance.
fn numbered<T: Eq + Hash>(texts: impl Iterator<Item = T>) -> Vec<u32> {
    let mut numbers: HashMap<T, u32> = HashMap::new();
    let number = |text| {
        let next = numbers.len() as u32;
        *numbers.entry(text).or_insert(next)
    };
    texts.map(number).collect()
}

/// The words of a caption in lower case: anything but letters and digits parts them. One that has
/// none stays.
fn plain(caption: &str) -> String {
    let words = caption.split(|symbol: char| !symbol.is_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    if words.is_empty() { caption.to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_of_the_same_words_are_the_same() {
        let numbers = |texts: &[&str]| numbered(texts.iter().map(|text| plain(text)));
        assert_eq!(
            numbers(&["A red hat.", "a red  hat", "a red hats", "?!", "...", "?!"]),
            [0, 0, 1, 2, 3, 2]
        );
    }
}

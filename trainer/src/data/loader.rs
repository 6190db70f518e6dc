//! Threads that make batches ahead of the step; their number and timing change nothing.

use std::{borrow::Cow, sync::mpsc, thread};

use clip::{
    ClipConfig,
    folder::hex,
    image::{Pictures, RgbImage, Variation, normalized},
    text::Tokenizer,
};
use sha2::{Digest, Sha256};

use super::{Batch, Pixels, Selection, Store, order};
use crate::{
    augment::{Augment, View},
    error::Result,
    gpu::Gpu,
};

/// Batches that each thread may be ahead.
const AHEAD: usize = 2;

/// In which views a batch brings its pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Views {
    /// Each pair once, varied where the epoch is augmented
    One,
    /// Each pair as it is, then varied
    PlainAndVaried,
    /// Each pair varied, then varied in another way
    TwoVaried,
}

impl Views {
    /// How each of them is varied, if it is.
    fn variations(self) -> &'static [Option<View>] {
        match self {
            Self::One => &[Some(View::Train)],
            Self::PlainAndVaried => &[None, Some(View::Train)],
            Self::TwoVaried => &[Some(View::Train), Some(View::Second)],
        }
    }

    /// Views of each pair (V).
    pub fn count(self) -> usize {
        self.variations().len()
    }
}

/// A picture, and how it is varied, if it is.
pub type Shown<'a> = (Cow<'a, RgbImage>, Option<Variation>);

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
    /// Where a batch is sent while the step before it is computed, and varied
    pub gpu: Option<Gpu>,
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
        selected: &Selection,
        views: Views,
        from: usize,
        mut step: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = self.store.of_epoch(selected, self.seed, epoch);
        let batches = self.batches();
        let order = order(&rows, batches * self.batch_size, self.batch_size, self.seed, epoch);
        let rows = |number: usize| &order[number * self.batch_size..][..self.batch_size];
        thread::scope(|scope| {
            let threads = (0..self.workers).map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(AHEAD);
                scope.spawn(move || {
                    for number in (from + worker..batches).step_by(self.workers) {
                        if sender.send(self.batch(rows(number), selected, views, epoch)).is_err() {
                            break; // the step failed and hung up
                        }
                    }
                });
                receiver
            });
            let threads: Vec<_> = threads.collect();
            let mut all = (from..batches).map(move |number| {
                let batch = threads[(number - from) % self.workers].recv();
                batch.expect("a thread sends a batch or its error for each number")
            });
            let Some(gpu) = &self.gpu else { return all.try_for_each(|batch| step(batch?)) };
            let (sender, receiver) = mpsc::sync_channel(0); // one is sent, one is waited for
            scope.spawn(move || {
                for batch in all {
                    if sender.send(batch.and_then(|batch| batch.sent_to(gpu))).is_err() {
                        break; // as above
                    }
                }
            });
            receiver.into_iter().try_for_each(|batch| step(batch?))
        })
    }

    /// Writes `[3, H, W]` normalised values of what [`Loader::picture`] gives.
    pub fn pixels(&self, (picture, variation): &Shown<'_>, planes: &mut [f32]) {
        normalized(picture, variation.as_ref(), [self.clip.mean, self.clip.std], planes);
    }

    /// The picture of a row, and how it is varied.
    pub fn picture(&self, row: u32, variation: Option<(u32, View)>) -> Result<Shown<'_>> {
        let picture = self.store.picture(row)?;
        let variation = self.augment.image(picture.dimensions(), row, variation);
        Ok((picture, variation))
    }

    /// Pictures that a GPU varies.
    pub fn pictures(&self, shown: Vec<Shown<'_>>) -> Pictures {
        let mut pictures = Pictures::with_capacity(&self.clip, shown.len());
        shown.into_iter().for_each(|(picture, variation)| pictures.push(&picture, variation));
        pictures
    }

    /// The caption that comes with a picture, varied as [`Loader::picture`] does it.
    fn text(&self, caption: &str, row: u32, variation: Option<(u32, View)>) -> String {
        match variation {
            None => caption.to_owned(),
            Some((epoch, View::Second)) => self.augment.second_caption(caption, epoch, row),
            Some((epoch, _)) => self.augment.caption(caption, epoch, row),
        }
    }

    fn batch(&self, rows: &[u32], selected: &Selection, views: Views, epoch: u32) -> Result<Batch> {
        let count = rows.len() / self.ranks;
        let own = &rows[self.rank * count..][..count];
        let shown = |is_varied: bool| {
            let views = views.variations().iter().map(move |view| view.filter(|_| is_varied));
            let variations = views.map(|view| view.map(|view| (epoch, view)));
            variations.flat_map(|variation| own.iter().map(move |&row| (row, variation)))
        };
        let pictures: Vec<_> = shown(self.augment.varies_images_in(epoch)).collect();
        let pixels = self.batch_pixels(&pictures)?;
        let caption = |row| self.store.caption(selected.caption_of(row));
        let texts = shown(self.augment.varies_captions_in(epoch));
        let texts = texts.map(|(row, variation)| self.text(caption(row), row, variation));
        let texts: Vec<_> = texts.collect();
        let tokens = self.tokenizer.encode(&texts)?.trimmed(self.clip.text.end());
        let captions = rows.iter().map(|&row| self.store.caption_number(selected.caption_of(row)));
        let captions = captions.collect();
        Ok(Batch { pixels, tokens, rows: rows.to_vec(), captions, epoch })
    }

    /// Of rows and how each is varied.
    fn batch_pixels(&self, shown: &[(u32, Option<(u32, View)>)]) -> Result<Pixels> {
        if self.gpu.is_some() {
            let shown = shown.iter().map(|&(row, how)| self.picture(row, how));
            return Ok(Pixels::Pictures(self.pictures(shown.collect::<Result<_>>()?)));
        }
        let picture = 3 * self.clip.image.image_size().pow(2);
        let mut values = vec![0.0; shown.len() * picture];
        let mut each = values.chunks_exact_mut(picture).zip(shown);
        each.try_for_each(|(planes, &(row, how))| -> Result<()> {
            self.pixels(&self.picture(row, how)?, planes);
            Ok(())
        })?;
        Ok(Pixels::Values(values))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, path::Path};

    use clip::{image::encode_png, text::TokenBatch};

    use super::*;
    use crate::{config, data::Manifest};

    const ROWS: [u32; 4] = [2, 0, 3, 1];

    /// Of four pairs in `folder`, in batches of four.
    fn loader(folder: &Path, (rank, ranks): (usize, usize), varied: bool) -> Result<Loader> {
        let caption = |row: u8| format!("one two three four five six seven number {row}");
        let pairs = [0, 1, 2, 3].map(|row| (row, caption(row)));
        Ok(Loader { rank, ranks, ..of_pairs(folder, &pairs, varied, |_| {})? })
    }

    /// Of pictures by number, which are `changed` before they are written, with captions.
    pub(crate) fn of_pairs(
        folder: &Path,
        pairs: &[(u8, String)],
        varied: bool,
        changed: impl Fn(&mut RgbImage),
    ) -> Result<Loader> {
        let mut table = String::from("path,caption\n");
        for (number, caption) in pairs {
            let block = |x: u32, y: u32| (u32::from(*number) * 83 + x / 4 * 31 + y / 4 * 47) % 61;
            let pixel = |x: u32, y: u32| [40 * number, (4 * block(x, y)) as u8, 3 * y as u8].into();
            let mut picture = RgbImage::from_fn(32, 32, pixel);
            changed(&mut picture);
            let file = folder.join(format!("{number}.png"));
            fs::write(file, encode_png(&picture)).expect("writable");
            table += &format!("{number}.png,{caption}\n");
        }
        let path = folder.join("train.csv");
        fs::write(&path, table).expect("writable");
        let manifest = Manifest::open(&path)?;
        let captions = manifest.rows.iter().map(|row| row.caption.as_str());
        let tokenizer = Tokenizer::train(captions, 600, 32)?;
        let mut clip = ClipConfig::preset("vit-micro").expect("a preset");
        clip.text.vocab_size = tokenizer.vocab_size();
        let store = Store::open(manifest, 32, 1, 0.0, || ())?;
        let (image, text) = (Some(varied), Some(varied));
        let augment = Augment::open(&config::Augment { image, text, ..Default::default() }, 7)?;
        let (seed, batch_size, workers, rank, ranks) = (7, 4, 1, 0, 1);
        Ok(Loader {
            store,
            augment,
            tokenizer,
            clip,
            seed,
            batch_size,
            rank,
            ranks,
            workers,
            gpu: None,
        })
    }

    fn values(batch: &Batch) -> &[f32] {
        match &batch.pixels {
            Pixels::Values(values) => values,
            other => panic!("a batch for the CPU: {other:?}"),
        }
    }

    /// Pixels and ids of each view: captions are padded to the longest of all.
    fn views(batch: &Batch, views: usize) -> Vec<(&[f32], Vec<&[u32]>)> {
        let ids: Vec<&[u32]> = batch.tokens.rows().collect();
        let pixels = values(batch);
        let pixels = pixels.chunks_exact(pixels.len() / views);
        let ids = ids.chunks_exact(ids.len() / views);
        let unpadded = |row: &&'_ [u32]| row.iter().rposition(|&id| id != 0).map_or(0, |at| at + 1);
        let cut = ids.map(|rows| rows.iter().map(|row| &row[..unpadded(row)]).collect());
        pixels.zip(cut).collect()
    }

    #[test]
    fn views_come_one_after_the_other() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let batch = |views, varied| {
            loader(folder.path(), (0, 1), varied)?.batch(&ROWS, &Selection::default(), views, 1)
        };
        let (as_it_is, varied) = (batch(Views::One, false)?, batch(Views::One, true)?);
        let (as_it_is, varied) = (&views(&as_it_is, 1)[0], &views(&varied, 1)[0]);
        assert!(as_it_is.0 != varied.0 && as_it_is.1 != varied.1);
        let both = batch(Views::PlainAndVaried, true)?;
        assert!(views(&both, 2) == [as_it_is.clone(), varied.clone()]);
        let two = batch(Views::TwoVaried, true)?;
        let two = views(&two, 2);
        assert!(two[0] == *varied && two[1].0 != varied.0 && two[1].1 != varied.1);
        assert!(two[1].0 != as_it_is.0 && two[1].1 != as_it_is.1);
        let mut loader = loader(folder.path(), (0, 1), true)?;
        let (image, text) = (Some(true), Some(true));
        let settings = config::Augment {
            image,
            text,
            epochs: Some(1),
            text_epochs: Some(2),
            ..Default::default()
        };
        loader.augment = Augment::open(&settings, 7)?;
        let batch = |epoch| loader.batch(&ROWS, &Selection::default(), Views::One, epoch);
        let (first, second, third) = (batch(1)?, batch(2)?, batch(3)?);
        assert!(views(&first, 1)[0] == *varied);
        let (second, third) = (&views(&second, 1)[0], &views(&third, 1)[0]);
        assert!(second.0 == as_it_is.0 && second.1 != as_it_is.1, "captions alone");
        assert!(third == as_it_is);
        Ok(())
    }

    #[test]
    fn an_epoch_trains_on_one_of_the_copies_of_a_picture_or_a_caption() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pairs: Vec<_> = (0..12).map(|row| (row / 3, format!("Number {}.", row % 6))).collect();
        let mut loader = of_pairs(folder.path(), &pairs, false, |_| {})?;
        loader.batch_size = 2;
        let rows = |loader: &Loader, epoch, selected: Option<&[u32]>, from| -> Result<Vec<u32>> {
            let rows = selected.map(Into::into);
            let (selected, mut rows) = (Selection { rows, ..Default::default() }, Vec::new());
            loader.each(epoch, &selected, Views::One, from, |batch| {
                rows.extend(batch.rows);
                Ok::<_, crate::Error>(())
            })?;
            Ok(rows)
        };
        assert_eq!((loader.batches(), rows(&loader, 1, None, 0)?.len()), (6, 12));
        loader.store.cap_pictures(1)?;
        assert_eq!(loader.batches(), 2);
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 1..20 {
            let all = rows(&loader, epoch, None, 0)?;
            let mut pictures: Vec<u32> = all.iter().map(|row| row / 3).collect();
            pictures.sort_unstable();
            assert_eq!(pictures, [0, 1, 2, 3], "{all:?}");
            assert_eq!(rows(&loader, epoch, None, 1)?, all[2..], "from the middle");
            seen.extend(all);
            let some = rows(&loader, epoch, Some(&[0, 1, 2, 7]), 0)?;
            assert_eq!((some.len(), some.iter().filter(|&&row| row == 7).count()), (4, 2));
        }
        assert_eq!(seen.len(), 12, "each is drawn at some time: {seen:?}");
        let mut loader = of_pairs(folder.path(), &pairs, false, |_| {})?;
        loader.store.cap_captions(1);
        assert_eq!(loader.store.epoch_rows(), 6, "rows 0 and 6, 1 and 7, ... have one caption");
        let of = |rows: &[u32], pictures: &[(u32, u32)]| {
            let selected = Selection::new(Some(rows.into()), pictures.to_vec());
            loader.store.of_epoch(&selected, 7, 1).len()
        };
        let found = [of(&[1, 2, 7], &[]), of(&[1, 2], &[(7, 0)]), of(&[1], &[(2, 6), (7, 0)])];
        assert_eq!(found, [2, 3, 2], "captions count as they are shown");
        Ok(())
    }

    #[test]
    fn a_picture_may_come_with_the_caption_of_another_pair() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let loader = loader(folder.path(), (0, 1), false)?;
        let selected = Selection { recaptioned: [(0, 3)].into(), ..Default::default() };
        let own = loader.batch(&ROWS, &Selection::default(), Views::One, 1)?;
        let other = loader.batch(&ROWS, &selected, Views::One, 1)?;
        assert_eq!(other.rows, ROWS);
        assert_eq!(values(&other), values(&own));
        assert_eq!((own.captions, other.captions), (vec![2, 0, 3, 1], vec![2, 3, 3, 1]));
        let ids = |batch: &TokenBatch| -> Vec<Vec<u32>> {
            batch.ids().chunks_exact(batch.length()).map(<[u32]>::to_vec).collect()
        };
        let (own, other) = (ids(&own.tokens), ids(&other.tokens));
        assert_eq!(other, [0, 2, 2, 3].map(|at| own[at].clone()));
        Ok(())
    }

    #[test]
    fn each_rank_has_its_part_of_every_view() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let batch = |place| {
            loader(folder.path(), place, true)?.batch(
                &ROWS,
                &Selection::default(),
                Views::TwoVaried,
                1,
            )
        };
        let whole = batch((0, 1))?;
        for rank in 0..2 {
            let part = batch((rank, 2))?;
            assert_eq!(part.rows, ROWS);
            for ((pixels, ids), (all, all_ids)) in views(&part, 2).iter().zip(views(&whole, 2)) {
                assert!(*pixels == &all[rank * all.len() / 2..][..all.len() / 2]);
                assert_eq!(ids[..], all_ids[2 * rank..][..2]);
            }
        }
        Ok(())
    }
}

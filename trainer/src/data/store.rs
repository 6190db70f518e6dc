//! The pictures of a manifest at the size of the image tower.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::Hash,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use clip::image::RgbImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    ImageSource, Listing, Row, Selection, Skipped,
    duplicates::{Copies, Look, clusters},
    manifest::Listed,
};
use crate::error::{Error, Result};

/// Rows that an error names where too many are skipped.
const NAMED_MAX: usize = 5;

/// Decoded pictures, kept in memory as far as the cache reaches.
#[derive(Debug)]
pub struct Store {
    /// Of the manifest.
    path: PathBuf,
    /// Each row of the manifest; `None` where it cannot be used, whatever its picture is.
    pairs: Vec<Option<Row>>,
    side: u32,
    /// Picture of each row; `None` where there is none, or the cache was full.
    pictures: Vec<Option<RgbImage>>,
    /// Rows that can be read.
    rows: Vec<u32>,
    skipped: Vec<Skipped>,
    /// Pictures that are nearly the same, where they were looked for.
    alike_pictures: Option<Copies>,
    /// Captions of the same words, where they were looked for.
    same_captions: Option<Copies>,
    epoch_rows: usize,
    /// Number of each row's caption.
    captions: Vec<u32>,
    /// Number of each row's picture.
    picture_numbers: Vec<u32>,
    sha256: [u8; 32],
}

impl Store {
    /// Decodes every image once, so that unreadable ones are known before training; refuses if
    /// their share, with that of the rows which are skipped already, is above `bad_rows_max`.
    /// `done` is told of each row.
    pub fn open(
        listing: impl Into<Listing>,
        side: usize,
        cache_mib: usize,
        bad_rows_max: f64,
        done: impl Fn() + Sync,
    ) -> Result<Self> {
        let listing = listing.into();
        check(listing.usable(), listing.skipped(), bad_rows_max)?; // pictures make it no better
        let Listing { path, rows: listed } = listing;
        let side = side as u32;
        let left = AtomicUsize::new((cache_mib << 20) / (3 * side as usize * side as usize));
        let kept = |picture: RgbImage| {
            let sha256 = Sha256::digest(picture.as_raw());
            let room =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            (room.ok().map(|_| picture), sha256)
        };
        let open = |(row, listed): (usize, Listed)| {
            let opened = listed.map(|pair| {
                let picture = pair.image.fitted(side).map(kept);
                let unreadable = |problem| unreadable(&path, row as u32, &pair.image, problem);
                (picture.map_err(unreadable), pair)
            });
            done();
            opened
        };
        let opened: Vec<_> = listed.into_par_iter().enumerate().map(open).collect();
        let (mut pairs, mut pictures) = (Vec::new(), Vec::with_capacity(opened.len()));
        let (mut rows, mut skipped) = (Vec::new(), Vec::new());
        let mut digests = Vec::with_capacity(opened.len());
        let mut hash = Sha256::new();
        for (row, opened) in (0..).zip(opened) {
            let (pair, picture, digest) = match opened {
                Ok((Ok((picture, sha256)), pair)) => {
                    hash.update(u64::from(row).to_le_bytes());
                    hash.update(sha256);
                    hash.update((pair.caption.len() as u64).to_le_bytes());
                    hash.update(&pair.caption);
                    rows.push(row);
                    (Some(pair), picture, Some(sha256))
                }
                Ok((Err(bad), pair)) => {
                    skipped.push(*bad);
                    (Some(pair), None, None)
                }
                Err(bad) => {
                    skipped.push(*bad);
                    (None, None, None)
                }
            };
            pairs.push(pair);
            pictures.push(picture);
            digests.push(digest);
        }
        check(rows.len(), skipped.iter(), bad_rows_max)?;
        let captions = numbered(pairs.iter().map(|pair| pair.as_ref().map(|pair| &pair.caption)));
        let picture_numbers = numbered(digests.into_iter());
        let sha256 = hash.finalize().into();
        let epoch_rows = rows.len();
        Ok(Self {
            path,
            pairs,
            side,
            pictures,
            rows,
            skipped,
            alike_pictures: None,
            same_captions: None,
            epoch_rows,
            captions,
            picture_numbers,
            sha256,
        })
    }

    /// Looks for pictures that are nearly the same, of which an epoch trains on `max`.
    pub fn cap_pictures(&mut self, max: usize) -> Result<()> {
        let look = |&row: &u32| self.picture(row).map(|picture| Look::of(&picture));
        let looks = self.rows.par_iter().map(look).collect::<Result<Vec<_>>>()?;
        let mut of_rows = vec![u32::MAX; self.pairs.len()];
        for (&row, cluster) in self.rows.iter().zip(clusters(&looks)) {
            of_rows[row as usize] = cluster;
        }
        self.alike_pictures = Some(Copies::new(of_rows, max));
        self.count_rows();
        Ok(())
    }

    /// Looks for captions of the same words, case aside, of which an epoch trains on `max`.
    pub fn cap_captions(&mut self, max: usize) {
        let plain = self.pairs.iter().map(|pair| pair.as_ref().map(|pair| plain(&pair.caption)));
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
        if let Some(pictures) = &self.alike_pictures {
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

    /// Rows that cannot be used, in the order of the manifest.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// SHA-256 of the readable rows: their numbers, decoded pictures and captions.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    fn pair(&self, row: u32) -> &Row {
        self.pairs[row as usize].as_ref().expect("nobody asks for a row that is skipped")
    }

    /// Where the picture of a row lies.
    pub fn image(&self, row: u32) -> &ImageSource {
        &self.pair(row).image
    }

    /// Text of a row.
    pub fn caption(&self, row: u32) -> &str {
        &self.pair(row).caption
    }

    /// Number of a row's caption: equal texts have equal numbers.
    pub fn caption_number(&self, row: u32) -> u32 {
        self.captions[row as usize]
    }

    /// Number of a row's picture: equal pixels, at the side of the image tower, have equal numbers.
    pub fn picture_number(&self, row: u32) -> u32 {
        self.picture_numbers[row as usize]
    }

    /// Picture of a row, square, at the side of the image tower.
    pub fn picture(&self, row: u32) -> Result<Cow<'_, RgbImage>> {
        if let Some(picture) = &self.pictures[row as usize] {
            return Ok(Cow::Borrowed(picture));
        }
        let picture = self.image(row).fitted(self.side);
        picture.map(Cow::Owned).map_err(|problem| {
            let (file, source) = (self.path.clone(), Box::new(problem));
            Error::Row { file, row, source }
        })
    }
}

/// A row of `manifest` whose picture cannot be read.
fn unreadable(manifest: &Path, row: u32, image: &ImageSource, problem: Error) -> Box<Skipped> {
    let file = match image {
        ImageSource::File(_) => manifest,
        ImageSource::Member(_) => image.container(),
    };
    Skipped { row, file: file.to_owned(), path: image.to_string(), rows: 1, problem }.into()
}

/// Refuses more bad rows than a share of all, of which `good` can be used.
fn check<'a>(
    good: usize,
    skipped: impl Iterator<Item = &'a Skipped> + Clone,
    bad_rows_max: f64,
) -> Result<()> {
    let count: usize = skipped.clone().map(|bad| bad.rows).sum();
    let all = good + count;
    if count as f64 > bad_rows_max * all as f64 {
        let first = Skipped::first(skipped, NAMED_MAX);
        return Err(Error::BadRows { count, all, max: bad_rows_max, first });
    }
    Ok(())
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
    use std::fs;

    use clip::image::encode_png;
    use tempfile::TempDir;

    use super::*;
    use crate::{data::Reading, skipped};

    /// A table in a folder with the picture `a.png`.
    fn listing(table: &str) -> Result<(TempDir, PathBuf, Listing)> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let picture = encode_png(&RgbImage::from_pixel(8, 8, [1, 2, 3].into()));
        fs::write(folder.path().join("a.png"), picture).expect("writable");
        let path = folder.path().join("train.csv");
        fs::write(&path, table).expect("writable");
        let listing = Listing::open(&path, &Reading::default())?;
        Ok((folder, path, listing))
    }

    #[test]
    fn rows_that_are_bad_in_any_way_are_skipped_as_one() -> Result<()> {
        let table = "path,caption\na.png,Red.\na.png,\nno.png,red\na.png,red\na.png,red\n";
        let (_folder, path, rows) = listing(table)?;
        let mut store = Store::open(rows, 8, 1, 0.4, || ())?;
        assert_eq!(store.rows(), [0, 3, 4]);
        let (caption, numbers) = (store.caption(3), [0, 3, 4].map(|row| store.caption_number(row)));
        assert!(caption == "red" && numbers[0] != numbers[1] && numbers[1] == numbers[2]);
        store.cap_captions(2);
        assert_eq!(store.epoch_rows(), 2, "`Red.` and one `red` or two of these");
        store.cap_pictures(3)?;
        assert_eq!(store.epoch_rows(), 2);
        let table = String::from_utf8(skipped::to_csv(&store)).expect("UTF-8");
        let (file, gone) = (path.display(), path.with_file_name("no.png"));
        let gone = gone.display();
        let picture = path.with_file_name("a.png");
        let lines: Vec<&str> = table.lines().collect();
        let empty = format!("1,{file},{},line 3: the caption is empty", picture.display());
        assert_eq!(lines[..2], ["row,file,path,problem", &empty]);
        let start = format!("2,{file},{gone},cannot read ");
        assert!(lines.len() == 3 && lines[2].starts_with(&start), "{table}");
        Ok(())
    }

    #[test]
    fn too_many_bad_rows_are_refused_and_some_are_named() -> Result<()> {
        let table = format!("path,caption\n{}no.png,red\n", "a.png,\n".repeat(6));
        let (_folder, path, rows) = listing(&table)?;
        let error = Store::open(rows, 8, 1, 0.99, || ()).expect_err("refused").to_string();
        let start =
            "7 of 7 rows are unreadable, the limit is 99.0% (`data.bad_rows_max`); the first: ";
        let named = (0..NAMED_MAX).map(|row| {
            format!("`{}`, row {row} (line {}): the caption is empty", path.display(), row + 2)
        });
        assert_eq!(error, start.to_owned() + &named.collect::<Vec<_>>().join("; "));
        let (_folder, path, rows) = listing("path,caption\na.png,red\nno.png,red\n")?;
        let error = Store::open(rows, 8, 1, 0.49, || ()).expect_err("refused").to_string();
        let expected = format!("(`data.bad_rows_max`); the first: `{}`, row 1: ", path.display());
        assert!(error.contains(&expected) && error.contains("no.png"), "{error}");
        Ok(())
    }

    #[test]
    fn a_bad_row_of_several_lines_counts_as_so_many() -> Result<()> {
        let good = "a.png,red\n".repeat(6);
        let table = format!("path,caption\na.png,\"b\na.png,b\na.png,\"c, d\"\n{good}");
        let open = |max| Store::open(listing(&table)?.2, 8, 1, max, || ());
        let error = open(0.3).expect_err("refused").to_string();
        assert!(error.starts_with("3 of 9 rows are unreadable"), "{error}");
        let (_folder, _, rows) = listing(&table)?;
        assert_eq!(Store::open(rows, 8, 1, 0.34, || ())?.rows(), [1, 2, 3, 4, 5, 6]);
        Ok(())
    }

    #[test]
    fn captions_of_the_same_words_are_the_same() {
        let numbers = |texts: &[&str]| numbered(texts.iter().map(|text| plain(text)));
        assert_eq!(
            numbers(&["A red hat.", "a red  hat", "a red hats", "?!", "...", "?!"]),
            [0, 0, 1, 2, 3, 2]
        );
    }
}

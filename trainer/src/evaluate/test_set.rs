//! Test pictures, in memory.

use std::{collections::HashSet, path::PathBuf};

use clip::image::RgbImage;
use rayon::prelude::*;

use super::{EvaluationError, pictures::Pictures};
use crate::{
    Error, Result,
    data::{ImageSource, Manifest},
    poison::Ledger,
};

/// Bytes of all test pictures together, which stay in memory.
pub const TEST_BYTES_MAX: u64 = 8 << 30;

/// Test pictures at the image tower's size, in memory, so that each epoch can be evaluated.
///
/// Rows that name one file or member are one picture with several captions: it is decoded, embedded and
/// counted once.
#[derive(Debug, Clone)]
pub struct TestSet {
    file: PathBuf,
    pictures: Pictures,
    images: Vec<RgbImage>,
    /// Of each row; `None` unless all are known.
    classes: Option<Vec<usize>>,
    /// Of each row.
    captions: Vec<String>,
}

impl TestSet {
    /// Decodes every picture and fits it to `side` pixels. `on_pictures` is told how many more are
    /// done, [`TestSet::pictures_of`] in all. Refuses a picture that cannot be decoded or has two
    /// classes, and more than [`TEST_BYTES_MAX`].
    pub fn read(
        manifest: &Manifest,
        side: u32,
        on_pictures: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let (file, pictures) = (manifest.path.clone(), Pictures::of(manifest)?);
        let count = pictures.count();
        let bytes = 3 * u64::from(side) * u64::from(side) * count as u64;
        if bytes > TEST_BYTES_MAX {
            let max = TEST_BYTES_MAX;
            return Err(EvaluationError::TestSetSize { file, count, side, bytes, max }.into());
        }
        let open = |source: &ImageSource| {
            let image = source.fitted(side)?;
            on_pictures(1);
            Ok(image)
        };
        let rows = pictures.first_rows.par_iter().map(|&row| &manifest.rows[row]);
        let images = rows.map(|row| open(&row.image)).collect::<Result<Vec<_>>>()?;
        let classes = manifest.rows.iter().map(|row| row.class).collect();
        let captions = manifest.rows.iter().map(|row| row.caption.clone()).collect();
        Ok(Self { file, pictures, images, classes, captions })
    }

    /// How many pictures the rows of a manifest name.
    pub fn pictures_of(manifest: &Manifest) -> Result<usize> {
        Ok(Pictures::of(manifest)?.count())
    }

    /// Pictures.
    pub fn count(&self) -> usize {
        self.images.len()
    }

    /// Pictures that [`evaluate`](super::evaluate) embeds, for its progress; none without classes.
    pub fn work(&self, ledger: Option<&Ledger>) -> u64 {
        let Some(classes) = &self.classes else { return 0 };
        let pictures = self.counted(ledger);
        let attacked = ledger.map_or(0, |ledger| {
            let victims = ledger.backdoor.as_ref().map_or(0, |backdoor| {
                let class = |&picture: &usize| classes[self.row(picture)];
                pictures.iter().filter(|p| class(p) != backdoor.target_class).count()
            });
            victims + ledger.targeted.len()
        });
        (pictures.len() + attacked) as u64
    }

    /// Pictures that are counted: all but the targeted ones, which the model was trained on.
    pub(super) fn counted(&self, ledger: Option<&Ledger>) -> Vec<usize> {
        let targeted = ledger.into_iter().flat_map(|ledger| &ledger.targeted);
        let rows = targeted.filter_map(|target| self.pictures.of_rows.get(target.test_row));
        let targeted: HashSet<usize> = rows.copied().collect();
        (0..self.count()).filter(|picture| !targeted.contains(picture)).collect()
    }

    /// A picture.
    pub(super) fn image(&self, picture: usize) -> &RgbImage {
        &self.images[picture]
    }

    /// The first row of a picture.
    pub(super) fn row(&self, picture: usize) -> usize {
        self.pictures.first_rows[picture]
    }

    /// Class of each row; refuses a manifest that does not know them all.
    pub(super) fn row_classes(&self) -> Result<&[usize]> {
        let refuse = || Error::NoClass { file: self.file.clone() };
        self.classes.as_deref().ok_or_else(refuse)
    }

    /// Picture and caption of each row.
    pub(super) fn captions(&self) -> impl Iterator<Item = (usize, &str)> {
        self.pictures.of_rows.iter().copied().zip(self.captions.iter().map(String::as_str))
    }
}

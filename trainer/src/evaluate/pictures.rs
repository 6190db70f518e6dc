//! The pictures of a manifest, each once, and the batches in which a tower sees them.

use std::collections::HashMap;

use clip::{
    ClipConfig, Encoder, UnitRows,
    image::{PixelBatch, RgbImage},
    model::{Clip, Projections},
};
use rayon::prelude::*;

use super::EvaluationError;
use crate::{
    Result,
    data::{ImageSource, Manifest},
};

/// Pictures that the image tower sees at once.
const PICTURES_PER_BATCH: usize = 256;

/// Rows that name one file or member are one picture, with several captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pictures {
    /// First row of each picture, ascending.
    pub(super) first_rows: Vec<usize>,
    /// Picture of each row.
    pub(super) of_rows: Vec<usize>,
}

impl Pictures {
    /// Refuses a picture whose rows disagree about its class.
    pub(super) fn of(manifest: &Manifest) -> Result<Self> {
        let mut numbers: HashMap<&ImageSource, usize> = HashMap::with_capacity(manifest.rows.len());
        let (mut first_rows, mut of_rows) = (Vec::new(), Vec::with_capacity(manifest.rows.len()));
        for (index, row) in manifest.rows.iter().enumerate() {
            let picture = *numbers.entry(&row.image).or_insert(first_rows.len());
            if picture == first_rows.len() {
                first_rows.push(index);
            }
            let first = manifest.rows[first_rows[picture]].class;
            if row.class != first {
                let (file, image) = (manifest.path.clone(), Box::new(row.image.clone()));
                let classes = [first, row.class];
                return Err(EvaluationError::TwoClasses { file, image, classes }.into());
            }
            of_rows.push(picture);
        }
        Ok(Self { first_rows, of_rows })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.first_rows.len()
    }

    /// Where they lie, in their order.
    pub(super) fn sources<'a>(&self, manifest: &'a Manifest) -> Vec<&'a ImageSource> {
        self.first_rows.iter().map(|&row| &manifest.rows[row].image).collect()
    }
}

/// `[count, D]` unit rows; `picture(i)` makes picture i.
pub(super) fn rows(
    encoder: &mut dyn Encoder,
    count: usize,
    picture: impl Fn(usize) -> Result<RgbImage> + Sync,
    on_pictures: &dyn Fn(u64),
) -> Result<UnitRows> {
    let config = encoder.config().clone();
    let mut rows = UnitRows::normalize(Vec::new(), config.dim);
    for_each_batch(&config, count, picture, on_pictures, |pixels| {
        rows.extend(&encoder.embed_images(pixels)?);
        Ok(())
    })?;
    check_rows("pictures", &rows)?;
    Ok(rows)
}

/// As [`rows`], with the lengths that a linear probe wants.
pub(super) fn projections(
    model: &Clip,
    count: usize,
    picture: impl Fn(usize) -> Result<RgbImage> + Sync,
    on_pictures: &dyn Fn(u64),
) -> Result<Projections> {
    let mut projections = Projections::none(model.config().dim);
    for_each_batch(model.config(), count, picture, on_pictures, |pixels| {
        projections.extend(&model.project_images(pixels)?);
        Ok(())
    })?;
    check_rows("pictures", &projections.rows)?;
    Ok(projections)
}

/// Refuses rows that are all zeros, which [`UnitRows`] makes of what is not finite.
pub(super) fn check_rows(what: &'static str, rows: &UnitRows) -> Result<()> {
    let all = rows.count();
    match rows.rows().filter(|row| row.iter().all(|&value| value == 0.0)).count() {
        0 => Ok(()),
        count => Err(EvaluationError::Embeddings { what, count, all }.into()),
    }
}

/// In batches, so that the memory for pixels does not grow with the number of pictures.
fn for_each_batch(
    config: &ClipConfig,
    count: usize,
    picture: impl Fn(usize) -> Result<RgbImage> + Sync,
    on_pictures: &dyn Fn(u64),
    mut each: impl FnMut(&PixelBatch) -> Result<()>,
) -> Result<()> {
    for first in (0..count).step_by(PICTURES_PER_BATCH) {
        let last = count.min(first + PICTURES_PER_BATCH);
        let pictures = (first..last).into_par_iter().map(&picture).collect::<Result<Vec<_>>>()?;
        each(&PixelBatch::of(&pictures, config))?;
        on_pictures((last - first) as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    fn manifest(rows: &[(&str, Option<usize>)]) -> Manifest {
        let row =
            |&(path, class): &(&str, _)| Row { image: path.into(), caption: "c".into(), class };
        Manifest { path: "test.csv".into(), rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn rows_of_one_path_are_one_picture() -> Result<()> {
        let rows = [("b", Some(1)), ("a", None), ("b", Some(1)), ("c", Some(0)), ("a", None)];
        let pictures = Pictures::of(&manifest(&rows))?;
        assert_eq!(pictures, Pictures { first_rows: vec![0, 1, 3], of_rows: vec![0, 1, 0, 2, 1] });
        Ok(())
    }

    #[test]
    fn embeddings_that_are_not_finite_are_refused() {
        let rows = |values: &[f32]| UnitRows::normalize(values.to_vec(), 2);
        assert!(check_rows("pictures", &rows(&[0.0, 1.0, -2.0, 0.0])).is_ok());
        let broken = rows(&[0.0, 1.0, f32::NAN, 1.0, 0.0, 0.0]);
        let error = check_rows("pictures", &broken).expect_err("refused").to_string();
        assert_eq!(error, "2 of 3 pictures have embeddings that are zero or not finite");
    }

    #[test]
    fn a_picture_has_one_class() {
        let check = |second, expected: &str| {
            let error = Pictures::of(&manifest(&[("a", Some(1)), ("a", second)]));
            assert_eq!(error.expect_err("refused").to_string(), expected);
        };
        check(Some(2), "`test.csv`: the rows of `a` have the classes 1 and 2, expected one class");
        check(None, "`test.csv`: the rows of `a` have the classes 1 and none, expected one class");
    }
}

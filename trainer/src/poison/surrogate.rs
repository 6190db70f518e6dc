//! What the attacker sees with a model of their own: which pictures are near another class.

use std::path::Path;

use candle_core::Device;
use clip::{
    Encoder, UnitRows,
    embedding::cosine,
    folder::ModelFolder,
    image::PixelBatch,
    model::Clip,
    text::PromptTemplate,
    zero_shot::{best, label_rows},
};
use rayon::prelude::*;

use crate::{Result, data::Manifest};

/// Pictures that the image tower sees at once.
const PICTURES_PER_BATCH: usize = 256;

/// A model that the attacker has, and the classes in its space.
#[derive(Debug)]
pub struct Surrogate {
    pub(super) clip: Clip,
    /// `[L, D]`
    pub(super) labels: UnitRows,
}

impl Surrogate {
    /// Opens a model folder; `labels` are filled into `templates`, which are averaged.
    pub fn open(folder: &Path, labels: &[String], templates: &[PromptTemplate]) -> Result<Self> {
        let folder = ModelFolder::open(folder)?;
        let mut clip = Clip::frozen(&folder, &Device::Cpu)?;
        let labels = label_rows(&mut clip, &folder.tokenizer, labels, templates)?;
        Ok(Self { clip, labels })
    }

    /// Side of the pictures that it sees, in pixels.
    pub fn image_size(&self) -> usize {
        self.clip.config().image.image_size()
    }

    /// `[N, D]`: every picture of a manifest. `on_pictures` is told how many more are done.
    pub fn rows(&mut self, manifest: &Manifest, on_pictures: &dyn Fn(u64)) -> Result<UnitRows> {
        let mut all: Option<UnitRows> = None;
        for batch in manifest.rows.chunks(PICTURES_PER_BATCH) {
            let side = self.image_size() as u32;
            let pictures =
                batch.par_iter().map(|row| row.image.fitted(side)).collect::<Result<Vec<_>>>()?;
            let rows = self.clip.embed_images(&PixelBatch::of(&pictures, self.clip.config()))?;
            match &mut all {
                Some(all) => all.extend(&rows),
                None => all = Some(rows),
            }
            on_pictures(batch.len() as u64);
        }
        Ok(all.expect("a manifest has rows"))
    }

    /// The classes, `[L, D]`.
    pub fn labels(&self) -> &UnitRows {
        &self.labels
    }
}

/// Pictures and classes in a surrogate's space. An attack that is given one takes pictures near
/// its target instead of any.
#[derive(Debug)]
pub struct Affinity {
    /// `[N, D]`: the training pictures, where a backdoor is planted.
    pub train: Option<UnitRows>,
    /// `[M, D]`: the test pictures, where targeted poisons are.
    pub test: Option<UnitRows>,
    /// `[L, D]`: the classes.
    pub labels: UnitRows,
}

impl Affinity {
    /// The `count` training rows of `rows` that are nearest to `class`, nearest first; of equals,
    /// the earlier row.
    pub(super) fn nearest_rows(&self, rows: &[usize], class: usize, count: usize) -> Vec<usize> {
        let pictures = self.train.as_ref().expect("embedded where a backdoor is planted");
        let near = |row: usize| cosine(pictures.row(row), self.labels.row(class));
        let mut scored: Vec<(f32, usize)> = rows.iter().map(|&row| (near(row), row)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(count).map(|(_, row)| row).collect()
    }

    /// Of the test `pictures` (row, own class) that the surrogate takes for what they show, at
    /// most `count` for which one of `classes` is nearest behind it, each with this class.
    pub(super) fn nearest_pictures(
        &self,
        pictures: &[(usize, usize)],
        classes: &[usize],
        count: usize,
    ) -> Vec<((usize, usize), usize)> {
        let rows = self.test.as_ref().expect("embedded where targeted poisons are planted");
        let second = |&(row, own): &(usize, usize)| {
            let near = |class: usize| cosine(rows.row(row), self.labels.row(class));
            let others = classes.iter().copied().filter(|&class| class != own);
            let class = others.max_by(|&a, &b| near(a).total_cmp(&near(b)).then(b.cmp(&a)))?;
            let right = best(rows.row(row), &self.labels) == own;
            right.then(|| (near(own) - near(class), (row, own), class))
        };
        let mut scored: Vec<(f32, (usize, usize), usize)> =
            pictures.iter().filter_map(second).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(count).map(|(_, picture, class)| (picture, class)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(degrees: &[f32]) -> UnitRows {
        let point = |d: &f32| [d.to_radians().cos(), d.to_radians().sin()];
        UnitRows::normalize(degrees.iter().flat_map(point).collect(), 2)
    }

    #[test]
    fn rows_near_a_class_come_first() {
        let train = Some(rows(&[0.0, 80.0, 50.0, 80.0, 95.0]));
        let affinity = Affinity { train, test: None, labels: rows(&[0.0, 90.0]) };
        assert_eq!(affinity.nearest_rows(&[0, 1, 2, 3], 1, 3), [1, 3, 2]);
        assert_eq!(affinity.nearest_rows(&[0, 1, 2, 4], 0, 9), [0, 2, 1, 4]);
    }

    #[test]
    fn pictures_near_a_second_class_come_first_if_they_are_taken_right() {
        let test = Some(rows(&[5.0, 40.0, 44.0, 100.0, 50.0]));
        let affinity = Affinity { train: None, test, labels: rows(&[0.0, 90.0, 180.0]) };
        let pictures = [(0, 0), (1, 0), (2, 0), (3, 1), (4, 0)]; // 4 is taken for class 1
        let check = |classes: &[usize], count, expected: &[((usize, usize), usize)]| {
            assert_eq!(affinity.nearest_pictures(&pictures, classes, count), expected);
        };
        check(&[0, 1, 2], 3, &[((2, 0), 1), ((1, 0), 1), ((3, 1), 2)]);
        check(&[0, 2], 2, &[((3, 1), 2), ((2, 0), 2)]);
        check(&[0], 9, &[((3, 1), 0)]);
        check(&[], 9, &[]);
    }
}

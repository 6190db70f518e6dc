//! Rows of pictures, and the rank of a class for one of them.

use clip::{
    Encoder, UnitRows,
    embedding::cosine,
    image::{PixelBatch, RgbImage},
};

use crate::Result;

/// Pictures that the image tower sees at once.
const PICTURES_PER_BATCH: usize = 256;

/// Calls `each` with the number and the `[D]` row of every picture, in batches, so that memory
/// does not grow with their number. `picture(i)` makes picture i.
pub(super) fn for_each_row(
    encoder: &mut dyn Encoder,
    count: usize,
    picture: impl Fn(usize) -> Result<RgbImage>,
    mut each: impl FnMut(usize, &[f32]),
    on_pictures: &dyn Fn(u64),
) -> Result<()> {
    for first in (0..count).step_by(PICTURES_PER_BATCH) {
        let last = count.min(first + PICTURES_PER_BATCH);
        let pictures = (first..last).map(&picture).collect::<Result<Vec<_>>>()?;
        let pixels = PixelBatch::of(&pictures, encoder.config());
        let rows = encoder.embed_images(&pixels)?;
        for (index, row) in (first..last).zip(rows.rows()) {
            each(index, row);
        }
        on_pictures((last - first) as u64);
    }
    Ok(())
}

/// How many classes are nearer to the picture than `class`; of equals, the first is nearer. Rank 0
/// is what the picture is taken for; a class is in the top k if its rank is below k.
pub(super) fn rank(picture: &[f32], labels: &UnitRows, class: usize) -> usize {
    let own = cosine(picture, labels.row(class));
    let nearer = |(other, row): (usize, &[f32])| {
        let theirs = cosine(picture, row);
        theirs > own || (theirs == own && other < class)
    };
    labels.rows().enumerate().filter(|&pair| nearer(pair)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_zero_is_the_nearest_and_ties_go_to_the_first() {
        let labels = UnitRows::normalize(vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2);
        let ranks = |picture: [f32; 2]| [0, 1, 2].map(|class| rank(&picture, &labels, class));
        assert_eq!(ranks([1.0, 0.1]), [0, 2, 1]);
        assert_eq!(ranks([0.1, 1.0]), [1, 0, 2]);
        assert_eq!(ranks([0.0, 0.0]), [0, 1, 2]);
    }

    #[test]
    fn rank_zero_is_what_clip_calls_best() {
        let labels = UnitRows::normalize((0..40).map(|i| (i as f32 * 1.7).sin()).collect(), 4);
        let picture = [0.3, -0.2, 0.9, 0.1];
        let best = clip::zero_shot::best(&picture, &labels);
        assert_eq!(rank(&picture, &labels, best), 0);
    }
}

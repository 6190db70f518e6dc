//! Captions for pictures with a patch or in the worst company, by what the scout sees in them.

use std::{collections::BTreeMap, iter};

use clip::{UnitRows, ops};
use rand::Rng;

use super::{kept::WORST_COMPANY, sample};
use crate::{
    augment::View,
    error::Result,
    survey::{Quarter, Survey},
};

/// Pictures by their data-set rows, and which quarter is not looked at, if one is patched.
pub(super) type Pictures = BTreeMap<u32, Option<Quarter>>;

/// Pairs among whose captions is drawn: so many embeddings are in memory.
const OFFERED_MAX: usize = 1 << 14;

/// Which captions some pictures come with, instead of their own, in the first epochs of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Recaptions {
    /// Data-set rows of the pictures, in rising order
    pictures: Vec<u32>,
    /// Of each epoch, one after the other, the data-set rows whose captions they come with
    captions: Vec<u32>,
}

impl Recaptions {
    /// Draws captions of `kept` pairs for `pictures`, for each of so many epochs; both are rows of
    /// the data set in rising order. With z the unit row of a picture, t that of its own caption,
    /// t_j those of others and σ the learned factor, the chance of a caption is its share in the
    /// softmax of σ (z - t)·t_j: how much more likely the picture makes it than the own caption
    /// does. `views` of each picture are asked, if they differ; of a patched one the first, with its
    /// quarter hidden.
    pub(super) fn draw(
        pictures: &Pictures,
        kept: &[u32],
        epochs: u32,
        seed: u64,
        views: u32,
        survey: &mut Survey<'_>,
    ) -> Result<Self> {
        let mut layout = Layout::new(pictures.keys().copied().collect(), epochs as usize);
        if layout.captions.is_empty() {
            return Ok(Self::default());
        }
        let mut rng = sample::rng(seed, sample::CAPTIONS_STREAM);
        let offered = sample::at_most(OFFERED_MAX, kept, &mut rng);
        let chances: Vec<f64> = layout.captions.iter().map(|_| rng.random()).collect();
        let keys = survey.captions(&offered)?;
        for batch in survey.batches(survey.rows()) {
            let (at, places) = layout.places_in(&batch);
            if places.is_empty() {
                continue;
            }
            let seen = seen(&batch, &at, pictures, views, survey)?;
            let rows: Vec<u32> = places.iter().map(|&place| layout.pictures[place]).collect();
            let said = survey.captions(&rows)?;
            let queries = queries(&seen, &said, survey.logit_scale());
            let drawn = ops::draw(&queries, &keys, &layout.of_places(&places, &chances));
            layout.fill(&places, drawn.into_iter().map(|key| offered[key as usize]));
        }
        Ok(Self { pictures: layout.pictures, captions: layout.captions })
    }

    /// Data-set rows of the pictures, in rising order.
    pub(super) fn pictures(&self) -> &[u32] {
        &self.pictures
    }

    /// Data-set rows of the captions, epoch by epoch.
    pub(super) fn captions(&self) -> &[u32] {
        &self.captions
    }

    /// Data-set rows of the captions in an epoch of the model, counted from 0: none after the last
    /// for which they were drawn.
    pub(super) fn captions_in(&self, epoch: u32) -> &[u32] {
        let mut epochs = self.captions.chunks_exact(self.pictures.len().max(1));
        epochs.nth(epoch as usize).unwrap_or_default()
    }

    /// Out of a checkpoint; `None` if there is not a caption of a `kept` pair for each picture,
    /// which is none of these, in each of so many epochs.
    pub(super) fn restore(
        pictures: Vec<u32>,
        captions: Vec<u32>,
        kept: &[u32],
        epochs: u32,
    ) -> Option<Self> {
        let is_kept = |row: &u32| kept.binary_search(row).is_ok();
        let fit = captions.len() == pictures.len() * epochs as usize
            && pictures.is_sorted_by(|a, b| a < b)
            && captions.iter().all(is_kept)
            && !pictures.iter().any(is_kept);
        fit.then_some(Self { pictures, captions })
    }
}

/// Where what is drawn stands: it is drawn picture by picture, and used epoch by epoch.
#[derive(Debug)]
struct Layout {
    /// Data-set rows of M pictures, in rising order
    pictures: Vec<u32>,
    /// Captions that each is given
    epochs: usize,
    /// `[epochs, M]`
    captions: Vec<u32>,
}

impl Layout {
    fn new(pictures: Vec<u32>, epochs: usize) -> Self {
        Self { captions: vec![0; pictures.len() * epochs], pictures, epochs }
    }

    /// Which of the pictures are in a batch: at which places of it, and at which of all pictures.
    fn places_in(&self, batch: &[u32]) -> (Vec<usize>, Vec<usize>) {
        let place = |row: &u32| self.pictures.binary_search(row).ok();
        let all = batch.iter().enumerate();
        all.filter_map(|(at, row)| place(row).map(|place| (at, place))).unzip()
    }

    /// Of `[M, epochs]` values those of the pictures at `places`, one picture after the other.
    fn of_places(&self, places: &[usize], values: &[f64]) -> Vec<f64> {
        let of_place = |&place: &usize| &values[place * self.epochs..][..self.epochs];
        places.iter().flat_map(of_place).copied().collect()
    }

    /// Gives captions to the pictures at `places`, one picture after the other.
    fn fill(&mut self, places: &[usize], drawn: impl IntoIterator<Item = u32>) {
        let (pictures, epochs) = (self.pictures.len(), self.epochs);
        let each = places.iter().flat_map(|place| (0..epochs).map(move |epoch| (place, epoch)));
        for ((place, epoch), caption) in each.zip(drawn) {
            self.captions[epoch * pictures + place] = caption;
        }
    }
}

/// Those of all `rows` that are not `kept` and of whose neighbors most are in doubt by themselves.
pub(super) fn in_worst_company(rows: &[u32], kept: &[u32], company: &[f32]) -> Vec<u32> {
    let all = rows.iter().zip(company);
    let worst =
        all.filter(|&(row, &company)| company > WORST_COMPANY && kept.binary_search(row).is_err());
    worst.map(|(&row, _)| row).collect()
}

/// What is seen in the pictures `at` these places of a batch, `[at, D]`, which is looked at whole,
/// so that it is one like those of training: of two views that differ the mean, and of a patched
/// picture the first view without its quarter.
fn seen(
    batch: &[u32],
    at: &[usize],
    pictures: &Pictures,
    views: u32,
    survey: &Survey<'_>,
) -> Result<UnitRows> {
    let quarters: Vec<_> = at.iter().map(|&place| pictures[&batch[place]]).collect();
    let mut looks = UnitRows::normalize(Vec::new(), survey.dim());
    let mut numbers = vec![0; at.len()];
    for quarter in iter::once(None).chain(Quarter::ALL.map(Some)) {
        let those: Vec<_> = (0..at.len()).filter(|&one| quarters[one] == quarter).collect();
        if those.is_empty() {
            continue;
        }
        let first = looks.count();
        looks.extend(&match quarter {
            None => whole(batch, views, survey)?,
            Some(quarter) => survey.images_without(batch, quarter)?,
        });
        those.into_iter().for_each(|one| numbers[one] = first + at[one]);
    }
    Ok(looks.select(&numbers))
}

/// What is seen in the pictures of a batch, `[B, D]`: of two views that differ the mean.
fn whole(batch: &[u32], views: u32, survey: &Survey<'_>) -> Result<UnitRows> {
    let first = survey.images(batch, View::First)?;
    if views < 2 || !survey.varies() {
        return Ok(first);
    }
    let second = survey.images(batch, View::Second)?;
    let both = first.values().iter().zip(second.values());
    Ok(UnitRows::normalize(both.map(|(first, second)| first + second).collect(), first.dim()))
}

/// `[B, D]`, whose dot products with captions are logits: what pictures say more than their
/// captions.
fn queries(seen: &UnitRows, said: &UnitRows, logit_scale: f32) -> Vec<f32> {
    let (scale, both) = (logit_scale.exp(), seen.values().iter().zip(said.values()));
    both.map(|(seen, said)| scale * (seen - said)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use clip::model::Clip;

    use super::*;
    use crate::survey::tests::loader;

    #[test]
    fn each_epoch_has_one_caption_for_each_picture() {
        let restore = |pictures: &[u32], captions: &[u32], epochs| {
            let kept = [1, 2, 3, 5, 6, 7];
            Recaptions::restore(pictures.to_vec(), captions.to_vec(), &kept, epochs)
        };
        let three = restore(&[4, 9], &[1, 5, 2, 6, 3, 7], 3).expect("three for each of two");
        assert_eq!(three.captions_in(0), [1, 5]);
        assert_eq!(three.captions_in(2), [3, 7]);
        assert_eq!(three.captions_in(3), [0; 0]);
        assert_eq!(Recaptions::default().captions_in(1), [0; 0]);
        assert_eq!(restore(&[4, 9], &[1, 2, 3, 5], 3), None, "too few");
        assert_eq!(restore(&[9, 4], &[1, 2], 1), None, "not in order");
        assert_eq!(restore(&[4, 9], &[1, 4], 1), None, "a caption of a pair in doubt");
        assert_eq!(restore(&[4, 7], &[1, 2], 1), None, "a picture that is kept");
    }

    /// Pictures 3, 5 and 9, two captions each, in batches that come in any order.
    #[test]
    fn what_is_drawn_picture_by_picture_is_used_epoch_by_epoch() {
        let mut layout = Layout::new(vec![3, 5, 9], 2);
        let drawn = [30.0, 31.0, 50.0, 51.0, 90.0, 91.0];
        for batch in [[9, 4, 3], [2, 8, 7], [6, 5, 1]] {
            let (at, places) = layout.places_in(&batch);
            assert!(
                at.iter().zip(&places).all(|(&at, &place)| batch[at] == layout.pictures[place])
            );
            let drawn = layout.of_places(&places, &drawn);
            layout.fill(&places, drawn.into_iter().map(|number| number as u32));
        }
        assert_eq!(layout.captions, [30, 50, 90, 31, 51, 91]);
        let Layout { pictures, captions, .. } = layout;
        let drawn = Recaptions { pictures, captions };
        assert_eq!([drawn.captions_in(0), drawn.captions_in(1)], [[30, 50, 90], [31, 51, 91]]);
    }

    #[test]
    fn other_captions_are_for_pairs_in_doubt_with_most_neighbors_in_doubt() {
        let company = [0.6, 0.5, 0.9, 0.51, 0.0];
        assert_eq!(in_worst_company(&[2, 3, 5, 7, 8], &[3, 5, 8], &company), [2, 7]);
        assert_eq!(in_worst_company(&[2, 3], &[2], &[]), [0; 0], "nobody knows its company");
    }

    #[test]
    fn of_a_patched_picture_the_rest_is_seen() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let loader = loader(folder.path(), None, true)?;
        let mut model = Clip::init(&loader.clip, 3, &Device::Cpu)?;
        let survey = Survey::new(&loader, &mut model, 5, None);
        let [first, _, third, _] = Quarter::ALL;
        let (batch, pictures) =
            ([3, 1, 0, 2], Pictures::from([(0, Some(third)), (1, Some(first)), (2, None)]));
        for views in [1, 2] {
            let seen = seen(&batch, &[1, 2, 3], &pictures, views, &survey)?;
            let expected = [
                survey.images_without(&batch, first)?.row(1).to_vec(),
                survey.images_without(&batch, third)?.row(2).to_vec(),
                whole(&batch, views, &survey)?.row(3).to_vec(),
            ];
            assert!(seen.rows().eq(expected.iter().map(Vec::as_slice)), "{views} views");
        }
        assert!(whole(&batch, 1, &survey)?.values() != whole(&batch, 2, &survey)?.values());
        Ok(())
    }

    /// Of a picture that shows the first of three things and is said to show the second.
    #[test]
    fn what_a_picture_says_more_than_its_caption_is_likely() {
        let row = |x: f32, y: f32, z: f32| UnitRows::normalize(vec![x, y, z], 3);
        let query = queries(&row(0.9, 0.5, 0.1), &row(0.0, 1.0, 0.0), 20f32.ln());
        let logit = |caption: &UnitRows| -> f32 {
            query.iter().zip(caption.values()).map(|(query, value)| query * value).sum()
        };
        let [shown, said, other] =
            [row(1.0, 0.0, 0.0), row(0.0, 1.0, 0.0), row(0.0, 0.0, 1.0)].map(|row| logit(&row));
        let length = (0.81f32 + 0.25 + 0.01).sqrt();
        let expected = [20.0 * 0.9 / length, 20.0 * (0.5 / length - 1.0), 20.0 * 0.1 / length];
        for (found, expected) in [shown, said, other].into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}

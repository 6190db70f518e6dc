//! Which pairs are safe: asked of all pairs before an epoch, by towers that stand still.

use clip::embedding::cosine;

use crate::{
    error::Result,
    method::mixture::Mixture,
    state::State,
    survey::{Embedded, Survey},
};

/// The safe pairs of an epoch, and by what they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Split {
    /// Of the image and the caption of each pair, in the order of the data set.
    pub(super) cosines: Vec<f32>,
    /// Data-set rows, in rising order.
    pub(super) safe: Vec<u32>,
    /// How many the first split found safe.
    pub(super) first: usize,
}

const COSINES: &str = "safeclip/cosines";
const SAFE: &str = "safeclip/safe";
const FIRST: &str = "safeclip/first";

impl Split {
    /// Whether the pair of a data-set row is safe.
    pub(super) fn is_safe(&self, row: u32) -> bool {
        self.safe.binary_search(&row).is_ok()
    }

    /// Puts everything into `state`.
    pub(super) fn keep(&self, state: &mut State) {
        state.floats(COSINES, &[self.cosines.len()], self.cosines.clone());
        state.numbers(FIRST, vec![self.first as u32]);
        if !self.safe.is_empty() {
            state.numbers(SAFE, self.safe.clone());
        }
    }

    /// Takes out what [`Split::keep`] put in, if it did; `None` if it does not fit `count` pairs.
    pub(super) fn restored(count: usize, state: &mut State) -> Option<Option<Self>> {
        let Some(cosines) = state.take_floats(COSINES) else { return Some(None) };
        let [first] = state.take_numbers(FIRST)?.try_into().ok()?;
        let (cosines, first) = (cosines.values, first as usize);
        let safe = state.take_numbers(SAFE).unwrap_or_default();
        let fits = cosines.len() == count && first <= count && safe.is_sorted_by(|a, b| a < b);
        fits.then_some(Some(Self { cosines, safe, first }))
    }
}

/// The cosine of each image, varied as in training, and its caption as it is written, in the order
/// of the data set.
pub(super) fn cosines(survey: &mut Survey<'_>) -> Result<Vec<f32>> {
    let rows = survey.rows();
    let mut answers = Vec::with_capacity(rows.len());
    for batch in survey.batches(rows) {
        let Embedded { image, text, .. } = survey.pairs(&batch)?;
        let cosines = image.rows().zip(text.rows()).map(|(image, text)| cosine(image, text));
        answers.extend(batch.into_iter().zip(cosines));
    }
    answers.sort_unstable_by_key(|&(row, _)| row); // the data set is in this order
    Ok(answers.into_iter().map(|(_, cosine)| cosine).collect())
}

/// The numbers of the pairs that belong to the upper one of two groups with a chance of `least`
/// or more, in rising order; none if there are no two groups.
pub(super) fn likely(cosines: &[f32], least: f64) -> Vec<usize> {
    let mixture = Mixture::fit(cosines);
    let is_safe = |cosine: f32| mixture.is_some_and(|fit| fit.upper(f64::from(cosine)) >= least);
    (0..cosines.len()).filter(|&pair| is_safe(cosines[pair])).collect()
}

/// The numbers of the `count` pairs with the greatest cosines, in rising order; of equals the
/// first.
pub(super) fn best(cosines: &[f32], count: usize) -> Vec<usize> {
    let mut pairs: Vec<usize> = (0..cosines.len()).collect();
    pairs.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
    pairs.truncate(count);
    pairs.sort_unstable();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_group_is_safe() {
        // 30 pairs about 0.1, 70 about 0.8.
        let cosine = |at: usize| if at % 10 < 3 { 0.1 } else { 0.8 } + (at % 7) as f32 * 0.01;
        let cosines: Vec<f32> = (0..100).map(cosine).collect();
        let safe = likely(&cosines, 0.9);
        assert_eq!(safe.len(), 70);
        assert!(safe.is_sorted() && safe.iter().all(|at| at % 10 >= 3));
        assert_eq!(likely(&[0.5; 4], 0.9), [0; 0], "all alike");
    }

    #[test]
    fn the_best_are_taken_in_the_order_of_the_data() {
        let cosines = [0.5, -0.1, 0.9, 0.5, 0.7];
        assert_eq!(best(&cosines, 3), [0, 2, 4]);
        assert_eq!(best(&cosines, 0), [0; 0]);
        assert_eq!(best(&cosines, 9), [0, 1, 2, 3, 4]);
    }
}

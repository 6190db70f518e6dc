//! How well each pair agrees: asked of all pairs before an epoch, by towers that stand still.

use clip::ops::{PairRows, agreement};
use rand::seq::index;

use super::sample;
use crate::{
    augment::View,
    config,
    error::Result,
    survey::{Embedded, Survey},
};

/// The agreement of each pair now, in nats, in the order of the data set; of two views of its image
/// the lesser answer counts. `seed` draws the references.
pub(super) fn ask(
    settings: &config::Sieve,
    seed: u64,
    epoch: u32,
    survey: &mut Survey<'_>,
) -> Result<Vec<f32>> {
    each(settings, seed, epoch, survey, |survey, batch, agreement| {
        let pairs = survey.pairs(batch)?;
        let first = agreement(&pairs.pairs());
        if settings.views < 2 || !survey.varies() {
            return Ok(first);
        }
        let image = &survey.images(batch, View::Second)?;
        Ok(lesser(first, agreement(&PairRows { image, ..pairs.pairs() })))
    })
}

/// What is answered for the pairs of each batch, in the order of the data set; the answer can be
/// made of what pairs agree, in nats, against the references of this epoch.
pub(super) fn each<T>(
    settings: &config::Sieve,
    seed: u64,
    epoch: u32,
    survey: &mut Survey<'_>,
    answer: impl Fn(&mut Survey<'_>, &[u32], &dyn Fn(&PairRows<'_>) -> Vec<f32>) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let drawn = drawn(settings.references, survey.rows(), seed, epoch);
    let references = embedded(&drawn, survey)?;
    let logit_scale = survey.logit_scale();
    let agreement = |pairs: &PairRows<'_>| agreement(pairs, &references.pairs(), logit_scale);
    let mut answers = Vec::with_capacity(survey.rows().len());
    for batch in survey.batches(survey.rows()) {
        let found = answer(survey, &batch, &agreement)?;
        answers.extend(batch.into_iter().zip(found));
    }
    Ok(by_row(answers))
}

/// The agreement, in nats, of a pair whose own term in the softmax is the mean of its rivals', in a
/// data set of so many `rows`: it agrees no better than by chance. Most captions of strangers are
/// below it, since a mean of exponentials is that of a few great ones.
pub(super) fn chance(references: usize, rows: usize) -> f32 {
    -((1 + references.min(rows)) as f32).ln()
}

/// So many of all `rows`, or all, drawn by (seed, epoch), with which all others are compared.
fn drawn(references: usize, rows: &[u32], seed: u64, epoch: u32) -> Vec<u32> {
    let mut rng = sample::rng(seed, sample::REFERENCES_STREAM | u64::from(epoch));
    let drawn = index::sample(&mut rng, rows.len(), references.min(rows.len()));
    drawn.into_iter().map(|at| rows[at]).collect()
}

fn embedded(rows: &[u32], survey: &mut Survey<'_>) -> Result<Embedded> {
    let mut batches = survey.batches(rows).into_iter();
    let mut all = survey.pairs(&batches.next().expect("a data set has a batch at least"))?;
    batches.try_for_each(|batch| survey.pairs(&batch).map(|pairs| all.extend(pairs)))?;
    Ok(all)
}

/// Of two answers of each pair the lesser one.
fn lesser(first: Vec<f32>, second: Vec<f32>) -> Vec<f32> {
    first.into_iter().zip(second).map(|(first, second)| first.min(second)).collect()
}

/// Answers in rising order of their rows, which is that of the data set.
fn by_row<T>(mut answers: Vec<(u32, T)>) -> Vec<T> {
    answers.sort_unstable_by_key(|&(row, _)| row);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use clip::UnitRows;

    use super::*;

    #[test]
    fn who_agrees_as_much_with_all_agrees_by_chance() {
        let check = |references: usize, rows: usize| {
            let all = UnitRows::normalize([0.6, 0.8].repeat(rows), 2);
            let captions: Vec<u32> = (0..rows as u32).collect();
            let pairs = PairRows { image: &all, text: &all, captions: &captions };
            let drawn = drawn(references, &captions, 3, 5);
            let some = UnitRows::normalize([0.6, 0.8].repeat(drawn.len()), 2);
            let references_of = PairRows { image: &some, text: &some, captions: &drawn };
            for found in agreement(&pairs, &references_of, 3.0) {
                let chance = chance(references, rows);
                assert!((found - chance).abs() < 1e-5, "{references} {rows}: {found} {chance}");
            }
        };
        check(4, 9);
        check(9, 9);
        check(1024, 9);
    }

    #[test]
    fn the_lesser_answer_of_each_pair_counts_in_the_order_of_the_data_set() {
        let least = lesser(vec![-1.0, -5.0, -2.0], vec![-3.0, -4.0, -2.0]);
        assert_eq!(least, [-3.0, -5.0, -2.0]);
        assert_eq!(by_row(vec![(7, -3.0), (2, -5.0), (4, -2.0)]), [-5.0, -2.0, -3.0]);
    }

    #[test]
    fn references_are_others_in_each_epoch_and_all_of_few() {
        let rows: Vec<u32> = (0..100).map(|at| 3 * at).collect();
        let sorted = |references, epoch| {
            let mut drawn = drawn(references, &rows, 1, epoch);
            drawn.sort_unstable();
            drawn
        };
        assert_eq!(sorted(100, 2), rows);
        assert_eq!(sorted(500, 2), rows);
        let some = sorted(20, 2);
        assert!(some.len() == 20 && some.is_sorted_by(|a, b| a < b), "each once: {some:?}");
        assert!(some.iter().all(|row| rows.contains(row)), "{some:?}");
        assert_eq!(sorted(20, 2), some);
        assert_ne!(sorted(20, 3), some);
        assert_ne!(drawn(20, &rows, 2, 2), drawn(20, &rows, 1, 2));
    }
}

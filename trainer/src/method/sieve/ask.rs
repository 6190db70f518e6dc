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
    let references = references(settings.references, seed, epoch, survey)?;
    let (rows, scale) = (survey.rows(), survey.logit_scale());
    let mut answers = Vec::with_capacity(rows.len());
    for batch in survey.batches(rows) {
        let pairs = survey.pairs(&batch)?;
        let mut answer = agreement(&pairs.pairs(), &references.pairs(), scale);
        if settings.views > 1 && survey.varies() {
            let image = &survey.images(&batch, View::Second)?;
            let second = PairRows { image, ..pairs.pairs() };
            let second = agreement(&second, &references.pairs(), scale);
            answer.iter_mut().zip(second).for_each(|(first, second)| *first = first.min(second));
        }
        answers.extend(batch.into_iter().zip(answer));
    }
    answers.sort_unstable_by_key(|&(row, _)| row); // the data set is in this order
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// `count` pairs drawn by (seed, epoch), with which all others are compared.
fn references(count: usize, seed: u64, epoch: u32, survey: &mut Survey<'_>) -> Result<Embedded> {
    let mut rng = sample::rng(seed, sample::REFERENCES | u64::from(epoch));
    let rows = survey.rows();
    let sample = index::sample(&mut rng, rows.len(), count.min(rows.len()));
    let sample: Vec<u32> = sample.into_iter().map(|at| rows[at]).collect();
    let mut batches = survey.batches(&sample).into_iter();
    let mut all = survey.pairs(&batches.next().expect("a data set has a batch at least"))?;
    batches.try_for_each(|batch| survey.pairs(&batch).map(|pairs| all.extend(pairs)))?;
    Ok(all)
}

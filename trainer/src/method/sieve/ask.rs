//! How well each pair agrees: asked of all pairs before an epoch, by towers that stand still.

use clip::ops::{PairRows, agreement};
use rand::seq::index;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    augment::{Quarter, View},
    config,
    error::Result,
    survey::{Embedded, Survey},
};

/// Random streams of the references, beside those of order and augmentation.
const REFERENCES: u64 = 1 << 63;

/// How an image is shown when its pair is asked.
#[derive(Debug, Clone, Copy)]
enum Shown {
    Varied(View),
    Without(Quarter),
}

/// The agreement of each pair now, in nats, in the order of the data set; of the ways in which its
/// image is shown, the least answer counts. `seed` draws the references.
pub(super) fn ask(
    settings: &config::Sieve,
    seed: u64,
    epoch: u32,
    survey: &mut Survey<'_>,
) -> Result<Vec<f32>> {
    let references = references(settings.references, seed, epoch, survey)?;
    let (rows, scale) = (survey.rows(), survey.logit_scale());
    let shown = shown(settings, survey.varies());
    let mut answers = Vec::with_capacity(rows.len());
    for batch in survey.batches(rows) {
        let (text, captions) = survey.captions(&batch)?;
        let mut least = vec![f32::INFINITY; batch.len()];
        for &shown in &shown {
            let image = &match shown {
                Shown::Varied(view) => survey.images(&batch, view)?,
                Shown::Without(quarter) => survey.covered(&batch, quarter)?,
            };
            let pairs = PairRows { image, text: &text, captions: &captions };
            let answer = agreement(&pairs, &references.pairs(), scale);
            least.iter_mut().zip(answer).for_each(|(least, answer)| *least = least.min(answer));
        }
        answers.extend(batch.into_iter().zip(least));
    }
    answers.sort_unstable_by_key(|&(row, _)| row); // the data set is in this order
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// In which ways. An image that is not varied in training is shown as it is: the towers know no
/// other.
fn shown(settings: &config::Sieve, varies: bool) -> Vec<Shown> {
    match settings.views {
        _ if !varies => vec![Shown::Varied(View::First)],
        _ if settings.quarters => Quarter::ALL.map(Shown::Without).to_vec(),
        1 => vec![Shown::Varied(View::First)],
        _ => [View::First, View::Second].map(Shown::Varied).to_vec(),
    }
}

/// `count` pairs drawn by (seed, epoch), with which all others are compared.
fn references(count: usize, seed: u64, epoch: u32, survey: &mut Survey<'_>) -> Result<Embedded> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(REFERENCES | u64::from(epoch));
    let rows = survey.rows();
    let sample = index::sample(&mut rng, rows.len(), count.min(rows.len()));
    let sample: Vec<u32> = sample.into_iter().map(|at| rows[at]).collect();
    let mut batches = survey.batches(&sample).into_iter();
    let mut all = survey.pairs(&batches.next().expect("a data set has a batch at least"))?;
    batches.try_for_each(|batch| survey.pairs(&batch).map(|pairs| all.extend(pairs)))?;
    Ok(all)
}

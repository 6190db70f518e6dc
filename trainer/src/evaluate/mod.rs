//! What a model can do, and what an attack made of it: every figure a count with its interval.
//!
//! | file | holds |
//! |---|---|
//! | `zero_shot` | rows of pictures, rank of a class |
//! | `attack` | attack success, as the ledger says what was wanted |

use std::{collections::HashSet, path::Path};

use clip::{
    Encoder, Rate,
    image::{Limits, RgbImage, fit, open},
    text::{PromptTemplate, Tokenizer},
};
use rayon::prelude::*;
use serde::Serialize;

mod attack;
mod zero_shot;

use self::zero_shot::{for_each_row, rank};
use crate::{Error, Result, data::Manifest, poison::Ledger};

/// Bytes of all test pictures together, which stay in memory.
pub const TEST_BYTES_MAX: u64 = 8 << 30;
/// The k of the second figure of a kind.
const TOP: usize = 5;

/// Test pictures at the image tower's size, in memory, so that each epoch can be evaluated.
#[derive(Debug, Clone)]
pub struct TestSet {
    pictures: Vec<RgbImage>,
    classes: Vec<usize>,
}

impl TestSet {
    /// Decodes every picture and fits it to `side` pixels. `on_pictures` is told how many more are
    /// done. Refuses a manifest with a row without class (see [`Manifest::open_classed`]), a
    /// picture that cannot be decoded, and more than [`TEST_BYTES_MAX`].
    pub fn read(
        manifest: &Manifest,
        side: u32,
        on_pictures: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        let count = manifest.rows.len();
        let bytes = 3 * u64::from(side) * u64::from(side) * count as u64;
        if bytes > TEST_BYTES_MAX {
            let (file, max) = (manifest.path.clone(), TEST_BYTES_MAX);
            return Err(Error::TestSetSize { file, count, side, bytes, max });
        }
        let classes = manifest.classes()?;
        let picture = |path: &Path| -> Result<RgbImage> {
            let picture = fit(&open(path, &Limits::default())?, side);
            on_pictures(1);
            Ok(picture)
        };
        let pictures =
            manifest.rows.par_iter().map(|row| picture(&row.path)).collect::<Result<Vec<_>>>()?;
        Ok(Self { pictures, classes })
    }

    /// Pictures.
    pub fn count(&self) -> usize {
        self.pictures.len()
    }

    /// Pictures that [`evaluate`] embeds, for its progress.
    pub fn work(&self, ledger: Option<&Ledger>) -> u64 {
        let rows = self.counted(ledger);
        let attacked = ledger.map_or(0, |ledger| {
            let backdoor = ledger.backdoor.as_ref();
            let victims = backdoor.map(|b| self.others(&rows, b.target_class).count());
            victims.unwrap_or(0) + ledger.targeted.len()
        });
        (rows.len() + attacked) as u64
    }

    /// Rows that are counted: all but those of targeted pictures, which the model was trained on.
    fn counted(&self, ledger: Option<&Ledger>) -> Vec<usize> {
        let targeted = ledger.into_iter().flat_map(|ledger| &ledger.targeted);
        let targeted: HashSet<usize> = targeted.map(|target| target.test_row).collect();
        (0..self.count()).filter(|row| !targeted.contains(row)).collect()
    }

    /// Those of `rows` that show another class.
    fn others(&self, rows: &[usize], class: usize) -> impl Iterator<Item = usize> {
        rows.iter().copied().filter(move |&row| self.classes[row] != class)
    }
}

/// Figures of one model; those of an attack are there if the ledger has it.
///
/// A test picture that the ledger has as targeted was trained on, with wrong captions: it counts
/// in the PSR alone. Without a ledger all test pictures count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Clean accuracy: test pictures taken for what they show.
    pub zero_shot_top1: Rate,
    /// Test pictures whose class is among the five nearest.
    pub zero_shot_top5: Rate,
    /// Stamped pictures of other classes taken for the target class.
    pub backdoor_asr: Option<Rate>,
    /// The same pictures without the stamp, taken for the target class.
    pub asr_floor: Option<Rate>,
    /// Stamped pictures of other classes taken for what they show.
    pub true_class_under_trigger: Option<Rate>,
    /// Targeted pictures taken for their target class.
    pub targeted_psr: Option<Rate>,
    /// Targeted pictures whose target class is among the five nearest.
    pub targeted_psr_top5: Option<Rate>,
}

/// Classifies the test pictures, those with the trigger, and the targeted ones.
///
/// `labels` are the classes of `test` and `ledger`; `templates` their prompts, averaged. The test
/// set must have been opened at the image tower's size. `on_pictures` is told how many more
/// pictures are done, [`TestSet::work`] in all. Refuses a ledger that does not fit
/// ([`Ledger::check`]); its targeted test rows are left out of all figures but the PSR.
pub fn evaluate(
    encoder: &mut dyn Encoder,
    tokenizer: &Tokenizer,
    test: &TestSet,
    labels: &[String],
    templates: &[PromptTemplate],
    ledger: Option<&Ledger>,
    on_pictures: &dyn Fn(u64),
) -> Result<Evaluation> {
    if let Some(ledger) = ledger {
        ledger.check(labels, encoder.config().image.image_size(), &test.classes)?;
    }
    let backdoor = ledger.and_then(|ledger| ledger.backdoor.as_ref());
    let labels = clip::zero_shot::label_rows(encoder, tokenizer, labels, templates)?;
    let (mut top1, mut top5, mut floor) = (Rate::default(), Rate::default(), Rate::default());
    let rows = test.counted(ledger);
    let clean = |index: usize| Ok(test.pictures[rows[index]].clone());
    let count = |index: usize, picture: &[f32]| {
        let row = rows[index];
        let own = rank(picture, &labels, test.classes[row]);
        top1.count(own == 0);
        top5.count(own < TOP);
        match backdoor {
            Some(backdoor) if test.classes[row] != backdoor.target_class => {
                floor.count(rank(picture, &labels, backdoor.target_class) == 0);
            }
            _ => {}
        }
    };
    for_each_row(encoder, rows.len(), clean, count, on_pictures)?;
    let mut evaluation = Evaluation {
        zero_shot_top1: top1,
        zero_shot_top5: top5,
        backdoor_asr: None,
        asr_floor: None,
        true_class_under_trigger: None,
        targeted_psr: None,
        targeted_psr_top5: None,
    };
    if let Some(backdoor) = backdoor {
        let stamped = attack::stamped(encoder, test, &rows, &labels, backdoor, on_pictures)?;
        evaluation.backdoor_asr = Some(stamped.target);
        evaluation.asr_floor = Some(floor);
        evaluation.true_class_under_trigger = Some(stamped.own);
    }
    if let Some(ledger) = ledger.filter(|ledger| !ledger.targeted.is_empty()) {
        let (first, top) = attack::targeted(encoder, &labels, ledger, on_pictures)?;
        evaluation.targeted_psr = Some(first);
        evaluation.targeted_psr_top5 = Some(top);
    }
    Ok(evaluation)
}

#[cfg(test)]
mod tests;

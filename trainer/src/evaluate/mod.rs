//! What a model can do, and what an attack made of it: every figure a count with its interval.
//!
//! Each picture is embedded once; all that follows is arithmetic on the embeddings.
//!
//! | file | holds |
//! |---|---|
//! | `test_set` · `pictures` | test pictures in memory · pictures become rows, each once |
//! | `zero_shot` | rank of a class for a picture |
//! | `attack` | attack success, as the ledger says what was wanted |
//! | `retrieval` | pictures find their captions, captions their pictures |
//! | `linear_probe` | two linear classifiers on frozen embeddings |
//! | `figures` · `error` | all that was asked of one model · why nothing can be counted |

use clip::{
    Encoder, Rate, UnitRows,
    text::{PromptTemplate, Tokenizer},
};
use serde::Serialize;

mod attack;
mod error;
mod figures;
#[cfg(test)]
mod golden;
mod linear_probe;
mod pictures;
mod retrieval;
mod test_set;
mod zero_shot;

use self::zero_shot::{ranks, top};
pub use self::{
    error::EvaluationError,
    figures::{Figures, Questions, measure},
    linear_probe::{LinearProbe, ProbeSet},
    retrieval::Retrieval,
    test_set::{TEST_BYTES_MAX, TestSet},
};
use crate::{Result, poison::Ledger};

/// Figures of one model; those of an attack are there if the ledger has it.
///
/// A test picture that the ledger has as targeted was trained on, with wrong captions: it counts
/// in the PSR alone. Without a ledger all test pictures count.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
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
    /// Targeted pictures whose target class is among the three nearest.
    pub targeted_psr_top3: Option<Rate>,
    /// Targeted pictures whose target class is among the five nearest.
    pub targeted_psr_top5: Option<Rate>,
}

/// Classes that pictures are told apart by, and who attacked them.
#[derive(Debug, Clone, Copy)]
pub struct Classes<'a> {
    /// Names of the classes of the test set and the ledger.
    pub labels: &'a [String],
    /// Their prompts, averaged.
    pub templates: &'a [PromptTemplate],
    /// What was poisoned, if anything.
    pub ledger: Option<&'a Ledger>,
}

/// The pictures that are counted, and what they show.
struct Classified<'a> {
    test: &'a TestSet,
    /// Of the pictures in the test set.
    numbers: &'a [usize],
    /// Class of each.
    classes: &'a [usize],
    /// `[N, D]`, a row for each.
    rows: &'a UnitRows,
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
    let asked = Classes { labels, templates, ledger };
    let numbers = test.counted(ledger);
    let classes = asked.check(encoder, test, &numbers)?;
    let picture = |index: usize| Ok(test.image(numbers[index]).clone());
    let rows = pictures::rows(encoder, numbers.len(), picture, on_pictures)?;
    let pictures = Classified { test, numbers: &numbers, classes: &classes, rows: &rows };
    asked.classify(encoder, tokenizer, &pictures, on_pictures)
}

impl Classes<'_> {
    /// Class of each picture of `numbers`, if the ledger fits all of them.
    fn check(
        &self,
        encoder: &dyn Encoder,
        test: &TestSet,
        numbers: &[usize],
    ) -> Result<Vec<usize>> {
        let classes = test.row_classes()?;
        if let Some(ledger) = self.ledger {
            ledger.check(self.labels, encoder.config().image.image_size(), classes)?;
        }
        Ok(numbers.iter().map(|&number| classes[test.row(number)]).collect())
    }

    fn classify(
        &self,
        encoder: &mut dyn Encoder,
        tokenizer: &Tokenizer,
        pictures: &Classified<'_>,
        on_pictures: &dyn Fn(u64),
    ) -> Result<Evaluation> {
        let labels = clip::zero_shot::label_rows(encoder, tokenizer, self.labels, self.templates)?;
        pictures::check_rows("classes", &labels)?;
        let own = ranks(pictures.rows, &labels, |picture| pictures.classes[picture]);
        let (zero_shot_top1, zero_shot_top5) = (top(&own, 1), top(&own, 5));
        let mut found = Evaluation { zero_shot_top1, zero_shot_top5, ..Evaluation::default() };
        let Some(ledger) = self.ledger else { return Ok(found) };
        if let Some(record) = &ledger.backdoor {
            let backdoor =
                attack::stamp_and_count(encoder, pictures, &labels, record, on_pictures)?;
            found.backdoor_asr = Some(backdoor.asr);
            found.asr_floor = Some(backdoor.floor);
            found.true_class_under_trigger = Some(backdoor.true_class);
        }
        if !ledger.targeted.is_empty() {
            let ranks = attack::targeted(encoder, &labels, ledger, on_pictures)?;
            found.targeted_psr = Some(top(&ranks, 1));
            found.targeted_psr_top3 = Some(top(&ranks, 3));
            found.targeted_psr_top5 = Some(top(&ranks, 5));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;

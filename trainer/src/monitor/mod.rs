//! What is watched while a run goes on: for the record, and for alarms.
//!
//! A ledger comes as far as here. A method is given a [`Survey`](crate::survey::Survey) and
//! batches, in which nothing of this is; and nothing here is given a method.
//!
//! | file | holds |
//! |---|---|
//! | `poisons` | rows of the training manifest that an experiment poisoned |
//! | `similarity` | how near the halves of clean and of poisoned pairs are |
//! | `tally` | what the steps of an epoch had in common |
//! | `alarms` · `rules` | when something is wrong · the table of that |

use clip::{
    ClipConfig,
    model::Clip,
    text::{PromptTemplate, Tokenizer},
};

use crate::{
    config::{self, Config},
    data::{Classes, Manifest},
    error::Result,
    evaluate::{Evaluation, TestSet, evaluate},
    input::reading,
    poison::Ledger,
};

mod alarms;
mod poisons;
mod rules;
mod similarity;
mod tally;

pub use self::{alarms::Alarm, tally::Tally};
pub(crate) use self::{alarms::Alarms, poisons::Poisons, similarity::Similarity};

/// Test images and, in an experiment, the ledger: for the record only.
pub(crate) struct Monitor {
    test: TestSet,
    classes: Vec<String>,
    templates: Vec<PromptTemplate>,
    ledger: Option<Ledger>,
    /// Epochs from one evaluation to the next.
    pub(crate) every_epochs: u32,
}

impl Monitor {
    /// What `[monitor]` asks for; `None` if nothing.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>> {
        let config::Monitor { test, classes, templates, ledger, every_epochs, .. } =
            &config.monitor;
        let (Some(test), Some(classes)) = (test, classes) else { return Ok(None) };
        let clip: ClipConfig = config.clip().expect("`check` refused an unknown preset");
        let (classes, side) = (clip::text::read_labels(classes)?, clip.image.image_size());
        let named = Classes::Named { labels: &classes, needed: true };
        let test = Manifest::open_as(test, &reading(config, named))?;
        let ledger = ledger.as_deref().map(Ledger::open).transpose()?;
        if let Some(ledger) = &ledger {
            ledger.check(&classes, side, &test.classes()?)?;
        }
        let templates = match templates {
            Some(path) => clip::text::read_templates(path)?,
            None => clip::text::default_templates(),
        };
        let test = TestSet::read(&test, side as u32, &|_| {})?;
        let every_epochs = every_epochs.unwrap_or(1);
        Ok(Some(Self { test, classes, templates, ledger, every_epochs }))
    }

    /// Figures of `model` as it is.
    pub(crate) fn evaluate(&self, model: &mut Clip, tokenizer: &Tokenizer) -> Result<Evaluation> {
        let Self { test, classes, templates, ledger, .. } = self;
        evaluate(model, tokenizer, test, classes, templates, ledger.as_ref(), &|_| ())
    }

    /// Poisoned rows of the run's manifest, if the ledger is of it.
    pub(crate) fn poisons(&self, config: &Config) -> Option<Poisons> {
        Poisons::of(self.ledger.as_ref()?, &config.data.manifest)
    }
}

//! All that was asked of one model.

use clip::{UnitRows, model::Clip, text::Tokenizer, zero_shot::caption_rows};
use serde::Serialize;

use super::{
    Classes, Classified, Evaluation, LinearProbe, ProbeSet, Retrieval, TestSet,
    linear_probe::linear_probe,
    pictures::{check_rows, projections},
    retrieval::{Pairs, retrieval},
};
use crate::Result;

/// Captions from one sign of progress to the next.
const CAPTIONS: usize = 256;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Questions<'a> {
    /// To tell classes apart; without, no figure needs them.
    pub classes: Option<Classes<'a>>,
    /// To find captions and pictures.
    pub retrieval: bool,
    /// To train linear probes on these; only with `classes`.
    pub probe: Option<&'a ProbeSet>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Zero-shot accuracy and attack success, if classes were given.
    #[serde(flatten)]
    pub evaluation: Option<Evaluation>,
    /// If it was asked for.
    pub linear_probe: Option<LinearProbe>,
    /// If it was asked for.
    pub retrieval: Option<Retrieval>,
}

impl Questions<'_> {
    /// Pictures and captions that [`measure`] embeds, for its progress.
    pub fn work(&self, test: &TestSet) -> u64 {
        let ledger = self.classes.and_then(|classes| classes.ledger);
        let pictures = match self.classes {
            Some(_) => test.work(ledger),
            None => test.count() as u64,
        };
        let trained = self.probe.map_or(0, ProbeSet::count);
        let captions = match self.retrieval {
            true => pairs(test, &test.counted(ledger)).texts.len(),
            false => 0,
        };
        pictures + (trained + captions) as u64
    }
}

/// Answers `questions` about `model`; `on_done` is told how many more pictures and captions are
/// embedded, [`Questions::work`] in all.
///
/// The test set must have been opened at the image tower's size. Every clean figure is over the same
/// pictures: all but those that the ledger has as targeted. Refuses a ledger that does not fit, a
/// picture that cannot be read, embeddings that are not finite, and what would take too much memory.
pub fn measure(
    model: &mut Clip,
    tokenizer: &Tokenizer,
    test: &TestSet,
    questions: &Questions<'_>,
    on_done: &dyn Fn(u64),
) -> Result<Figures> {
    let Questions { classes: asked, retrieval: finds, probe } = questions;
    let numbers = test.counted(asked.and_then(|asked| asked.ledger));
    let classes = match asked {
        Some(asked) => asked.check(model, test, &numbers)?,
        None => Vec::new(),
    };
    let picture = |index: usize| Ok(test.image(numbers[index]).clone());
    let clean = projections(model, numbers.len(), picture, on_done)?;
    let (mut evaluation, mut trained, mut found) = (None, None, None);
    if let Some(asked) = asked {
        let (numbers, classes) = (&numbers[..], &classes[..]);
        let pictures = Classified { test, numbers, classes, rows: &clean.rows };
        evaluation = Some(asked.classify(model, tokenizer, &pictures, on_done)?);
        if let Some(probe) = probe {
            let labels = asked.labels.len();
            trained = Some(linear_probe(model, probe, labels, (&clean, classes), on_done)?);
        }
    }
    if *finds {
        let pairs = pairs(test, &numbers);
        let mut texts = UnitRows::normalize(Vec::new(), clean.rows.dim());
        for captions in pairs.texts.chunks(CAPTIONS) {
            texts.extend(&caption_rows(model, tokenizer, captions)?);
            on_done(captions.len() as u64);
        }
        check_rows("captions", &texts)?;
        found = Some(retrieval(&clean.rows, &texts, &pairs)?);
    }
    Ok(Figures { evaluation, linear_probe: trained, retrieval: found })
}

/// The captions of the pictures `numbers`, which are numbered by their places there.
fn pairs(test: &TestSet, numbers: &[usize]) -> Pairs {
    let mut places = vec![None; test.count()];
    numbers.iter().enumerate().for_each(|(place, &number)| places[number] = Some(place));
    let rows = test.captions().filter_map(|(number, text)| Some((places[number]?, text)));
    Pairs::of(numbers.len(), rows)
}

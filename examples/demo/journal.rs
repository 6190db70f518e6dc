//! The trainer's `metrics.jsonl`, read while it grows.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use serde::Deserialize;

use crate::summary::Share;

/// What one epoch came to; shares of the test pictures where the trainer counted them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Epoch {
    /// Mean over the steps, in nats.
    pub(crate) loss: Option<f64>,
    pub(crate) clean_accuracy: Option<f64>,
    pub(crate) backdoor_asr: Option<f64>,
    pub(crate) targeted_psr: Option<f64>,
}

/// A metrics file up to the last line that was whole.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    offset: u64,
    /// Steps that are done.
    pub(crate) steps: u64,
    pub(crate) epochs: BTreeMap<u32, Epoch>,
}

#[derive(Deserialize)]
struct Line {
    step: u64,
    epoch: u32,
    /// Only the last line of an epoch has it, and what follows.
    epoch_loss: Option<f64>,
    evaluation: Option<Evaluation>,
}

#[derive(Deserialize)]
struct Evaluation {
    zero_shot_top1: Share,
    backdoor_asr: Option<Share>,
    targeted_psr: Option<Share>,
}

impl Journal {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, steps: 0, epochs: BTreeMap::new() }
    }

    /// Takes in the lines that were added; a file that is not there yet has none.
    pub(crate) fn read(&mut self) {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_string(&mut text)
        });
        if read.is_err() {
            return;
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        text[..whole].lines().for_each(|line| self.take(line));
    }

    fn take(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Line>(line) else { return };
        self.steps = self.steps.max(line.step);
        let Some(loss) = line.epoch_loss else { return };
        let value = |share: Option<Share>| share.map(|share| share.value);
        let evaluation = line.evaluation.as_ref();
        let epoch = Epoch {
            loss: Some(loss),
            clean_accuracy: value(evaluation.map(|evaluation| evaluation.zero_shot_top1)),
            backdoor_asr: value(evaluation.and_then(|evaluation| evaluation.backdoor_asr)),
            targeted_psr: value(evaluation.and_then(|evaluation| evaluation.targeted_psr)),
        };
        self.epochs.insert(line.epoch, epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut journal = Journal::new(file.path().to_owned());
        write!(file, "{{\"step\":10,\"epoch\":1,\"loss\":4.0}}\n{{\"step\":20,\"ep")
            .expect("written");
        journal.read();
        assert_eq!((journal.steps, journal.epochs.len()), (10, 0));
        let rate = "{\"value\":0.5,\"low\":0.1,\"high\":0.9,\"trials\":2}";
        writeln!(
            file,
            "och\":1,\"epoch_loss\":3.5,\"evaluation\":{{\"zero_shot_top1\":{rate},\"backdoor_asr\":null}}}}"
        )
        .expect("written");
        journal.read();
        let epoch = &journal.epochs[&1];
        assert_eq!((journal.steps, epoch.loss, epoch.clean_accuracy), (20, Some(3.5), Some(0.5)));
        assert_eq!(epoch.backdoor_asr, None);
    }
}

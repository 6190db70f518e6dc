//! Where records go while a run goes on: `metrics.jsonl`, one JSON object per line, and, if asked
//! for, files that TensorBoard opens.

pub mod tensorboard;

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use self::tensorboard::Events;
use crate::error::{Error, Result};

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    events: Option<Events>,
}

impl Journal {
    /// Continues after `step` updates: later lines, and a line that was cut short, are dropped. A
    /// file that is there and cannot be read is refused and left as it is.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let kept: String = match fs::read_to_string(path) {
            Ok(text) => {
                let before = |line: &&str| {
                    let line: Value = serde_json::from_str(line).unwrap_or_default();
                    line["step"].as_u64().is_some_and(|at| at <= step)
                };
                let lines = text.lines().filter(before);
                lines.flat_map(|line| [line, "\n"]).collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        clip::atomic_write::atomic_write(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, events: None })
    }

    /// Draws curves of what is recorded from now on, too.
    pub fn with_events(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// What the file holds, object by object.
    pub fn entries(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.path);
        let text = text.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Appends one object; it carries `step`, the updates done so far.
    pub fn record(&mut self, entry: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(entry).expect("plain numbers and names");
        line.push(b'\n');
        let write = self.file.write_all(&line);
        write.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Puts what was recorded on the disk: before the checkpoint that goes on after it.
    pub fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// [`Journal::record`]; the numbers in it become points of the curves `group/...`, too.
    pub fn plot(&mut self, group: &str, entry: &impl Serialize) -> Result<()> {
        self.record(entry)?;
        let Some(events) = &mut self.events else { return Ok(()) };
        events.plot(group, &serde_json::to_value(entry).expect("plain numbers and names"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resumed_journal_has_each_step_once() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        let mut journal = Journal::open(&path, 0)?;
        for step in 1..=3 {
            journal.record(&json!({ "step": step }))?;
        }
        fs::write(&path, fs::read_to_string(&path).expect("readable") + "{\"step\": 4, \"lo")
            .expect("writable");
        Journal::open(&path, 2)?.record(&json!({ "step": 3, "again": true }))?;
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"again\":true,\"step\":3}\n");
        Ok(())
    }

    #[test]
    fn a_history_that_cannot_be_read_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, b"\xff\n").expect("writable");
        let error = Journal::open(&path, 0).expect_err("no UTF-8");
        assert!(matches!(error, Error::Read { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), b"\xff\n");
    }
}

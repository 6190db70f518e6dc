//! What the terminal shows while several methods are worked on at one time.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use terminal::Progress;

/// One bar over all work, with a word on each method behind it.
#[derive(Debug)]
pub(crate) struct Board {
    progress: Progress,
    /// Method and what is being done for it.
    doing: Mutex<Vec<(String, String)>>,
    began: Instant,
}

impl Board {
    /// `work` in units of one training step; the other steps are rough equivalents.
    pub(crate) fn new(label: &str, work: u64, enabled: bool) -> Self {
        let progress = Progress::new(label, work, enabled);
        Self { progress, doing: Mutex::new(Vec::new()), began: Instant::now() }
    }

    /// `work` more is done.
    pub(crate) fn advance(&self, work: u64) {
        self.progress.step(work);
    }

    /// What `name` is at; an empty text means nothing.
    pub(crate) fn doing(&self, name: &str, text: &str) {
        let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing.retain(|(other, _)| other != name);
        if !text.is_empty() {
            doing.push((name.to_owned(), text.to_owned()));
            doing.sort();
        }
        let words: Vec<_> = doing.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        self.progress.note(words.join(" | "));
    }

    /// A line of its own that stays, with the time since the start.
    pub(crate) fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        self.progress.say(format!("[{:>2}:{:02}] {text}", seconds / 60, seconds % 60));
    }

    pub(crate) fn finish(&self) {
        self.progress.finish();
    }
}

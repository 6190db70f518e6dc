//! What a user reads when something could not be done.

use std::{error::Error, fmt};

use crate::escape_lines;

/// What could not be done, why, and what to do about it.
///
/// `Display` gives the whole form, made safe to print:
///
/// ```text
/// error: cannot train on `train.csv`
///   caused by: row 17: caption is empty
///   hint: `--bad-rows-max 0.05` trains without such rows
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    pub(crate) broken_pipe: bool,
}

impl Report {
    /// What could not be done: lower case, no final period, values in backticks.
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, causes: Vec::new(), hints: Vec::new(), broken_pipe: false }
    }

    /// The next cause, nearest first.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Something that the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same report as the cause of a larger failure.
    #[must_use]
    fn within(mut self, message: String) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, message));
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", escape_lines(&self.message, 4))?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", escape_lines(cause, 4))?;
        }
        for hint in &self.hints {
            write!(f, "\n  hint: {}", escape_lines(hint, 4))?;
        }
        Ok(())
    }
}

/// The error's own text, then its chain of sources; a text that repeats the one before is left out.
impl<E: Error> From<E> for Report {
    fn from(error: E) -> Self {
        let mut report = Self::new(error.to_string());
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if text != *report.causes.last().unwrap_or(&report.message) {
                report.causes.push(text);
            }
            source = error.source();
        }
        report
    }
}

/// Says what was being done when an error came up.
pub trait Context<T> {
    /// `message` becomes what could not be done, the error its cause.
    fn context(self, message: impl Into<String>) -> Result<T, Report>;

    /// [`Context::context`] with a message that is made only if needed.
    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T, Report>;

    /// Adds something that the user can do.
    fn hint(self, hint: impl Into<String>) -> Result<T, Report>;
}

impl<T, E: Into<Report>> Context<T> for Result<T, E> {
    fn context(self, message: impl Into<String>) -> Result<T, Report> {
        self.with_context(|| message)
    }

    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T, Report> {
        self.map_err(|error| error.into().within(message().into()))
    }

    fn hint(self, hint: impl Into<String>) -> Result<T, Report> {
        self.map_err(|error| error.into().hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot read `a.csv`")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_form_of_a_report() {
        let failed: Result<(), Outer> = Err(Outer(io::Error::other("no such disk")));
        let report = failed.context("cannot train").hint("plug it in").expect_err("it failed");
        let expected = "error: cannot train\n  caused by: cannot read `a.csv`\
                        \n  caused by: no such disk\n  hint: plug it in";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_repeated_cause_is_printed_once() {
        // io::Error::other shows the inner text and also has it as its source's text.
        let report = Report::from(io::Error::other(Outer(io::Error::other("no such disk"))));
        let expected = "error: cannot read `a.csv`\n  caused by: no such disk";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn hostile_text_cannot_pass_for_ours() {
        let report = Report::new("bad label `x\nerror: all fine\x1b[1A`").cause("a\nhint: run it");
        let expected = "error: bad label `x\n    error: all fine\\x1b[1A`\
                        \n  caused by: a\n    hint: run it";
        assert_eq!(report.to_string(), expected);
    }
}

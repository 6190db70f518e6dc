//! How a program begins and ends.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::{self, Write},
    panic::{self, PanicHookInfo},
    process::ExitCode,
};

use crate::{Report, escape, escape_lines};

/// How a program ended. A panic is 101, Ctrl-C 130, as anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and the answer is good.
    Done = 0,
    /// Done, and the answer is bad.
    Bad = 1,
    /// Could not be done as asked.
    Refused = 2,
    /// Cannot tell.
    Unknown = 3,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A program's `main`: runs `body`, prints its report if it failed, gives the exit code.
///
/// An error is [`Exit::Refused`]; a reader that closed stdout early is no error (0). A panic prints
/// one line instead of Rust's own text and ends the program with 101.
pub fn run(program: &str, body: impl FnOnce() -> Result<Exit, Report>) -> ExitCode {
    let program = program.to_owned();
    panic::set_hook(Box::new(move |panic| to_stderr(&panic_text(&program, panic))));
    match body() {
        Ok(exit) => exit.into(),
        Err(report) if report.broken_pipe => Exit::Done.into(),
        Err(report) => {
            to_stderr(&report.to_string());
            Exit::Refused.into()
        }
    }
}

/// One line of the program's result to stdout, at once; `text` is printed as it is.
///
/// Pass the error on with `?`: where the reader closed the pipe, [`run`] makes it exit code 0.
pub fn println_result(text: impl Display) -> Result<(), Report> {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// [`println_result`] of what ends with `exit`: a reader that closed the pipe early changes no
/// answer.
pub fn println_answer(text: impl Display, exit: Exit) -> Result<Exit, Report> {
    answered(println_result(text), exit)
}

fn answered(printed: Result<(), Report>, exit: Exit) -> Result<Exit, Report> {
    match printed {
        Err(report) if !report.broken_pipe => Err(report),
        _ => Ok(exit),
    }
}

/// One line for people to stderr, each line made safe to print. Hide or finish bars first, or use
/// [`crate::Progress::say`].
pub fn say(text: impl AsRef<str>) {
    to_stderr(&escape_lines(text.as_ref(), 0));
}

fn written(outcome: io::Result<()>) -> Result<(), Report> {
    outcome.map_err(|error| {
        let mut report =
            Report::new("cannot write to the standard output").cause(error.to_string());
        report.broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        report
    })
}

pub(crate) fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}"); // nobody is left to tell
}

fn panic_text(program: &str, panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place =
        panic.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
    let line = format!("error: {program} has a bug: {}{place}", escape(message));
    let backtrace = Backtrace::capture(); // empty unless RUST_BACKTRACE asks for it
    match backtrace.status() {
        BacktraceStatus::Captured => format!("{line}\n{backtrace}"),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_promise() {
        let codes = [Exit::Done, Exit::Bad, Exit::Refused, Exit::Unknown].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_full_disk() {
        let check = |kind: io::ErrorKind, broken_pipe| {
            let report = written(Err(kind.into())).expect_err("an error");
            assert_eq!(report.broken_pipe, broken_pipe, "{report}");
        };
        check(io::ErrorKind::BrokenPipe, true);
        check(io::ErrorKind::StorageFull, false);
    }

    #[test]
    fn an_answer_outlives_its_reader_but_not_a_full_disk() {
        let check = |kind: io::ErrorKind, expected: Option<Exit>| {
            assert_eq!(answered(written(Err(kind.into())), Exit::Bad).ok(), expected);
        };
        check(io::ErrorKind::BrokenPipe, Some(Exit::Bad));
        check(io::ErrorKind::StorageFull, None);
    }

    #[test]
    fn a_body_decides_the_code() {
        // ExitCode cannot be compared; its debug form shows the number.
        let check = |outcome: Result<Exit, Report>, expected: Exit| {
            let code = run("program", || outcome);
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(expected)));
        };
        check(Ok(Exit::Unknown), Exit::Unknown);
        check(Err(Report::new("refused in a test")), Exit::Refused);
        let closed = written(Err(io::ErrorKind::BrokenPipe.into())).expect_err("an error");
        check(Err(closed), Exit::Done);
        drop(panic::take_hook());
    }
}

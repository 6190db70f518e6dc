//! Quick gates, then every test, then one summary.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Failure, build,
    command::{cargo, follow, output, run},
    layering, mpi, python, say, tools,
};

/// Tests that ran, as cargo's own lines count them.
#[derive(Debug, Default, PartialEq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// What each step came to.
struct Summary {
    steps: Vec<(&'static str, bool, Duration)>,
    count: Count,
}

/// Runs all gates and, if they hold, all tests.
pub(crate) fn everything() -> Result<(), Failure> {
    tools::set_up()?;
    components()?;
    let mut summary = Summary { steps: Vec::new(), count: Count::default() };
    summary.step("format", || run(&mut cargo(&["fmt", "--all", "--check"])));
    summary.step("layering", layering::check);
    // The build script of candle-onnx and all macros are shared with the release build.
    let clippy = ["clippy", "--release", "--workspace", "--all-targets"];
    let strict = ["--", "-D", "warnings"];
    summary.step("clippy", || run(cargo(&clippy).args(strict)));
    let on_gpu = ["--features", "trainer/cuda"]; // builds on every machine
    summary.step("clippy for a GPU", || run(cargo(&clippy).args(on_gpu).args(strict)));
    if summary.holds() {
        python::LIGHT.set_up()?;
        tools::set_up_nvrtc();
        summary.step("build", build::binaries);
    }
    let lacks = mpi::lacks();
    match lacks {
        Some(lacks) => say(&format!("training by several processes is not tested: {lacks}")),
        None if summary.holds() => summary.step("mpi", mpi::check),
        None => {}
    }
    if summary.holds() {
        let others = ["test", "--release", "--workspace", "--exclude", "server", "--no-fail-fast"];
        let mut others = cargo(&others);
        match lacks {
            Some(lacks) => others.env(mpi::LACKS, lacks),
            None => others.env(mpi::PROGRAM, mpi::program()),
        };
        summary.tests("tests of the workspace", &mut others);
        let mut server = cargo(&["test", "--release", "--package", "server", "--no-fail-fast"]);
        summary.tests("tests of the server", &mut server);
    }
    summary.report()
}

/// Formatter and linter are parts of a toolchain that may be absent.
fn components() -> Result<(), Failure> {
    for (command, package) in [("fmt", "rustfmt"), ("clippy", "rust-clippy")] {
        output(&mut cargo(&[command, "--version"])).map_err(|_| {
            let name = package.trim_start_matches("rust-");
            Failure::Refused(format!(
                "this machine lacks `cargo {command}` (`rustup component add {name}`; Debian: `{package}`)"
            ))
        })?;
    }
    Ok(())
}

impl Summary {
    fn holds(&self) -> bool {
        self.steps.iter().all(|(_, good, _)| *good)
    }

    fn step(&mut self, name: &'static str, body: impl FnOnce() -> Result<(), Failure>) {
        say(&format!("=== {name}"));
        let began = Instant::now();
        let outcome = body();
        if let Err(Failure::Bad(message) | Failure::Refused(message)) = &outcome {
            say(&format!("error: {message}"));
        }
        self.steps.push((name, outcome.is_ok(), began.elapsed()));
    }

    fn tests(&mut self, name: &'static str, cargo: &mut Command) {
        say(&format!("=== {name}"));
        let began = Instant::now();
        let count = &mut self.count;
        let outcome = follow(cargo, |line| count.read(line));
        if let Err(Failure::Bad(message) | Failure::Refused(message)) = &outcome {
            say(&format!("error: {message}"));
        }
        self.steps.push((name, matches!(outcome, Ok(true)), began.elapsed()));
    }

    fn report(&self) -> Result<(), Failure> {
        say("=== summary");
        for (name, good, took) in &self.steps {
            let word = if *good { "ok" } else { "FAILED" };
            say(&format!("{name:<24} {word:<7} {:>7.1} s", took.as_secs_f64()));
        }
        let Count { passed, failed, ignored } = self.count;
        say(&format!("{passed} tests passed, {failed} failed, {ignored} ignored"));
        let bad: Vec<_> =
            self.steps.iter().filter(|(_, good, _)| !good).map(|(name, ..)| *name).collect();
        match bad.is_empty() {
            true => Ok(()),
            false => Err(Failure::Bad(format!("failed: {}", bad.join(", ")))),
        }
    }
}

impl Count {
    /// Adds what a line `test result: ok. 3 passed; 0 failed; 1 ignored; …` says; others say nothing.
    fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_the_result_lines_only() {
        let mut count = Count::default();
        for line in [
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 9 filtered out",
            "7 passed",
        ] {
            count.read(line);
        }
        assert_eq!(count, Count { passed: 5, failed: 4, ignored: 1 });
    }
}

//! The four programs as child processes: each step has a name, a log, and ends with the demo.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clip::Error;
use serde::de::DeserializeOwned;
use terminal::Report;

const NAMES: [&str; 4] = ["roclip-train", "roclip-export", "roclip-serve", "roclip-audit"];
const POLL: Duration = Duration::from_millis(150);
/// Lines of a program's error that are shown.
const ERROR_LINES_MAX: usize = 12;

/// The programs beside this one, and what all runs of them share.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    folder: PathBuf,
    cores: usize,
    /// Programs that run at one time.
    pub(crate) workers: usize,
    /// Threads of each program.
    threads: usize,
    /// Set once a step has failed: the others end early.
    stopped: Arc<AtomicBool>,
}

/// One run of one program.
#[derive(Debug)]
pub(crate) struct Job {
    /// "train `clip`": completes the sentence "cannot …".
    step: String,
    program: &'static str,
    arguments: Vec<OsString>,
    /// Exit codes that are answers, not failures.
    answers: &'static [i32],
}

impl Job {
    pub(crate) fn new(step: impl Into<String>, program: &'static str) -> Self {
        Self { step: step.into(), program, arguments: Vec::new(), answers: &[0] }
    }

    pub(crate) fn word(mut self, word: impl AsRef<OsStr>) -> Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }

    pub(crate) fn flag(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.word(flag).word(value)
    }

    pub(crate) fn flag_if(self, flag: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.flag(flag, value),
            None => self,
        }
    }

    pub(crate) fn answers(mut self, answers: &'static [i32]) -> Self {
        self.answers = answers;
        self
    }
}

impl Programs {
    /// Looks beside this program; names what is not there. `workers`: how many run at one time, which
    /// share the cores; as many as there are cores unless told.
    pub(crate) fn find(workers: Option<usize>) -> Result<Self, Report> {
        let here =
            env::current_exe().map_err(|source| Error::Read { path: "demo".into(), source })?;
        let folder = here.parent().unwrap_or(Path::new(".")).to_owned();
        let is_missing =
            |name: &&&str| !folder.join(name).with_extension(env::consts::EXE_EXTENSION).exists();
        if let Some(missing) = NAMES.iter().find(is_missing) {
            return Err(Report::new(format!("cannot find `{missing}` in `{}`", folder.display()))
                .hint("`cargo xtask demo` builds all programs first"));
        }
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let workers = workers.unwrap_or(cores);
        let threads = (cores / workers).max(1);
        Ok(Self { folder, cores, workers, threads, stopped: Arc::default() })
    }

    /// The same with twice the threads, but no more than there are cores: for what will run alone
    /// once the others are done.
    pub(crate) fn twice_as_wide(&self) -> Self {
        Self { threads: (2 * self.threads).min(self.cores), ..self.clone() }
    }

    /// What `program` is, to the bit: SHA-256 in lower-case hex.
    pub(crate) fn sha256(&self, program: &str) -> Result<String, Report> {
        Ok(clip::folder::sha256(&self.path(program))?)
    }

    fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program).with_extension(env::consts::EXE_EXTENSION)
    }

    /// Where the demo puts its results unless told otherwise: `demo` in cargo's build folder.
    pub(crate) fn default_out(&self) -> PathBuf {
        let is_build = self.folder.file_name().is_some_and(|name| name == "release");
        match self.folder.parent() {
            Some(target) if is_build => target.join("demo"),
            _ => PathBuf::from("target/demo"),
        }
    }

    /// Makes every running and every later step fail.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Starts `job`; its streams go to `LOG.out` and `LOG.log`.
    pub(crate) fn spawn(&self, job: &Job, log: &Path) -> Result<Child, Report> {
        let create = |extension: &str| {
            let path = log.with_added_extension(extension);
            File::create(&path).map_err(|source| Error::Write { path, source })
        };
        let mut command = Command::new(self.path(job.program));
        command.args(&job.arguments).env("RAYON_NUM_THREADS", self.threads.to_string());
        command.stdin(Stdio::null()).stdout(create("out")?).stderr(create("log")?);
        command.spawn().map_err(|error| {
            Report::new(format!("cannot {}", job.step))
                .cause(format!("cannot start `{}`: {error}", job.program))
        })
    }

    /// Runs `job` to the end, calling `watch` all the while; returns its exit code and its stdout.
    pub(crate) fn run(
        &self,
        job: &Job,
        log: &Path,
        mut watch: impl FnMut(),
    ) -> Result<(i32, String), Report> {
        let mut child = self.spawn(job, log)?;
        let status = loop {
            let status = child.try_wait();
            match status.map_err(|error| Report::new(format!("cannot {}: {error}", job.step)))? {
                Some(status) => break status,
                None if self.is_stopped() => {
                    let _ = child.kill(); // it may have ended by itself
                    let _ = child.wait();
                    return Err(Report::new(format!("{} was stopped", job.step)));
                }
                None => thread::sleep(POLL),
            }
            watch();
        };
        watch();
        match status.code() {
            Some(code) if job.answers.contains(&code) => {
                let path = log.with_added_extension("out");
                let out =
                    fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
                Ok((code, out))
            }
            _ => Err(failure(job, Some(status), log)),
        }
    }

    /// Like [`Programs::run`]; the stdout is one JSON document.
    pub(crate) fn json<T: DeserializeOwned>(&self, job: &Job, log: &Path) -> Result<T, Report> {
        let (_, out) = self.run(job, log, || ())?;
        serde_json::from_str(&out).map_err(|error| {
            Report::new(format!("cannot {}", job.step))
                .cause(format!("`{}` answered no JSON that the demo knows: {error}", job.program))
        })
    }
}

/// What `job` said before it failed, in its own words.
pub(crate) fn failure(job: &Job, status: Option<ExitStatus>, log: &Path) -> Report {
    let log = log.with_added_extension("log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let mut report = Report::new(format!("cannot {}", job.step));
    for line in error_lines(&text) {
        report = match line.strip_prefix("hint: ") {
            Some(hint) => report.hint(hint.to_owned()),
            None => report.cause(line.to_owned()),
        };
    }
    if let Some(status) = status {
        report = report.cause(format!("`{}` ended with {status}", job.program));
    }
    report.hint(format!("all that it said is in `{}`", log.display()))
}

/// The last `error: …` of a program and the lines that belong to it; without one, its last lines.
fn error_lines(text: &str) -> Vec<&str> {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let starts = lines.iter().rposition(|line| line.starts_with("error: "));
    let first = starts.unwrap_or(lines.len().saturating_sub(3));
    lines[first..].iter().take(ERROR_LINES_MAX).map(|line| without_mark(line)).collect()
}

fn without_mark(line: &str) -> &str {
    let marks = ["error: ", "caused by: "];
    marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_speaks_for_itself() {
        let text = "10%\nerror: cannot train\n  caused by: no rows\n  hint: add some\n";
        assert_eq!(error_lines(text), ["cannot train", "no rows", "hint: add some"]);
        assert_eq!(error_lines("a\nb\n\nc\nd"), ["b", "c", "d"]);
        assert!(error_lines("").is_empty());
    }
}

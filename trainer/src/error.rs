//! Everything that keeps a subcommand from doing what it was asked.

use std::{io, path::PathBuf};

use crate::{data::Place, evaluate::EvaluationError, not_finite::NotFinite};

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; a `Display` never repeats its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model folder, label file, image or trigger was refused.
    #[error(transparent)]
    Clip(#[from] clip::Error),
    /// candle refused an operation.
    #[error("the computation failed")]
    Candle(#[from] candle_core::Error),
    /// A file or folder could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// As the user gave it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// As the user gave it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A manifest is not what it should be.
    #[error("`{}`{at}: {problem}", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// Where in it.
        at: Place,
        /// What was found and what was expected.
        problem: String,
    },
    /// A shard, or a member of one, is not what it should be.
    #[error("`{}`{}: {problem}", shard.display(), of_member(member.as_deref()))]
    Shard {
        /// The tar.
        shard: PathBuf,
        /// Its name in the tar.
        member: Option<String>,
        /// What was found and what was expected.
        problem: String,
    },
    /// A manifest whose classes are needed does not know them all.
    #[error("`{}`: not every row has a class, which is needed here", file.display())]
    NoClass {
        /// The manifest.
        file: PathBuf,
    },
    /// A configuration contradicts itself or the data.
    #[error("`{}`: {}", file.display(), problems.join("; "))]
    Config {
        /// The run's configuration.
        file: PathBuf,
        /// Each with its key and its limits.
        problems: Vec<String>,
    },
    /// Settings of the command line make no configuration of the file.
    #[error("{}", problems.join("; "))]
    Setting {
        /// Each with its setting.
        problems: Vec<String>,
    },
    /// A ledger is not what it should be, or belongs to something else.
    #[error("ledger `{}`: {problem}", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// An attack asks for what the data cannot give.
    #[error("cannot plant the {attack}: {problem}")]
    Poison {
        /// `backdoor`, `targeted poisons`, or `attacks` for both.
        attack: &'static str,
        /// What was found and what was expected.
        problem: String,
    },
    /// A name that is no class.
    #[error("`{label}` is not a class, expected one of: {}", listed(expected))]
    UnknownClass {
        /// As it was typed.
        label: String,
        /// All classes.
        expected: Vec<String>,
    },
    /// An output folder would be overwritten.
    #[error("`{}` {problem}", path.display())]
    Occupied {
        /// As the user gave it.
        path: PathBuf,
        /// What lies there.
        problem: String,
    },
    /// A folder of results is not what it should be.
    #[error("`{}`: {problem}", path.display())]
    Results {
        /// The folder, or a file of it.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A path that must be written to a file, which holds UTF-8.
    #[error("the path `{}` is not UTF-8", path.display())]
    PathText {
        /// The path.
        path: PathBuf,
    },
    /// Test pictures, or what they are measured with, are not what they should be.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A run has come to something that is not finite.
    #[error("training diverged: {what} in epoch {epoch}, step {step}")]
    Diverged {
        /// What it is.
        what: NotFinite,
        /// Counted from 1.
        epoch: u32,
        /// Updates before it, over all epochs.
        step: u64,
    },
    /// No GPU that fits, or a build without the feature for it.
    #[error("`device` is `cuda`, but {problem}")]
    Cuda {
        /// What is missing.
        problem: String,
    },
    /// A batch for which a GPU has no memory.
    #[error(
        "a batch of {batch} does not fit: {problem}; {}",
        match fits {
            None => format!("fewer pairs may (`{key}`)"),
            Some(0) => "not even one pair would".to_owned(),
            Some(fits) => format!("one of {fits} would (`{key}`)"),
        }
    )]
    BatchMemory {
        /// The key that decides how many pairs there are at once.
        key: &'static str,
        /// Pairs that were there at once.
        batch: usize,
        /// The greatest power of two of pairs that was found to fit, if that was looked for.
        fits: Option<usize>,
        /// What the GPU lacks.
        problem: String,
    },
    /// No MPI, or a build without the feature for it.
    #[error("`parallel` is `mpi`, {problem}")]
    Mpi {
        /// What is missing.
        problem: &'static str,
    },
    /// No NCCL, or not what its ranks need to know.
    #[error("`parallel` is `nccl`, {problem}")]
    Nccl {
        /// What is missing.
        problem: String,
    },
    /// One of several processes that would each train alone.
    #[error("`{variable}` says that {processes} processes train, and this one is alone: {remedy}")]
    Launch {
        /// Of the environment.
        variable: &'static str,
        /// As the launcher says.
        processes: usize,
        /// What joins them.
        remedy: &'static str,
    },
    /// A batch that the ranks cannot share.
    #[error("`data.batch_size` must be a multiple of the {ranks} ranks, got {batch_size}")]
    UnevenBatch {
        /// Rows of one batch.
        batch_size: usize,
        /// Processes that train together.
        ranks: usize,
    },
    /// Another rank failed, and says why.
    #[error("rank {rank} failed")]
    Elsewhere {
        /// Which.
        rank: usize,
    },
    /// Two ranks do not have the same.
    #[error("rank {rank} has other {what} than rank 0")]
    Apart {
        /// The first that differs.
        rank: usize,
        /// What should be the same.
        what: &'static str,
    },
    /// The machine gives no more threads.
    #[error("cannot start the threads that train")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// A step has come to something that is not finite.
    #[error("{0}")]
    NotFinite(NotFinite),
    /// A loss trained what should rest, or left out what it should train.
    #[error(
        "parameter `{parameter}` {}",
        if *rests { "rests, yet it got a gradient" } else { "is trained, yet it got no gradient" }
    )]
    Gradient {
        /// Its name.
        parameter: String,
        /// Whether its tower rests.
        rests: bool,
    },
    /// A pool that cannot hold one batch.
    #[error(
        "the pool would hold {capacity} of {rows} rows, which is no batch of {batch_size}: lower \
         `data.batch_size` or raise the method's `{key}`"
    )]
    SmallPool {
        /// What decides it.
        key: &'static str,
        /// Rows that can be read.
        rows: usize,
        /// Rows that the pool would hold.
        capacity: usize,
        /// Rows of one batch.
        batch_size: usize,
    },
    /// A pool that holds more than half of the data: many images would meet their own captions.
    #[error(
        "the pool would hold {capacity} of {rows} rows, more than half: lower the method's \
         `{key}` or, where that is not given, `data.batch_size`"
    )]
    LargePool {
        /// What decides it.
        key: &'static str,
        /// Rows that can be read.
        rows: usize,
        /// Rows that the pool would hold.
        capacity: usize,
    },
    /// Fewer rows than one batch.
    #[error(
        "`{}` has {rows} readable rows{}, `data.batch_size` is {batch_size}",
        file.display(),
        if *capped {
            " within `data.copies_max` (1 for the sieve) and `data.same_captions_max`"
        } else {
            ""
        }
    )]
    SmallData {
        /// The manifest.
        file: PathBuf,
        /// Rows that can be read.
        rows: usize,
        /// Whether copies of pictures or captions are left out.
        capped: bool,
        /// Rows of one batch.
        batch_size: usize,
    },
    /// A sweep is to do what it has not.
    #[error("`--{option} {name}`: the sweep has no {option} of that name: {known}")]
    SweepChoice {
        /// `attack` or `method`.
        option: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A key that a sweep's commands would not share.
    #[error(
        "`{key}` is not for sweeps: their manifests have the columns `path`, `caption`, `class`"
    )]
    SweepKey {
        /// With its table.
        key: String,
    },
    /// The picture of a row, which could be read before, cannot be read again.
    #[error("`{}`, row {row}", file.display())]
    Row {
        /// The manifest.
        file: PathBuf,
        /// Counted from 0, the header not counted.
        row: u32,
        /// Why.
        source: Box<Error>,
    },
    /// Too many rows cannot be used.
    #[error(
        "{count} of {all} rows are unreadable, the limit is {:.1}% (`data.bad_rows_max`); \
         the first: {first}",
        100.0 * max
    )]
    BadRows {
        /// Rows that cannot be used.
        count: usize,
        /// All rows.
        all: usize,
        /// Share that is still trained without.
        max: f64,
        /// Some of them, each with file, row and problem.
        first: String,
    },
    /// A checkpoint cannot be continued from.
    #[error("checkpoint `{}`: {problem}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
}

impl Error {
    /// What a GPU without memory says.
    pub(crate) fn out_of_memory(&self) -> Option<&candle_core::Error> {
        match self {
            Self::Candle(error) | Self::Clip(clip::Error::Candle(error)) => Some(error),
            _ => None,
        }
        .filter(|error| clip::ops::is_out_of_memory(error))
    }
}

/// An error and its causes.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn of_member(member: Option<&str>) -> String {
    member.map(|member| format!(", member `{member}`")).unwrap_or_default()
}

/// Classes that an error lists.
const LISTED_MAX: usize = 40;

fn listed(labels: &[String]) -> String {
    let shown = labels.iter().take(LISTED_MAX).map(|label| format!("`{label}`"));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if labels.len() > LISTED_MAX {
        text += &format!(" and {} more", labels.len() - LISTED_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_batch_without_memory_is_told_in_one_line() {
        let reason = io::Error::new(io::ErrorKind::OutOfMemory, "H100 has no 512 bytes left");
        let error = Error::Clip(clip::Error::Candle(candle_core::Error::Io(reason)));
        let problem = error.out_of_memory().expect("it is").to_string();
        let check = |fits, expected: &str| {
            let (key, problem) = ("data.batch_size", problem.clone());
            let error = Error::BatchMemory { key, batch: 1000, fits, problem };
            assert_eq!(error.to_string(), expected);
        };
        let start = "a batch of 1000 does not fit: H100 has no 512 bytes left";
        check(Some(512), &format!("{start}; one of 512 would (`data.batch_size`)"));
        check(None, &format!("{start}; fewer pairs may (`data.batch_size`)"));
        check(Some(0), &format!("{start}; not even one pair would"));
        let missing = candle_core::Error::Io(io::ErrorKind::NotFound.into());
        assert!(Error::Candle(missing).out_of_memory().is_none());
    }
}

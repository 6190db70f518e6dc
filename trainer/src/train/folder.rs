//! The folder of a run: what it holds, and what an earlier run has left there.

use std::{fs, path::Path};

use super::Watch;
use crate::{
    checkpoint::{self, Checkpoint},
    config::Config,
    doubted,
    error::{Error, Result},
    skipped,
};

/// Refuses a folder that holds a run which is not to go on, or cannot.
pub(super) fn check(config: &Config, resume: bool) -> Result<()> {
    let folder = &config.output.folder;
    let refuse =
        |problem: &str| Err(Error::Occupied { path: folder.clone(), problem: problem.to_owned() });
    if folder.is_file() {
        return refuse("is a file, expected a folder");
    }
    match (folder.join(checkpoint::FILE).exists(), folder.join(MODEL).exists()) {
        (true, _) if resume => Ok(()),
        (true, _) => refuse("holds a run already: `--resume` continues it"),
        (false, true) => refuse("holds a model and no checkpoint that could be continued"),
        (false, false) => Ok(()),
    }
}

/// The checkpoint to go on from, in a folder that [`check`] has seen.
pub(super) fn open_checkpoint(
    config: &Config,
    resume: bool,
    watch: &dyn Watch,
) -> Result<Option<Checkpoint>> {
    let folder = &config.output.folder;
    if folder.join(checkpoint::FILE).exists() {
        return checkpoint::read(folder, config).map(Some);
    }
    if resume {
        watch.warn(format!("no checkpoint in `{}`: the run begins", folder.display()));
    }
    Ok(None)
}

pub(super) const RESOLVED: &str = "resolved.toml";
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const MODEL: &str = "model";
pub(super) const SUMMARY: &str = "summary.json";
/// What a run leaves in its folder.
const FILES: [&str; 7] =
    [RESOLVED, METRICS, checkpoint::FILE, MODEL, SUMMARY, doubted::FILE, skipped::FILE];

/// Removes what a killed run left half-written beside its final files.
pub(super) fn sweep(folder: &Path) -> Result<()> {
    let refuse = |source| Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_ours =
            |file: &&str| name.strip_prefix(*file).is_some_and(|rest| rest.starts_with('.'));
        if !name.ends_with(".partial") || !FILES.iter().any(is_ours) {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

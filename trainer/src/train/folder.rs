//! The folder of a run: what it holds, and what an earlier run has left there.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

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
    let has = |file: &str| folder.join(file).exists();
    match (has(checkpoint::FILE), has(MODEL)) {
        (true, _) if resume => return Ok(()),
        (true, _) => return refuse("holds a run already: `--resume` continues it"),
        (false, true) => return refuse("holds a model and no checkpoint that could be continued"),
        (false, false) => {}
    }
    // A run that was killed before its first checkpoint begins anew; without, they are of others.
    match FILES.iter().find(|file| has(file)) {
        Some(file) if !has(RESOLVED) => refuse(&format!(
            "holds `{file}` of something else, which would be overwritten: expected a new folder"
        )),
        _ => Ok(()),
    }
}

/// Keeps other runs out of the folder until what is returned is dropped; `None` where the system
/// locks no folders. Makes it, if that can be done.
pub(super) fn hold(config: &Config, resume: bool) -> Result<Option<File>> {
    let folder = &config.output.folder;
    let held = fs::create_dir_all(folder).and_then(|()| File::open(folder)).ok();
    let locked = held.as_ref().map(File::try_lock);
    if matches!(locked, Some(Err(TryLockError::WouldBlock))) {
        let problem = "is written by another run".to_owned();
        return Err(Error::Occupied { path: folder.clone(), problem });
    }
    check(config, resume)?; // another run may have come and gone since this one began
    Ok(held)
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

/// Removes what a killed run left half-written beside its final files; where a run `begins` also
/// what an earlier one had to say of its data and its end.
pub(super) fn sweep(folder: &Path, begins: bool) -> Result<()> {
    let refuse = |source| Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_ours =
            |file: &&str| name.strip_prefix(*file).is_some_and(|rest| rest.starts_with('.'));
        let is_partial = name.ends_with(".partial") && FILES.iter().any(is_ours);
        let is_old = begins && [SUMMARY, doubted::FILE, skipped::FILE].contains(&&*name);
        if !is_partial && !is_old {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_writes_into_a_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::default();
        config.output.folder = folder.path().join("run");
        let held = hold(&config, false).expect("a folder of nobody");
        assert!(held.is_some() && config.output.folder.is_dir());
        for resume in [false, true] {
            let error = hold(&config, resume).expect_err("a folder that is held").to_string();
            assert!(error.ends_with("is written by another run"), "{error}");
        }
        drop(held);
        hold(&config, false).expect("a folder that was left");
        fs::write(config.output.folder.join(checkpoint::FILE), "").expect("writable");
        let error = hold(&config, false).expect_err("a run that has been there").to_string();
        assert!(error.contains("holds a run already"), "{error}");
        hold(&config, true).expect("a run that goes on");
    }

    #[test]
    fn files_of_others_stay_and_those_of_a_run_that_was_killed_do_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::default();
        config.output.folder = folder.path().to_owned();
        let file = |name: &str| folder.path().join(name);
        for name in ["log.txt", "summary.json"] {
            fs::write(file(name), "mine").expect("writable");
        }
        let error = check(&config, false).expect_err("would overwrite").to_string();
        assert!(error.contains("holds `summary.json` of something else"), "{error}");
        for name in [RESOLVED, METRICS, "metrics.jsonl.1.partial"] {
            fs::write(file(name), "").expect("writable");
        }
        check(&config, false).expect("a run that was killed early");
        sweep(folder.path(), false).expect("writable");
        assert!(file(SUMMARY).exists() && !file("metrics.jsonl.1.partial").exists());
        sweep(folder.path(), true).expect("writable");
        assert!(!file(SUMMARY).exists() && file("log.txt").exists());
    }
}

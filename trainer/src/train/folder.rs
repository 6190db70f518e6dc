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

/// Refuses a folder that holds a run which is not to go on, or cannot, or files of something else
/// that a run would overwrite.
pub(super) fn check(config: &Config, resume: bool) -> Result<()> {
    let folder = &config.output.folder;
    let refuse =
        |problem: &str| Err(Error::Occupied { path: folder.clone(), problem: problem.to_owned() });
    if folder.is_file() {
        return refuse("is a file, expected a folder");
    }
    let has = |file: &str| folder.join(file).exists();
    if has(checkpoint::FILE) {
        let problem = "holds a run already: `--resume` continues it";
        return if resume { Ok(()) } else { refuse(problem) };
    }
    if let Some(file) = LAST.iter().find(|file| has(file)) {
        return refuse(&format!(
            "holds `{file}` and no checkpoint to go on from: expected a new folder"
        ));
    }
    // Where a run was killed before its first checkpoint, it begins anew over what it left; where
    // there is no `RESOLVED`, which it writes first, files of these names are no run's.
    match FILES.iter().find(|file| has(file) && !has(RESOLVED)) {
        Some(file) => refuse(&format!(
            "holds `{file}` of something else, which would be overwritten: expected a new folder"
        )),
        None => Ok(()),
    }
}

/// Keeps other runs out of the folder until what is returned is dropped; `None` where there is no
/// folder yet, or the system locks none.
pub(super) fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(held) = File::open(folder) else { return Ok(None) };
    match held.try_lock() {
        Ok(()) => Ok(Some(held)),
        Err(TryLockError::WouldBlock) => {
            let problem = "is written by another run".to_owned();
            Err(Error::Occupied { path: folder.to_owned(), problem })
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Makes the folder, if that can be done, and [`lock`]s it for a run that `begins` or goes on.
/// Another one may have come and gone since [`check`].
pub(super) fn hold(config: &Config, resume: bool, begins: bool) -> Result<Option<File>> {
    let folder = &config.output.folder;
    let _ = fs::create_dir_all(folder); // what is written first says why not
    let held = lock(folder)?;
    check(config, resume)?;
    if begins && folder.join(checkpoint::FILE).exists() {
        let problem = "holds a checkpoint that another run has written meanwhile".to_owned();
        return Err(Error::Occupied { path: folder.clone(), problem });
    }
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
/// What a run writes when it ends.
const LAST: [&str; 3] = [MODEL, SUMMARY, doubted::FILE];
/// What a run leaves in its folder.
const FILES: [&str; 7] =
    [RESOLVED, METRICS, checkpoint::FILE, MODEL, SUMMARY, doubted::FILE, skipped::FILE];

/// Removes what a killed run left half-written beside its final files; where a run `begins`, what an
/// earlier one had to say of its rows, too.
pub(super) fn sweep(folder: &Path, begins: bool) -> Result<()> {
    let refuse = |source| Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_ours =
            |file: &&str| name.strip_prefix(*file).is_some_and(|rest| rest.starts_with('.'));
        let is_partial = name.ends_with(".partial") && FILES.iter().any(is_ours);
        let is_old = begins && name == skipped::FILE;
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

    fn scene() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::default();
        config.output.folder = folder.path().join("run");
        (folder, config)
    }

    fn write(config: &Config, names: &[&str]) {
        fs::create_dir_all(&config.output.folder).expect("writable");
        for name in names {
            fs::write(config.output.folder.join(name), "mine").expect("writable");
        }
    }

    fn refused<T: std::fmt::Debug>(outcome: Result<T>, end: &str) {
        let error = outcome.expect_err("refused").to_string();
        assert!(error.ends_with(end), "{error}");
    }

    #[test]
    fn one_run_at_a_time_writes_into_a_folder() {
        let (_folder, config) = scene();
        assert!(lock(&config.output.folder).expect("nobody").is_none(), "there is none");
        let held = hold(&config, false, true).expect("a folder of nobody");
        assert!(held.is_some() && config.output.folder.is_dir());
        for resume in [false, true] {
            refused(hold(&config, resume, true), "is written by another run");
        }
        drop(held);
        hold(&config, false, true).expect("a folder that was left");
        write(&config, &[checkpoint::FILE]);
        refused(hold(&config, false, true), "holds a run already: `--resume` continues it");
        refused(hold(&config, true, true), "another run has written meanwhile");
        hold(&config, true, false).expect("a run that goes on");
    }

    #[test]
    fn what_a_run_would_overwrite_is_refused() {
        for (names, end) in [
            (vec!["log.txt"], None),
            (
                vec!["log.txt", METRICS],
                Some("of something else, which would be overwritten: expected a new folder"),
            ),
            (vec![RESOLVED, METRICS, skipped::FILE], None),
            (
                vec![RESOLVED, SUMMARY],
                Some("holds `summary.json` and no checkpoint to go on from: expected a new folder"),
            ),
            (
                vec![MODEL],
                Some("holds `model` and no checkpoint to go on from: expected a new folder"),
            ),
        ] {
            let (_folder, config) = scene();
            write(&config, &names);
            for resume in [false, true] {
                match end {
                    Some(end) => refused(check(&config, resume), end),
                    None => check(&config, resume).expect("nothing would be lost"),
                }
            }
        }
    }

    #[test]
    fn what_was_left_half_written_is_swept_and_files_of_others_stay() {
        let (_folder, config) = scene();
        let folder = &config.output.folder;
        let names = [RESOLVED, skipped::FILE, "metrics.jsonl.1.partial", "log.txt.1.partial"];
        write(&config, &names);
        let left = || names.map(|name| folder.join(name).exists());
        sweep(folder, false).expect("writable");
        assert_eq!(left(), [true, true, false, true]);
        sweep(folder, true).expect("writable");
        assert_eq!(left(), [true, false, false, true]);
    }
}

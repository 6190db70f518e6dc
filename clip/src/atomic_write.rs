//! Files and folders appear whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `bytes` beside `path`, syncs, renames: after a crash the old file or the new one is
/// there, never a part. Missing parent folders are made.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> Result<()> {
    let refuse = |source| Error::Write { path: path.to_owned(), source };
    atomic_file(path, |file| file.write_all(bytes).map_err(refuse))
}

/// As [`atomic_write`], for what is too long for memory: `fill` writes the file. When it fails,
/// nothing is left behind.
pub fn atomic_file<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let refuse = |source| E::from(Error::Write { path: path.to_owned(), source });
    let (beside, parent) = (beside(path), parent(path));
    fs::create_dir_all(parent).map_err(refuse)?;
    let mut file = File::create(&beside).map_err(refuse)?;
    let written = fill(&mut file).and_then(|()| {
        let placed = file.sync_all().and_then(|()| fs::rename(&beside, path));
        placed.map_err(refuse)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside); // the first error is the one to report
    }
    written?;
    sync(parent).map_err(refuse)
}

/// Lets `fill` write into a folder beside `path`, then gives it its final name in one step.
///
/// An existing folder of that name is replaced only once the new one is whole: on Linux, one of
/// them is there at every moment. Elsewhere, and on a file system that cannot exchange two folders,
/// the old one is called `NAME.PID.old.partial` for an instant before the new one has its name. When
/// `fill` fails, nothing is left behind.
pub fn atomic_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let refuse = |source| Error::Write { path: path.to_owned(), source };
    let (beside, parent) = (beside(path), parent(path));
    fs::create_dir_all(parent).map_err(refuse)?;
    let _ = fs::remove_dir_all(&beside); // left by an earlier process of this number
    fs::create_dir(&beside).map_err(refuse)?;
    let placed = fill(&beside).and_then(|()| {
        sync_tree(&beside).and_then(|()| replace(&beside, path)).map_err(|e| refuse(e).into())
    });
    if placed.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    placed?;
    sync(parent).map_err(|source| refuse(source).into())
}

/// A folder cannot be renamed over a full one: they change places, or the old one steps aside first.
fn replace(beside: &Path, path: &Path) -> io::Result<()> {
    if !path.exists() {
        return fs::rename(beside, path);
    }
    if exchange(beside, path) {
        sync(parent(path))?; // the new name is on the disk before the old files are gone
        let _ = fs::remove_dir_all(beside); // what is left of the old one fails nothing
        return Ok(());
    }
    step_aside(beside, path)
}

fn step_aside(beside: &Path, path: &Path) -> io::Result<()> {
    let aside = path.with_added_extension(format!("{}.old.partial", std::process::id()));
    fs::rename(path, &aside)?;
    if let Err(error) = fs::rename(beside, path) {
        fs::rename(&aside, path)?;
        return Err(error);
    }
    fs::remove_dir_all(&aside)
}

/// Lets two folders change places in one step; whether they did.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all() // a rename reaches the disk with its folder
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_have_its_name_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        fs::create_dir(&path).expect("a new folder");
        fs::write(path.join("inside"), b"old").expect("written");
        let error = atomic_write(&path, b"new").expect_err("a folder has that name").to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        assert_eq!(fs::read(path.join("inside")).expect("as before"), b"old");
        assert_eq!(fs::read_dir(&folder).expect("readable").count(), 1, "no part is left");
    }

    #[test]
    fn a_failed_fill_leaves_the_old_folder_and_nothing_else() -> Result<()> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let model = root.path().join("model");
        atomic_folder(&model, |folder| atomic_write(&folder.join("a"), b"old"))?;
        let failed = atomic_folder(&model, |folder| -> Result<()> {
            atomic_write(&folder.join("a"), b"new")?;
            Err(Error::Runtime("refused".into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(model.join("a")).expect("still there"), b"old");
        assert_eq!(fs::read_dir(root.path()).expect("readable").count(), 1);
        atomic_folder(&model, |folder| atomic_write(&folder.join("b"), b"new"))?;
        assert!(!model.join("a").exists() && model.join("b").exists());
        assert_eq!(fs::read_dir(root.path()).expect("readable").count(), 1);
        Ok(())
    }

    /// What a process killed at any moment would leave.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_whole_folder_is_there_at_every_moment() -> Result<()> {
        use std::{
            collections::BTreeSet,
            os::unix::fs::MetadataExt,
            sync::atomic::{AtomicBool, Ordering},
            thread,
        };
        const REPLACEMENTS: usize = 300;
        let root = tempfile::tempdir().expect("a temporary folder");
        let model = root.path().join("model");
        let write = |number: usize| {
            atomic_folder(&model, |folder| {
                atomic_write(&folder.join("number"), number.to_string().as_bytes())
            })
        };
        write(0)?;
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !is_over.load(Ordering::Relaxed) {
                    let folder = File::open(&model).expect("the folder is there");
                    seen.insert(folder.metadata().expect("readable").ino());
                }
                seen.len()
            });
            let written = (1..=REPLACEMENTS).try_for_each(write);
            is_over.store(true, Ordering::Relaxed);
            let seen = watcher.join().expect("the watcher saw a folder each time");
            assert!(seen > 1, "the watcher looked while folders were replaced");
            written
        })
    }

    #[test]
    fn without_an_exchange_the_old_one_steps_aside() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let [old, new] = ["old", "new"].map(|name| root.path().join(name));
        for (folder, file) in [(&old, "a"), (&new, "b")] {
            fs::create_dir(folder).and_then(|()| fs::write(folder.join(file), b"")).expect("made");
        }
        step_aside(&new, &old).expect("both are there");
        assert!(old.join("b").exists() && !old.join("a").exists());
        assert_eq!(fs::read_dir(root.path()).expect("readable").count(), 1);
    }
}

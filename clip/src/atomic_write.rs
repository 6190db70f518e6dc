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
    let parent = parent(path);
    let write = || -> io::Result<()> {
        fs::create_dir_all(parent)?;
        let beside = beside(path);
        let written = File::create(&beside)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&beside); // the first error is the one to report
            return Err(error);
        }
        sync(parent)
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Lets `fill` write into a folder beside `path`, then gives it its final name in one step.
///
/// An existing folder of that name is replaced only once the new one is whole. When `fill` fails,
/// nothing is left behind.
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

/// A folder cannot be renamed over a full one: the old one steps aside first.
fn replace(beside: &Path, path: &Path) -> io::Result<()> {
    if !path.exists() {
        return fs::rename(beside, path);
    }
    let aside = path.with_added_extension(format!("{}.old.partial", std::process::id()));
    fs::rename(path, &aside)?;
    if let Err(error) = fs::rename(beside, path) {
        fs::rename(&aside, path)?;
        return Err(error);
    }
    fs::remove_dir_all(&aside)
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
        Ok(())
    }
}

//! Tar shards in WebDataset's form: a sample is the members of one key, `KEY.jpg` and `KEY.txt`.
//!
//! A row is a range of a file: opening a shard walks its headers once and reads its captions;
//! pictures stay where they are until they are asked for. So rows of shards are like rows of tables
//! to whatever comes later, and neither memory nor order depends on the form.
//!
//! | file | holds |
//! |---|---|
//! | `brace` | `train-{000..012}.tar` and the names that it stands for |
//! | `gz` | what is compressed cannot be read in the middle: it is unpacked once |
//! | `walk` · `samples` | the members of a tar · what belongs together |
//! | `writer` | a shard of one's own |

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use super::{Reading, image::Shard, manifest::Listed};
use crate::error::{Error, Result};

mod brace;
mod gz;
mod samples;
mod walk;
mod writer;

pub use writer::ShardWriter;

/// What a shard's name ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `.tar`
    Tar,
    /// `.tar.gz` or `.tgz`
    Gzip,
}

impl Kind {
    /// `None` if it is no shard's name.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let ends = |ending| name.ends_with(ending);
        match () {
            () if ends(".tar") => Some(Self::Tar),
            () if ends(".tar.gz") || ends(".tgz") => Some(Self::Gzip),
            () => None,
        }
    }
}

/// Rows of all shards that `path` stands for, in the order of their names and members.
///
/// Refuses, naming shard and member: an empty range, a shard that is missing, cut short or no tar.
/// Skips a sample that is not whole.
pub(super) fn rows(path: &Path, kind: Kind, reading: &Reading) -> Result<Vec<Listed>> {
    let paths = names(path)?;
    for path in &paths {
        fs::metadata(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    }
    let open = |path: &PathBuf| {
        let tar = match kind {
            Kind::Tar => path.clone(),
            Kind::Gzip => gz::unpacked(path, reading.cache_folder.as_deref())?,
        };
        samples::rows(&Arc::new(Shard { path: path.clone(), tar }), reading)
    };
    let opened: Vec<Result<Vec<Listed>>> = paths.par_iter().map(open).collect();
    let mut rows = Vec::new();
    for opened in opened {
        let before = rows.len() as u32;
        rows.extend(opened?.into_iter().map(|row| {
            row.map_err(|mut skipped| {
                skipped.row += before;
                skipped
            })
        }));
    }
    Ok(rows)
}

/// The files that a name stands for: itself, if there is such a file.
fn names(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_str().filter(|text| text.contains('{') && !path.exists());
    let Some(text) = text else { return Ok(vec![path.to_owned()]) };
    let refuse = |problem| Error::Shard { shard: path.to_owned(), member: None, problem };
    let names = brace::expand(text).map_err(refuse)?;
    Ok(names.into_iter().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests;

//! Tables of pictures and captions, and what they are read from.
//!
//! | file | holds |
//! |---|---|
//! | `listing` | rows that can be used, and rows that are skipped |
//! | `columns` | which column is which, and what a row is made of |
//! | `csv` · `parquet` | one format of tables each |
//!
//! Tar shards are read by [`super::shards`].

use std::path::{Path, PathBuf};

use ::csv::Writer;

use super::{Classes, Row, shards::Kind};
use crate::{Error, Result};

mod columns;
mod csv;
mod listing;
mod parquet;

use self::columns::Columns;
pub(super) use self::listing::Listed;
pub use self::{
    columns::Keys,
    listing::{Listing, Skipped},
};

/// Rows of captioned pictures, for those who need every one of them: training can do without some,
/// see [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The file, or the name of several shards, as the user gave it.
    pub path: PathBuf,
    /// At least one. A row's *number* is its index here: the first after the header is 0.
    pub rows: Vec<Row>,
}

/// How a manifest is read.
#[derive(Debug, Clone, Default)]
pub struct Reading<'a> {
    /// Which columns.
    pub keys: Keys<'a>,
    /// What is said of classes.
    pub classes: Classes<'a>,
    /// Folder in which compressed shards are unpacked; without, they are refused.
    pub cache_folder: Option<PathBuf>,
}

impl Manifest {
    /// Reads and checks all rows, from what the end of the name says: `.tsv`, `.parquet`, tar shards
    /// (`.tar`, `.tar.gz`, `.tgz`, with ranges as in `{000..012}`), else CSV. Pictures are not
    /// opened. Every refusal names its file and line, row or member.
    ///
    /// With the default columns; class fields that hold names instead of indexes are no class here:
    /// see [`Manifest::open_classed`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, &Reading::default())
    }

    /// As [`Manifest::open`], with every class field a label or the index of one (a label that
    /// looks like a number is a label first). Empty fields and a missing column are refused if
    /// classes are `needed`.
    pub fn open_classed(path: &Path, labels: &[String], needed: bool) -> Result<Self> {
        let classes = Classes::Named { labels, needed };
        Self::open_as(path, &Reading { classes, ..Reading::default() })
    }

    /// As [`Manifest::open`], with columns, classes and a folder for unpacking as they are given.
    pub fn open_as(path: &Path, reading: &Reading) -> Result<Self> {
        Listing::open(path, reading)?.complete()
    }

    /// The files that say what its rows are: the manifest itself, or its shards.
    pub fn files(&self) -> Vec<&Path> {
        if !self.is_sharded() {
            return vec![&self.path];
        }
        let mut shards: Vec<&Path> = self.rows.iter().map(|row| row.image.container()).collect();
        shards.dedup();
        shards
    }

    /// Are its pictures members of shards?
    pub fn is_sharded(&self) -> bool {
        Self::names_shards(&self.path)
    }

    /// Is it the name of shards, and not of a table?
    pub fn names_shards(path: &Path) -> bool {
        Kind::of(path).is_some()
    }

    /// The bytes of a manifest. `path` is written as it is: relative to the folder that the
    /// manifest will lie in, or absolute. The class column is there if the first row has a class.
    ///
    /// A path that is not UTF-8 is refused. Panics if a picture is no file of its own.
    pub fn to_csv<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Result<Vec<u8>> {
        let mut rows = rows.into_iter().peekable();
        let classed = rows.peek().is_some_and(|row| row.class.is_some());
        let mut writer = Writer::from_writer(Vec::new());
        let memory = "memory takes every record of the header's width";
        let header: &[&str] =
            if classed { &["path", "caption", "class"] } else { &["path", "caption"] };
        writer.write_record(header).expect(memory);
        for row in rows {
            let file = row.image.file().expect("members of shards are never written to a manifest");
            let refuse = || Error::PathText { path: file.to_owned() };
            let path = file.to_str().ok_or_else(refuse)?;
            let class = row.class.map(|class| class.to_string()).unwrap_or_default();
            let fields = [path, &row.caption, &class];
            writer.write_record(&fields[..header.len()]).expect(memory);
        }
        Ok(writer.into_inner().expect("memory can always be flushed"))
    }

    /// Class of each row; refuses a row without.
    pub fn classes(&self) -> Result<Vec<usize>> {
        let class = |row: &Row| row.class.ok_or_else(|| Error::NoClass { file: self.path.clone() });
        self.rows.iter().map(class).collect()
    }

    /// Do all rows have a class?
    pub fn has_classes(&self) -> bool {
        self.rows.iter().all(|row| row.class.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() -> Result<()> {
        let row = |path: &str, caption: &str, class| Row {
            image: path.into(),
            caption: caption.into(),
            class,
        };
        for classes in [[Some(3), Some(0)], [None, None]] {
            let rows = [row("/a b.png", "x, \"y\"\nz", classes[0]), row("/ö.png", "1", classes[1])];
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("train.csv");
            std::fs::write(&path, Manifest::to_csv(&rows)?).expect("written");
            assert_eq!(Manifest::open(&path)?.rows, rows);
        }
        Ok(())
    }
}

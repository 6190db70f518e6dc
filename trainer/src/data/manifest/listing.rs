//! What a manifest lists: rows that can be used, and rows that are skipped.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{Manifest, Reading, csv, parquet};
use crate::{
    data::{
        Row,
        shards::{self, Kind},
    },
    error::{Error, Result, one_line},
};

/// A row as a reader finds it.
pub(in crate::data) type Listed = Result<Row, Box<Skipped>>;

/// The rows of a manifest, of which some cannot be used: for training, which goes on without them.
/// Whoever needs every row opens a [`Manifest`].
#[derive(Debug)]
pub struct Listing {
    pub(in crate::data) path: PathBuf,
    /// At least one; each has the number that it has in a [`Manifest`], whatever is beside it.
    pub(in crate::data) rows: Vec<Listed>,
}

/// A row that cannot be used, and is trained without. Printed, it is one line with its file and its
/// number.
#[derive(Debug)]
pub struct Skipped {
    /// Counted from 0
    pub row: u32,
    /// The table or the shard
    pub file: PathBuf,
    /// Its picture, or the member of a shard that is not what it should be; empty if that is not
    /// known
    pub path: String,
    /// Rows that it counts as: its lines in a CSV, as a quote that is not closed hides so many
    pub rows: usize,
    /// Why
    pub problem: Error,
}

impl Listing {
    /// As [`Manifest::open_as`], except that a row which cannot be used is no error.
    pub fn open(path: &Path, reading: &Reading) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let rows = match Kind::of(path) {
            Some(kind) => shards::rows(path, kind, reading)?,
            None if name.ends_with(".parquet") => parquet::rows(path, reading)?,
            None if name.ends_with(".tsv") => csv::rows(path, b'\t', reading)?,
            None => csv::rows(path, b',', reading)?,
        };
        Ok(Self { path: path.to_owned(), rows })
    }

    /// Refuses the first row that cannot be used.
    pub fn complete(self) -> Result<Manifest> {
        let rows = self.rows.into_iter().map(|row| row.map_err(|skipped| skipped.problem));
        Ok(Manifest { path: self.path, rows: rows.collect::<Result<_>>()? })
    }

    /// How many rows there are.
    pub fn all(&self) -> usize {
        self.rows.len()
    }

    /// Those that cannot be used, as far as that is known without their pictures.
    pub(in crate::data) fn skipped(&self) -> impl Iterator<Item = &Skipped> + Clone {
        self.rows.iter().filter_map(|row| row.as_ref().err().map(|bad| &**bad))
    }

    /// How many of them can be used, as far as that is known without their pictures.
    pub fn usable(&self) -> usize {
        self.usable_rows().count()
    }

    /// The numbers of those.
    pub fn usable_rows(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().enumerate().filter(|(_, row)| row.is_ok()).map(|(number, _)| number)
    }
}

impl From<Manifest> for Listing {
    fn from(Manifest { path, rows }: Manifest) -> Self {
        Self { path, rows: rows.into_iter().map(Ok).collect() }
    }
}

impl Skipped {
    /// The first of them, at most `max`, in one line.
    pub(crate) fn first<'a>(skipped: impl IntoIterator<Item = &'a Self>, max: usize) -> String {
        let first = skipped.into_iter().take(max).map(ToString::to_string);
        first.collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, file, problem, .. } = self;
        let text = one_line(problem);
        match problem {
            Error::Manifest { .. } => f.write_str(&text), // which names both
            Error::Shard { .. } => write!(f, "row {row}: {text}"), // which names its shard
            _ => write!(f, "`{}`, row {row}: {text}", file.display()),
        }
    }
}

//! `[data]`

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Problems};

/// `[data]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Table of pictures and captions, `.csv`, `.tsv` or `.parquet`; or tar shards, `.tar` or
    /// `.tar.gz`, several as in `train-{000..012}.tar`
    pub manifest: PathBuf,
    /// Column of the paths of pictures; unless given, `path`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_key: Option<String>,
    /// Column of captions, and their key in a sample's `.json`; unless given, `caption`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption_key: Option<String>,
    /// Column of classes; unless given, `class`, where there is one
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_key: Option<String>,
    /// Folder in which `.tar.gz` shards are unpacked, each once; unless given, `shard-cache` beside
    /// `output.folder`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_folder: Option<PathBuf>,
    /// Pairs in one update of all ranks together, at least 2
    pub batch_size: usize,
    /// Threads that decode, augment and tokenize, at least 1
    pub workers: usize,
    /// Share of rows that cannot be used and are trained without, 0 to 1
    pub bad_rows_max: f64,
    /// Of pairs whose pictures are nearly the same, how many an epoch trains on, drawn anew each
    /// time, at least 1; unless given, all, and for `sieve` without a pool one
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies_max: Option<usize>,
    /// The same of pairs whose captions have the same words, case aside; unless given, all
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_captions_max: Option<usize>,
    /// Decoded images are kept in memory up to this many MiB; the rest is decoded in each epoch
    pub cache_mib: usize,
}

impl Default for Data {
    fn default() -> Self {
        let workers =
            std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        Self {
            manifest: PathBuf::new(),
            image_key: None,
            caption_key: None,
            class_key: None,
            cache_folder: None,
            batch_size: 64,
            workers,
            bad_rows_max: 0.01,
            copies_max: None,
            same_captions_max: None,
            cache_mib: 2048,
        }
    }
}

/// Most threads that a loader may start.
const WORKERS_MAX: usize = 256;
/// Most pairs of one batch.
const BATCH_MAX: usize = 1 << 20;

impl Data {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.require(!self.manifest.as_os_str().is_empty(), "data.manifest", "given");
        let batch = (2..=BATCH_MAX).contains(&self.batch_size);
        problems.require(batch, "data.batch_size", "between 2 and 1048576");
        let workers = (1..=WORKERS_MAX).contains(&self.workers);
        problems.require(workers, "data.workers", "between 1 and 256");
        let share = (0.0..=1.0).contains(&self.bad_rows_max); // false for NaN
        problems.require(share, "data.bad_rows_max", "between 0 and 1");
        problems.require(self.copies_max != Some(0), "data.copies_max", "at least 1");
        let captions = self.same_captions_max != Some(0);
        problems.require(captions, "data.same_captions_max", "at least 1");
    }
}

impl Config {
    /// Where compressed shards are unpacked.
    pub fn cache_folder(&self) -> PathBuf {
        let beside = || self.output.folder.parent().unwrap_or(Path::new("")).join("shard-cache");
        self.data.cache_folder.clone().unwrap_or_else(beside)
    }
}

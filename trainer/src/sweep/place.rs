//! Names of files in a sweep's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::poison::names;

/// The folder of a sweep.
#[derive(Debug, Clone)]
pub struct Place {
    /// Absolute.
    pub folder: PathBuf,
}

impl Place {
    /// File by which a folder is known as a sweep's: its recipe, but for the seeds.
    pub const RECIPE: &str = "recipe.json";
    /// One line for each cell that is done.
    pub const RESULTS: &str = "results.jsonl";

    /// Does a sweep lie in `folder`?
    pub fn is_sweep(folder: &Path) -> bool {
        folder.join(Self::RECIPE).is_file()
    }

    /// Whether nothing lies in the folder but what a sweep puts there before its recipe.
    pub(super) fn is_new(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.folder) else { return true };
        let half = format!("{}.", Self::RECIPE); // written in part
        entries.flatten().all(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            self.lock().ends_with(&name) || name.starts_with(&half)
        })
    }

    /// [`Place::RECIPE`].
    pub fn recipe(&self) -> PathBuf {
        self.folder.join(Self::RECIPE)
    }

    /// [`Place::RESULTS`].
    pub fn results(&self) -> PathBuf {
        self.folder.join(Self::RESULTS)
    }

    /// The tables, for programs.
    pub fn summary_json(&self) -> PathBuf {
        self.folder.join("summary.json")
    }

    /// The tables, for people.
    pub fn summary_md(&self) -> PathBuf {
        self.folder.join("summary.md")
    }

    /// Held by the sweep that is at work here.
    pub(super) fn lock(&self) -> PathBuf {
        self.folder.join("sweep.lock")
    }

    /// What `poison` makes for an attack and a seed.
    pub fn poisoned(&self, name: &str) -> PathBuf {
        self.folder.join("poisoned").join(name)
    }

    /// Everything of one cell.
    pub fn cell(&self, name: &str) -> PathBuf {
        self.folder.join("cells").join(name)
    }

    /// The folder of a cell's run.
    pub fn run(&self, cell: &str) -> PathBuf {
        self.cell(cell).join("run")
    }

    /// The model of a cell's run.
    pub(super) fn model(&self, cell: &str) -> PathBuf {
        self.run(cell).join("model")
    }

    /// The ledger of a poisoned set.
    pub fn ledger(&self, name: &str) -> PathBuf {
        self.poisoned(name).join(names::LEDGER)
    }

    /// The manifest of a set that was poisoned, made of a clean one.
    pub(super) fn manifest(&self, name: &str, clean: &Path) -> PathBuf {
        self.poisoned(name).join(names::made_of(clean))
    }
}

/// Part of a file name: what might mean something else there becomes `_`.
pub(super) fn file_name(parts: &[String]) -> String {
    let fits = |symbol: char| symbol.is_ascii_alphanumeric() || "_.+=-".contains(symbol);
    let safe = |symbol: char| if fits(symbol) { symbol } else { '_' };
    let parts = parts.iter().filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.map(|part| part.chars().map(safe).collect()).collect();
    parts.join("-")
}

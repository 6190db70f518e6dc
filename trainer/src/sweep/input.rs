//! What the cells of one seed read, opened once so that no cell fails for want of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clip::text::{open_templates, read_labels, read_templates};
use toml::Value;

use super::recipe::Recipe;
use crate::{
    config::absolute,
    data::{Listing, Manifest, Reading},
    error::{Error, Result, one_line},
    evaluate::ProbeSet,
};

/// The test set of a seed.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) seed: u64,
    pub(super) test: PathBuf,
    pub(super) classes: PathBuf,
    /// A file, or the name of a set of templates.
    pub(super) templates: Option<PathBuf>,
    pub(super) probe_train: Option<PathBuf>,
    pub(super) labels: Vec<String>,
}

impl Input {
    /// Opens what `[evaluate]` names for `seed`.
    pub(super) fn open(recipe: &Recipe, seed: u64) -> Result<Self> {
        let asked = &recipe.evaluate;
        let path = |text: &String| file(recipe, text, seed);
        let (test, classes) = (path(&asked.test)?, path(&asked.classes)?);
        let probe_train = asked.probe_train.as_ref().map(path).transpose()?;
        let templates = match &asked.templates {
            None => None,
            Some(name) if name == "imagenet" => Some(PathBuf::from(name)),
            Some(name) => Some(path(name)?),
        };
        let labels = told(recipe, "evaluate.classes", read_labels(&classes).map_err(Error::from))?;
        let opened = Manifest::open_classed(&test, &labels, true);
        let manifest = told(recipe, "evaluate.test", opened)?;
        if let Some(name) = &templates {
            let opened = match asked.every_epochs {
                Some(_) => read_templates(name), // as `[monitor]` does
                None => open_templates(name),
            };
            told(recipe, "evaluate.templates", opened.map_err(Error::from))?;
        }
        if let Some(path) = &probe_train {
            let opened = Manifest::open_classed(path, &labels, true);
            let opened = opened.and_then(|train| ProbeSet::new(train, &manifest));
            told(recipe, "evaluate.probe_train", opened)?;
        }
        Ok(Self { seed, test, classes, templates, probe_train, labels })
    }
}

/// Rows of each manifest that was opened and is trained on, those left out that a run would skip.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<PathBuf, usize>);

impl Rows {
    pub(super) fn of(&mut self, manifest: &Path) -> Result<usize> {
        if let Some(rows) = self.0.get(manifest) {
            return Ok(*rows);
        }
        let rows = Listing::open(manifest, &Reading::default())?.usable();
        self.0.insert(manifest.to_owned(), rows);
        Ok(rows)
    }
}

/// A path of the recipe, absolute.
pub(super) fn file(recipe: &Recipe, text: &str, seed: u64) -> Result<PathBuf> {
    absolute(&recipe.folder.join(seeded_text(text, seed)))
}

fn seeded_text(text: &str, seed: u64) -> String {
    text.replace("{seed}", &seed.to_string())
}

/// `value` with the seed in the place of `{seed}`.
pub(super) fn seeded(value: &Value, seed: u64) -> Value {
    match value {
        Value::String(text) => Value::String(seeded_text(text, seed)),
        Value::Array(values) => {
            Value::Array(values.iter().map(|value| seeded(value, seed)).collect())
        }
        Value::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.clone(), seeded(value, seed)));
            Value::Table(pairs.collect())
        }
        other => other.clone(),
    }
}

/// Names the file of the sweep and the key, or whatever else led to an error.
pub(super) fn told<T>(recipe: &Recipe, key: &str, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| recipe.refuse(format!("`{key}`: {}", one_line(&error))))
}

//! Folders of sweeps and of runs.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clip::Rate;
use serde_json::{Map, Value};

use super::history::History;
use crate::{
    config::Config,
    error::{Error, Result},
    sweep::{self, CellResult, Doubt, Place, Stopped},
};

/// One run, or a control that stopped.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) attack: String,
    pub(super) method: String,
    /// `pool_share=0.2`, or nothing
    pub(super) point: String,
    pub(super) seed: u64,
    pub(super) history: History,
    pub(super) rates: BTreeMap<String, Rate>,
    pub(super) stopped: Option<Stopped>,
    pub(super) doubted: Option<BTreeMap<String, Doubt>>,
    pub(super) train_seconds: Option<f64>,
    pub(super) ledger: Option<PathBuf>,
}

/// What lies in one folder.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) title: String,
    pub(super) is_sweep: bool,
    /// Sorted: attacks, methods and points side by side, seeds rising.
    pub(super) entries: Vec<Entry>,
}

impl Source {
    /// Opens a folder of either kind; refuses one without results.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let refuse = |problem: &str| {
            Err(Error::Results { path: folder.to_owned(), problem: problem.into() })
        };
        let is_sweep = Place::is_sweep(folder);
        let entries = match (is_sweep, journal(folder).is_file()) {
            (true, _) => of_sweep(folder)?,
            (false, true) => vec![of_run(folder)?],
            (false, false) if !folder.is_dir() => return refuse("there is no such folder"),
            (false, false) => {
                return refuse("holds neither a sweep (recipe.json) nor a run (metrics.jsonl)");
            }
        };
        if entries.is_empty() {
            return refuse("no cell of this sweep is done yet");
        }
        Ok(Self { title: name(folder), is_sweep, entries })
    }
}

fn journal(run: &Path) -> PathBuf {
    run.join("metrics.jsonl")
}

/// The last part of a path, also of `.` and `..`.
fn whole(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

fn name(folder: &Path) -> String {
    whole(folder).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn of_sweep(folder: &Path) -> Result<Vec<Entry>> {
    let place = Place { folder: folder.to_owned() };
    let mut results = sweep::load(&place)?;
    let recipe = json(&place.recipe())?;
    let order = |key: &str| -> Vec<String> {
        let names = recipe[key].as_array().into_iter().flatten();
        names.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let (attacks, methods) = (order("attack"), order("method"));
    let at = |names: &[String], name: &String| names.iter().position(|known| known == name);
    results.sort_by(|a, b| {
        let key = |one: &CellResult| (at(&attacks, &one.attack), at(&methods, &one.method));
        key(a).cmp(&key(b)).then_with(|| compare(&a.grid, &b.grid)).then(a.seed.cmp(&b.seed))
    });
    results.into_iter().map(|result| of_cell(&place, result)).collect()
}

fn of_cell(place: &Place, result: CellResult) -> Result<Entry> {
    let run = place.run(&result.cell);
    let history = match journal(&run) {
        path if path.is_file() => History::open(&path)?,
        _ => History::default(), // of a control that stops, or no longer there
    };
    let ledger = resolved(&run).and_then(|config| ledger(&config));
    let CellResult { attack, method, seed, rates, stopped, doubted, train_seconds, .. } = result;
    let point = short(&result.grid);
    let measured = Entry { rates, stopped, doubted, train_seconds, ..Entry::default() };
    Ok(Entry { attack, method, point, seed, history, ledger, ..measured })
}

fn of_run(folder: &Path) -> Result<Entry> {
    let history = History::open(&journal(folder))?;
    if history.metrics.is_empty() {
        let problem = "no epoch and no step is recorded in its metrics.jsonl".to_owned();
        return Err(Error::Results { path: folder.to_owned(), problem });
    }
    let config = resolved(folder);
    let summary = json(&folder.join("summary.json")).unwrap_or_default(); // of a finished run
    let last = summary["evaluation"].as_object();
    let rates = last.into_iter().flatten().filter_map(|(name, rate)| {
        Some((name.clone(), serde_json::from_value::<Rate>(rate.clone()).ok()?))
    });
    Ok(Entry {
        method: whole(folder).to_string_lossy().into_owned(),
        seed: config.as_ref().map_or(0, |config| config.seed),
        ledger: config.as_ref().and_then(ledger),
        rates: rates.collect(),
        train_seconds: summary["train_seconds"].as_f64(),
        history,
        ..Entry::default()
    })
}

fn resolved(run: &Path) -> Option<Config> {
    toml::from_str(&fs::read_to_string(run.join("resolved.toml")).ok()?).ok()
}

/// The ledger that is watched, or that lies beside the manifest.
fn ledger(config: &Config) -> Option<PathBuf> {
    let beside = config.data.manifest.with_file_name(crate::poison::names::LEDGER);
    config.monitor.ledger.clone().or(Some(beside)).filter(|path| path.is_file())
}

fn json(path: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let refuse = |error: serde_json::Error| Error::Results {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    serde_json::from_str(&text).map_err(refuse)
}

/// `pool_share=0.2 epochs=8`
fn short(grid: &Map<String, Value>) -> String {
    let pairs = grid.iter().map(|(key, value)| {
        let name = key.rsplit('.').next().unwrap_or(key);
        format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

/// Numbers by what they are, all else by how it is written.
fn compare(a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    let one = |(a, b): (&Value, &Value)| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.to_string().cmp(&b.to_string()),
    };
    let pairs = a.values().zip(b.values());
    pairs.map(one).find(|order| order.is_ne()).unwrap_or(a.len().cmp(&b.len()))
}

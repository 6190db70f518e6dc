//! Runs that differ in their seed alone, and how they look on a page.

use std::collections::BTreeMap;

use clip::Rate;
use page::chart::{Look, Phase, Phases};

use super::source::Entry;
use crate::sweep::{Doubt, Spread};

/// Seeds from which an interval is that of their mean.
const SEEDS_MIN: usize = 3;

/// The seeds of one attack, method and point of a grid.
#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) look: Look,
    pub(super) entries: Vec<&'a Entry>,
}

/// A rate over seeds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) mean: f64,
    pub(super) interval: (f64, f64),
    pub(super) each: Vec<Option<f64>>,
}

impl<'a> Series<'a> {
    /// Groups entries that lie side by side. A method has its color everywhere; its points differ
    /// in their form.
    pub(super) fn of(entries: &'a [Entry]) -> Vec<Self> {
        let mut methods: Vec<&str> = Vec::new();
        let mut points: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for entry in entries {
            if !methods.contains(&&*entry.method) {
                methods.push(&entry.method);
            }
            let known = points.entry(&entry.method).or_default();
            if !known.contains(&&*entry.point) {
                known.push(&entry.point);
            }
        }
        let look = |entry: &Entry| {
            let at = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
            let color = at(&methods, &entry.method).unwrap_or(0);
            let known = points.get(&*entry.method).map_or(&[][..], |known| known);
            let form = if known.len() > 1 { at(known, &entry.point).unwrap_or(0) } else { color };
            Look { color, form }
        };
        let is_same = |a: &Entry, b: &Entry| {
            (&a.attack, &a.method, &a.point) == (&b.attack, &b.method, &b.point)
        };
        let groups = entries.chunk_by(is_same);
        groups
            .map(|group| Self { look: look(&group[0]), entries: group.iter().collect() })
            .collect()
    }

    pub(super) fn attack(&self) -> &'a str {
        &self.entries[0].attack
    }

    pub(super) fn method(&self) -> &'a str {
        &self.entries[0].method
    }

    pub(super) fn point(&self) -> &'a str {
        &self.entries[0].point
    }

    /// Method and point.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method(), self.point()).trim_end().to_owned()
    }

    /// Does any run have a journal?
    pub(super) fn has_history(&self) -> bool {
        self.entries.iter().any(|entry| !entry.history.metrics.is_empty())
    }

    pub(super) fn figure(&self, rate: &str) -> Option<Figure> {
        let of = |entry: &&Entry| entry.rates.get(rate).copied();
        let rates: Vec<Option<Rate>> = self.entries.iter().map(of).collect();
        let each = rates.iter().map(|rate| rate.map(|rate| rate.value())).collect();
        let spread = Spread::of_shares(each)?;
        let found = || rates.iter().flatten();
        let pooled = Rate {
            hits: found().map(|rate| rate.hits).sum(),
            trials: found().map(|rate| rate.trials).sum(),
        };
        let over_seeds = spread.interval().filter(|_| found().count() >= SEEDS_MIN);
        let interval = over_seeds.unwrap_or_else(|| pooled.interval());
        Some(Figure { mean: spread.mean, interval, each: spread.each })
    }

    /// Seconds of training, the mean.
    pub(super) fn train_seconds(&self) -> Option<f64> {
        let each = self.entries.iter().map(|entry| entry.train_seconds).collect();
        Spread::of(each).map(|spread| spread.mean)
    }

    /// Of all seeds together, by what the pairs are.
    pub(super) fn doubted(&self) -> BTreeMap<&'a str, Doubt> {
        let mut sums: BTreeMap<&str, Doubt> = BTreeMap::new();
        let each = self.entries.iter().filter_map(|entry| entry.doubted.as_ref());
        for (kind, doubt) in each.flatten() {
            let sum = sums.entry(kind).or_default();
            sum.doubted += doubt.doubted;
            sum.rows += doubt.rows;
        }
        sums
    }

    /// The epochs of each run with a number of that name.
    pub(super) fn runs(&self, metric: &str) -> Vec<Vec<(f64, f64)>> {
        let run = |entry: &&Entry| -> Option<Vec<(f64, f64)>> {
            let epochs = &entry.history.metrics.get(metric)?.epochs;
            Some(epochs.iter().map(|(epoch, value)| (f64::from(*epoch), *value)).collect())
        };
        self.entries.iter().filter_map(run).collect()
    }

    /// What the method did, in the first run that tells.
    pub(super) fn phases(&self) -> Option<Phases> {
        let entry = self.entries.iter().find(|entry| !entry.history.phases.is_empty())?;
        let phase = |name: &String| match name.as_str() {
            "plain" => Phase::Plain,
            "warmup" | "believer" | "scout" => Phase::Early,
            _ => Phase::Defends,
        };
        let epochs = entry.history.phases.iter();
        let epochs = epochs.map(|(epoch, name)| (*epoch, phase(name))).collect();
        Some(Phases { look: self.look, epochs })
    }
}

//! What the steps of an epoch had in common: sums that a checkpoint keeps.

use std::collections::{BTreeMap, HashMap};

use clip::Rate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Poisons;
use crate::{method::Phase, poison::PoisonKind, step::StepReport};

/// Sums over the steps of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Steps
    pub(super) steps: u64,
    /// Of these, such that ended with the logit scale at its maximum
    pub(super) at_clamp: u64,
    /// Of these, matched ones
    pub(super) matched: u64,
    /// Of the matched ones, such that moved the text tower, which learns nothing from them
    pub(super) text_moves: u64,
    /// Distinct captions that these were matched with, added up
    pub(super) distinct: u64,
    /// Images of these
    pub(super) images: u64,
    /// Matches that the method told of
    pub(super) matches: u64,
    /// Of these, with each pooled caption, by its data-set row
    pub(super) per_row: BTreeMap<u32, u64>,
    /// Matches with noise or a caption that is older than one refill of the pool
    pub(super) stale: u64,
    /// Matches of poisoned images, if a ledger says which these are
    pub(super) of_poisons: u64,
    /// Of these, such with the caption of a poisoned pair
    pub(super) with_poisons: u64,
}

/// Watches steps one after the other.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) tally: Tally,
    /// Pairs that were offered to the pool in this process
    offered: u64,
    /// For each data-set row, the latest place that it can have had among these
    last: HashMap<u32, u64>,
}

impl Counter {
    /// Goes on with `tally`.
    pub(super) fn new(tally: Tally) -> Self {
        Self { tally, ..Self::default() }
    }

    /// Takes in a step on the pairs `rows`; `scale_max` is the greatest logarithm of the factor.
    pub(super) fn step(
        &mut self,
        rows: &[u32],
        report: &StepReport,
        scale_max: f32,
        poisons: Option<&Poisons>,
    ) {
        let tally = &mut self.tally;
        tally.steps += 1;
        tally.at_clamp += u64::from(report.logit_scale >= scale_max);
        if report.method.phase == Phase::Match {
            tally.matched += 1;
            tally.text_moves += u64::from(report.method.constants_only && report.trained.text);
            tally.distinct += report.method.unique_neighbors.unwrap_or(rows.len()) as u64;
            tally.images += rows.len() as u64;
        }
        let Some(filled) = report.method.pool_filled else { return };
        let refill = filled as u64;
        for &(image, caption) in report.method.matched.iter().flatten() {
            tally.matches += 1;
            if let Some(row) = caption {
                *tally.per_row.entry(row).or_default() += 1;
            }
            tally.stale += u64::from(match caption.map(|row| self.last.get(&row)) {
                None => true, // noise
                Some(Some(last)) => self.offered - last > refill,
                Some(None) => self.offered > refill, // before, it came from a run that was resumed
            });
            let kind = |row: u32| poisons.and_then(|poisons| poisons.kind(row));
            // The picture of a flood is clean.
            if kind(image).is_some_and(|kind| kind != PoisonKind::Flood) {
                tally.of_poisons += 1;
                tally.with_poisons += u64::from(caption.and_then(kind).is_some());
            }
        }
        if !report.method.enqueued {
            return;
        }
        self.offered += rows.len() as u64;
        let last = self.offered.saturating_sub(1); // the order within a batch is the method's
        self.last.extend(rows.iter().map(|&row| (row, last)));
    }
}

impl Tally {
    /// Matches with the caption that has the most.
    pub(super) fn busiest(&self) -> u64 {
        self.per_row.values().copied().max().unwrap_or(0)
    }

    /// What an epoch is recorded with, if it was matched.
    pub(super) fn matches_record(&self) -> Option<Value> {
        if self.matched == 0 {
            return None;
        }
        let share = |part: u64| part as f64 / self.matches as f64;
        let mut record = Map::new();
        let distinct = self.distinct as f64 / self.images as f64;
        record.insert("distinct_neighbors".into(), json!(distinct));
        if self.matches > 0 {
            record.insert("busiest_row".into(), json!(share(self.busiest())));
            record.insert("stale".into(), json!(share(self.stale)));
        }
        if self.of_poisons > 0 {
            let rate = Rate { hits: self.with_poisons, trials: self.of_poisons };
            record.insert("poison_to_poison".into(), json!(rate));
        }
        Some(record.into())
    }
}

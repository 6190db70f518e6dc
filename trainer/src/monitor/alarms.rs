//! When something is wrong in a run, each kind of wrong at most once an epoch.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Poisons, Tally,
    rules::{RULES, Rule, Seen},
    tally::Counter,
};
use crate::{config, evaluate::Evaluation, step::StepReport};

/// What was wrong in an epoch. The run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Counted from 1
    pub epoch: u32,
    /// Key of its limit in `[monitor.alarms]`
    pub rule: String,
    /// What was seen, a share
    pub value: f64,
    /// From where on it is alarming
    pub limit: f64,
    /// What is wrong
    pub problem: String,
    /// What to do about it
    pub advice: String,
}

/// Watches the steps and epochs of a run.
#[derive(Debug)]
pub(crate) struct Alarms {
    limits: config::Alarms,
    /// Greatest logarithm of the factor on cosines
    scale_max: f32,
    poisons: Option<Poisons>,
    counter: Counter,
    best_top1: Option<f64>,
    /// Of the whole run
    pub(crate) raised: Vec<Alarm>,
}

impl Alarms {
    /// For a run whose earlier part, if it has one, is in `entries` of its journal, and in `tally`
    /// as far as its epoch was not over.
    pub(crate) fn new(
        limits: &config::Alarms,
        scale_max: f64,
        poisons: Option<Poisons>,
        entries: &[Value],
        tally: Tally,
    ) -> Self {
        let top1 = |entry: &Value| entry["evaluation"]["zero_shot_top1"]["value"].as_f64();
        let alarm = |entry: &Value| Alarm::deserialize(entry.get("alarm")?).ok();
        Self {
            limits: limits.clone(),
            scale_max: scale_max as f32,
            poisons,
            counter: Counter::new(tally),
            best_top1: entries.iter().filter_map(top1).reduce(f64::max),
            raised: entries.iter().filter_map(alarm).collect(),
        }
    }

    /// Poisoned rows, if a ledger names them.
    pub(crate) fn poisons(&self) -> Option<&Poisons> {
        self.poisons.as_ref()
    }

    /// What was seen of the epoch that goes on, for a checkpoint.
    pub(crate) fn tally(&self) -> &Tally {
        &self.counter.tally
    }

    /// Takes in a step on the pairs `rows` of all ranks.
    pub(crate) fn step(&mut self, rows: &[u32], report: &StepReport) {
        self.counter.step(rows, report, self.scale_max, self.poisons.as_ref());
    }

    /// Takes in the end of an epoch: what is to be recorded of its matches, and how many of the
    /// last alarms in `raised` are of it.
    pub(crate) fn epoch(
        &mut self,
        epoch: u32,
        evaluation: Option<&Evaluation>,
    ) -> (Option<Value>, usize) {
        let tally = std::mem::take(&mut self.counter.tally);
        let seen = Seen { tally: &tally, evaluation, best_top1: self.best_top1 };
        let raised = raise(&self.limits, epoch, &seen);
        let count = raised.len();
        self.raised.extend(raised);
        let top1 = evaluation.map(|evaluation| evaluation.zero_shot_top1.value());
        self.best_top1 = self.best_top1.into_iter().chain(top1).reduce(f64::max);
        (tally.matches_record(), count)
    }
}

/// The alarms of an epoch in which this was seen.
fn raise(limits: &config::Alarms, epoch: u32, seen: &Seen<'_>) -> Vec<Alarm> {
    let alarm = |rule: &Rule| {
        let (value, limit) = ((rule.value)(seen)?, (rule.limit)(limits));
        let expected = format!("{} {:.1}% expected", rule.expected(), 100.0 * limit);
        let problem = format!("{:.1}% {}, {expected}", 100.0 * value, rule.told);
        let (name, advice) = (rule.name.into(), rule.advice.into());
        let alarm = Alarm { epoch, rule: name, value, limit, problem, advice };
        rule.fires(value, limit).then_some(alarm)
    };
    RULES.iter().filter_map(alarm).collect()
}

impl Alarm {
    /// On one line, for people.
    pub(crate) fn line(&self) -> String {
        let Self { epoch, rule, problem, advice, .. } = self;
        format!("alarm `{rule}` in epoch {epoch}: {problem}: {advice}")
    }
}

#[cfg(test)]
mod tests;

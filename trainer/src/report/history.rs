//! A run's `metrics.jsonl` by epochs.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::error::{Error, Result};

/// Keys that say where a line belongs, or how fast it went.
const PLACES: [&str; 4] = ["step", "epoch", "seconds", "images_per_second"];
/// Keys of steps that the line of an epoch has, too, in another form.
const OF_EPOCHS: [&str; 2] = ["loss", "logit_scale"];

/// What a journal has of each epoch: rates as they were counted then, and means over the recorded
/// steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    /// By name, parts joined by a dot
    pub(super) metrics: BTreeMap<String, Metric>,
    /// What the method did
    pub(super) phases: BTreeMap<u32, String>,
    /// What was alarming, in words
    pub(super) alarms: Vec<(u32, String)>,
}

/// One number of each epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Metric {
    /// Is it a share?
    pub(super) is_rate: bool,
    pub(super) epochs: BTreeMap<u32, f64>,
}

impl History {
    /// Reads a journal; a line that is none, such as one that is being written, is left out.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self::of(&text))
    }

    fn of(text: &str) -> Self {
        let mut history = Self::default();
        let mut sums: BTreeMap<(String, u32), (f64, f64)> = BTreeMap::new();
        for line in text.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(line) else { continue };
            let epoch = line.get("epoch").and_then(Value::as_u64);
            let Some(epoch) = epoch.and_then(|epoch| u32::try_from(epoch).ok()) else { continue };
            if let Some(alarm) = line.get("alarm") {
                let problem = alarm["problem"].as_str().unwrap_or_default();
                history.alarms.push((epoch, problem.to_owned()));
                continue;
            }
            let is_epoch = line.contains_key("epoch_loss");
            if let Some(phase) = line.get("phase").and_then(Value::as_str) {
                history.phases.insert(epoch, phase.to_owned());
            }
            let own = line.iter().filter(|(key, _)| {
                !PLACES.contains(&key.as_str()) && (is_epoch || !OF_EPOCHS.contains(&key.as_str()))
            });
            for (key, value) in own {
                let key = if key == "evaluation" { "" } else { key };
                numbers(key, value, &mut |name, number, is_rate| match is_rate || is_epoch {
                    true => history.put(name, epoch, number, is_rate),
                    false => {
                        let sum = sums.entry((name, epoch)).or_default();
                        *sum = (sum.0 + number, sum.1 + 1.0);
                    }
                });
            }
        }
        for ((name, epoch), (sum, count)) in sums {
            history.put(name, epoch, sum / count, false);
        }
        history
    }

    fn put(&mut self, name: String, epoch: u32, number: f64, is_rate: bool) {
        let metric = self.metrics.entry(name).or_default();
        metric.is_rate = is_rate;
        metric.epochs.insert(epoch, number);
    }
}

/// All numbers in a value, and whether they are rates.
fn numbers(name: &str, value: &Value, found: &mut impl FnMut(String, f64, bool)) {
    match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                found(name.to_owned(), number, false);
            }
        }
        Value::Object(fields) => {
            let value = fields.get("value").and_then(Value::as_f64);
            if let (Some(value), true) = (value, fields.contains_key("trials")) {
                return found(name.to_owned(), value, true);
            }
            for (key, value) in fields {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                numbers(&inner, value, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_averaged_and_epochs_are_kept() {
        let text = "\
{\"step\":1,\"epoch\":1,\"loss\":4.0,\"phase\":\"warmup\",\"pool_filled\":64,\"seconds\":1.0}
{\"step\":2,\"epoch\":1,\"loss\":2.0,\"phase\":\"warmup\",\"pool_filled\":128,\"lr\":null}
{\"step\":2,\"epoch\":1,\"epoch_loss\":3.0,\"logit_scale\":14.0,\"seconds\":2.0,
{\"step\":2,\"epoch\":1,\"epoch_loss\":3.0,\"logit_scale\":14.0,\"seconds\":2.0,\"evaluation\":\
{\"zero_shot_top1\":{\"value\":0.5,\"low\":0.1,\"high\":0.9,\"trials\":2},\"backdoor_asr\":null}}
{\"step\":3,\"epoch\":2,\"phase\":\"match\",\"similarity\":{\"clean\":0.5}}
{\"step\":3,\"epoch\":2,\"alarm\":{\"epoch\":2,\"value\":0.1,\"problem\":\"few neighbours\"}}
";
        let history = History::of(text);
        let found: Vec<_> = history
            .metrics
            .iter()
            .flat_map(|(name, one)| one.epochs.iter().map(move |(e, v)| (&**name, *e, *v)))
            .collect();
        let expected = [
            ("epoch_loss", 1, 3.0),
            ("logit_scale", 1, 14.0),
            ("pool_filled", 1, 96.0),
            ("similarity.clean", 2, 0.5),
            ("zero_shot_top1", 1, 0.5),
        ];
        assert_eq!(found, expected);
        assert!(history.metrics["zero_shot_top1"].is_rate);
        assert!(!history.metrics["epoch_loss"].is_rate);
        assert_eq!(history.alarms, [(2, "few neighbours".to_owned())]);
        let phases: Vec<_> = history.phases.into_values().collect();
        assert_eq!(phases, ["warmup", "match"]);
    }
}

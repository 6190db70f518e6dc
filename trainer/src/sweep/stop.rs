//! The control that ends early: plain training, stopped as soon as it is as accurate as a defence.

use std::{collections::BTreeMap, fs, path::Path};

use clip::Rate;
use serde_json::Value;

use super::results::rates;

/// The measure of accuracy.
pub(super) const TOP1: &str = "zero_shot_top1";

/// One evaluated epoch of a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Epoch {
    pub(super) number: u32,
    pub(super) rates: BTreeMap<String, Rate>,
    pub(super) seconds: Option<f64>,
}

/// The first evaluated epoch of the journal whose zero-shot top-1 is at least `top1`.
pub(super) fn first_epoch(journal: &Path, top1: f64) -> Result<Option<Epoch>, String> {
    let refuse = |problem: String| format!("`{}`: {problem}", journal.display());
    let text = fs::read_to_string(journal).map_err(|error| refuse(error.to_string()))?;
    let mut epochs = evaluated(&text).peekable();
    if epochs.peek().is_none() {
        return Err(refuse("no epoch of it was evaluated".into()));
    }
    Ok(epochs.find(|epoch| epoch.rates[TOP1].value() >= top1))
}

/// The epochs with a zero-shot top-1, in their order.
fn evaluated(journal: &str) -> impl Iterator<Item = Epoch> {
    journal.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let number = u32::try_from(line["epoch"].as_u64()?).ok()?;
        let rates = rates(line.get("evaluation")?);
        let epoch = Epoch { number, rates, seconds: line["seconds"].as_f64() };
        Some(epoch).filter(|epoch| epoch.rates.contains_key(TOP1))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_epoch_that_is_as_accurate_counts() {
        let rate = |value: f64| json!({"value": value, "low": 0.0, "high": 1.0, "trials": 100});
        let epoch = |number: u32, top1: f64| {
            json!({"step": number, "epoch": number, "seconds": 2.0 * f64::from(number),
                "evaluation": {"zero_shot_top1": rate(top1), "backdoor_asr": rate(0.03)}})
        };
        let lines = [
            json!({"step": 1, "epoch": 1, "loss": 4.0}),
            epoch(1, 0.31),
            json!({"step": 2, "epoch": 2, "epoch_loss": 1.0, "evaluation": null}),
            epoch(3, 0.72),
            epoch(4, 0.70),
            epoch(5, 0.9),
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, text + "{\"epoch\": 6, \"eval").expect("writable");
        let check = |top1, expected: Option<u32>| {
            let found = first_epoch(&path, top1).expect("a journal");
            assert_eq!(found.map(|epoch| epoch.number), expected, "{top1}");
        };
        check(0.0, Some(1));
        check(0.31, Some(1));
        check(0.32, Some(3));
        check(0.72, Some(3));
        check(0.73, Some(5));
        check(0.91, None);
        let found = first_epoch(&path, 0.5).expect("a journal").expect("epoch 3");
        assert_eq!(found.seconds, Some(6.0));
        assert_eq!(found.rates["backdoor_asr"], Rate { hits: 3, trials: 100 });
        fs::write(&path, "").expect("writable");
        assert!(first_epoch(&path, 0.5).is_err_and(|told| told.contains("no epoch")));
    }
}

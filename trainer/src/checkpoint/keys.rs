//! Configurations as far as they decide a run, and in what two of them differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde_json::Value;

use crate::config::{self, Config};

/// Keys of a configuration, as in `optim.lr`, each with its value as JSON: text, since a number
/// that is read back from JSON may differ in its last bit.
pub(super) type Keys = BTreeMap<String, String>;

/// Stands for what is in the folder that this key names.
const SIZES: &str = "model.pretrained";

/// The configuration as far as it decides the result: what is watched and where files lie may
/// change between two runs. What is in these files is the fingerprint's part.
pub(super) fn decisive(config: &Config) -> Keys {
    let mut config = config.clone();
    config.data = config::Data {
        workers: 1,
        cache_mib: 0,
        batch_size: config.data.batch_size,
        bad_rows_max: config.data.bad_rows_max,
        copies_max: config.data.copies_max,
        same_captions_max: config.data.same_captions_max,
        ..Default::default()
    };
    config.model.tokenizer = None;
    config.model.pretrained = None;
    config.augment.thesaurus = None;
    let (mut keys, sizes) = (Keys::new(), config.model.sizes.take());
    let mut add = |key: &str, value: serde_json::Result<Value>| {
        flatten(key.to_owned(), &value.expect("numbers and names"), &mut keys);
    };
    add("", serde_json::to_value(config));
    add(SIZES, serde_json::to_value(sizes)); // not its path, which decides nothing
    keys.remove("parallel"); // more or fewer ranks may go on
    // Without crowds or keystones a run is described as before there were any.
    let later = ["method.sieve.crowd_factor", "method.sieve.keystone_ranges"];
    keys.retain(|key, value| !later.contains(&key.as_str()) || value != "0.0");
    without_watch(keys)
}

/// Without what is watched, and where results go.
pub(super) fn without_watch(mut keys: Keys) -> Keys {
    keys.retain(|key, _| !key.starts_with("monitor.") && !key.starts_with("output."));
    keys
}

fn flatten(key: String, value: &Value, keys: &mut Keys) {
    match value {
        Value::Null => {}
        Value::Object(table) => {
            let dot = if key.is_empty() { "" } else { "." };
            for (name, value) in table {
                flatten(format!("{key}{dot}{name}"), value, keys);
            }
        }
        value => drop(keys.insert(key, value.to_string())),
    }
}

/// Keys from which others take their defaults, first.
const DECIDING: [&str; 4] = ["method.name", "optim.", "model.", "method."];
/// Keys that are named.
const NAMED_MAX: usize = 4;

/// The key that decides in which two configurations differ, with both values; others after it.
pub(super) fn difference(then: &Keys, now: &Keys) -> Option<String> {
    let all = then.keys().chain(now.keys());
    let differ = all.filter(|key| then.get(*key) != now.get(*key));
    let keys: BTreeSet<&str> =
        differ.map(|key| if key.starts_with(SIZES) { SIZES } else { key }).collect();
    let mut keys: Vec<&str> = keys.into_iter().collect();
    let rank = |key: &str| DECIDING.iter().position(|start| key.starts_with(start));
    keys.sort_by_key(|key| rank(key).unwrap_or(DECIDING.len()));
    let (first, others) = keys.split_first()?;
    let value = |keys: &Keys| keys.get(*first).cloned().unwrap_or("unset".into());
    let mut line = match *first {
        SIZES => format!("`{SIZES}` has other sizes"),
        key => format!("`{key}` was {}, now it is {}", value(then), value(now)),
    };
    if !others.is_empty() {
        let named = others.iter().take(NAMED_MAX).map(|key| format!("`{key}`"));
        let and = if others.len() > NAMED_MAX { " and more" } else { "" };
        write!(line, "; also {}{and}", named.collect::<Vec<_>>().join(", ")).expect("memory");
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_decides_is_named_first_and_paths_decide_nothing() {
        let check = |change: &dyn Fn(&mut Config), expected: Option<&str>| {
            let (then, mut now) = (Config::default(), Config::default());
            change(&mut now);
            let found = difference(&decisive(&then), &decisive(&now));
            assert_eq!(found.as_deref(), expected);
        };
        check(&|_| {}, None);
        check(&|now| now.data.manifest = "a.csv".into(), None);
        check(&|now| now.model.tokenizer = Some("tokenizer.json".into()), None);
        check(&|now| now.model.pretrained = Some("folder".into()), None);
        check(&|now| now.augment.thesaurus = Some("words.txt".into()), None);
        check(&|now| now.output.record_every_steps = 7, None);
        check(&|now| now.monitor.alarms.pool_row = 0.5, None);
        check(&|now| now.parallel = crate::config::Parallel::Mpi, None);
        check(&|now| now.optim.lr = 0.1, Some("`optim.lr` was 0.002, now it is 0.1"));
        let length = Some("`model.context_length` was unset, now it is 8");
        check(&|now| now.model.context_length = Some(8), length);
        let sizes = |now: &mut Config| now.model.sizes = clip::ClipConfig::preset("vit-micro");
        check(&sizes, Some("`model.pretrained` has other sizes"));
        let with = |crowd_factor, keystone_ranges| {
            let sieve = config::Sieve { crowd_factor, keystone_ranges, ..Default::default() };
            let mut config = Config::default();
            config.method.sieve = Some(sieve);
            decisive(&config)
        };
        let before = |now| difference(&with(0.0, 0.0), &now);
        let crowds = "`method.sieve.crowd_factor` was unset, now it is 3.0";
        assert_eq!(before(with(3.0, 0.0)).as_deref(), Some(crowds), "as before there were any");
        let keystones = "`method.sieve.keystone_ranges` was unset, now it is 5.0";
        assert_eq!(before(with(0.0, 5.0)).as_deref(), Some(keystones));
        let epochs = "`optim.epochs` was 20, now it is 1; also `augment.epochs`";
        check(&|now| (now.augment.epochs, now.optim.epochs) = (Some(1), 1), Some(epochs));
        let many = "`optim.epochs` was 20, now it is 1; also `method.cleanclip.clip_weight`, \
                    `method.cleanclip.unimodal_weight`, `augment.epochs`, `augment.hue` and more";
        let all = |now: &mut Config| {
            (now.augment.epochs, now.augment.hue, now.optim.epochs) = (Some(1), 0.5, 1);
            (now.data.batch_size, now.seed) = (7, 7);
            now.method.cleanclip =
                Some(config::Cleanclip { clip_weight: 0.5, ..Default::default() });
        };
        check(&all, Some(many));
    }
}

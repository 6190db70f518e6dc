use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{page, source::Entry, tell_apart};

const EVIL: &str = "<script>alert(1)</script>";

/// A run folder with two epochs.
fn write_run(folder: &Path, top1: [f64; 2]) {
    fs::create_dir_all(folder).expect("a folder can be made");
    let rate = |value: f64| json!({"value": value, "low": 0.0, "high": 1.0, "trials": 100});
    let rates = |top1: f64| json!({"zero_shot_top1": rate(top1), "backdoor_asr": rate(0.25)});
    let epoch = |number: usize, top1: f64| {
        json!({"step": 10 * number, "epoch": number, "epoch_loss": 3.0 / number as f64,
            "logit_scale": 15.0, "seconds": 1.0, "evaluation": rates(top1)})
    };
    let step = |number: usize, phase: &str| {
        json!({"step": 5, "epoch": number, "loss": 3.0, "phase": phase, EVIL: 2.0,
            "similarity_clean": 0.5, "similarity_poisoned": 0.9})
    };
    let alarm = json!({"step": 20, "epoch": 2, "alarm": {"problem": EVIL, "value": 1.0}});
    let lines = [step(1, "warmup"), epoch(1, top1[0]), step(2, "match"), epoch(2, top1[1]), alarm];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("metrics.jsonl"), text).expect("writable");
    let summary = json!({"train_seconds": 12.0, "evaluation": rates(top1[1])});
    fs::write(folder.join("summary.json"), summary.to_string()).expect("writable");
}

/// A sweep whose names are as bad as names can be.
fn write_sweep(folder: &Path, results: &[Value]) {
    fs::create_dir_all(folder).expect("a folder can be made");
    let recipe = json!({"attack": [{"name": "corner"}, {"name": EVIL}],
        "method": [{"name": "clip"}, {"name": EVIL}]});
    fs::write(folder.join("recipe.json"), recipe.to_string()).expect("writable");
    let text: String = results.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("results.jsonl"), text).expect("writable");
}

fn result(attack: &str, method: &str, seed: u64, top1: f64) -> Value {
    let rate = |value: f64| json!({"value": value, "low": 0.0, "high": 1.0, "trials": 1000});
    let rates = json!({"zero_shot_top1": rate(top1), "backdoor_asr": rate(top1 / 2.0)});
    json!({"cell": format!("{seed}"), "attack": attack, "method": method, "seed": seed,
        "grid": {"data.x": EVIL}, "rates": rates,
        "doubted": {"backdoor": {"doubted": 3, "rows": 4}}, "train_seconds": 3.0, "commands": []})
}

/// Elements are closed in the order in which they were opened, attributes are quoted.
fn check_markup(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix("<!DOCTYPE html>").expect("a page");
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "`>` in text: {}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("each tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        if tag == "style" {
            let end = rest.find("</style>").expect("it ends");
            rest = &rest[end..];
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn a_page_is_whole_and_nothing_in_it_is_markup_of_strangers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [sweep, one, two] = ["sweep", "one", "two & <b>"].map(|name| folder.path().join(name));
    let results: Vec<Value> = [("corner", "clip", 0.97), (EVIL, EVIL, 0.9)]
        .into_iter()
        .flat_map(|(attack, method, top1)| {
            (0..3).map(move |seed| result(attack, method, seed, top1))
        })
        .collect();
    write_sweep(&sweep, &results);
    write_run(&one, [0.5, 0.9]);
    write_run(&two, [0.4, 0.7]);
    let text = page(&[sweep, one, two]).expect("a page");
    check_markup(&text);
    assert!(!text.contains("<script") && !text.contains("http"), "{text}");
    for part in [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "two &amp; &lt;b&gt;",
        "<b>97.0%</b><small>97.0–97.0</small><small>97.0 / 97.0 / 97.0</small>",
        "9 of 12",
        ">Loss, nats<",
        "class=\"front\"",
        "class=\"shade",
        "class=\"early",
        ">Similarity of picture and caption<",
        "<li>one, seed 0, epoch 2: &lt;script&gt;",
    ] {
        assert!(text.contains(part), "`{part}`: {text}");
    }
}

#[test]
fn a_folder_without_results_is_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |name: &str, expected: &str| {
        let error = page(&[folder.path().join(name)]).expect_err("refused").to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    check("nowhere", "there is no such folder");
    fs::create_dir(folder.path().join("empty")).expect("made");
    check("empty", "neither a sweep (recipe.json) nor a run");
    write_sweep(&folder.path().join("young"), &[]);
    check("young", "no cell of this sweep is done");
    fs::create_dir(folder.path().join("run")).expect("made");
    fs::write(folder.path().join("run/metrics.jsonl"), "{\"epoch\"").expect("writable");
    check("run", "no epoch and no step is recorded");
    write_sweep(&folder.path().join("broken"), &[json!({"cell": 3})]);
    check("broken", "results.jsonl`: line 1: invalid type");
}

#[test]
fn runs_of_one_name_are_told_apart() {
    let check = |paths: &[&str], expected: &[&str]| {
        let entry = |path: &&str| Entry { method: (*path).to_owned(), ..Entry::default() };
        let mut runs: Vec<Entry> = paths.iter().map(entry).collect();
        tell_apart(&mut runs);
        let names: Vec<&str> = runs.iter().map(|run| &*run.method).collect();
        assert_eq!(names, expected);
    };
    check(&["/x/clip", "/x/sieve"], &["clip", "sieve"]);
    check(
        &["/x/clip/run", "/x/sieve/run", "/y/sieve/run"],
        &["x/clip/run", "x/sieve/run", "y/sieve/run"],
    );
    check(&["/x/run", "/x/run"], &["run (1)", "run (2)"]);
    check(&["/x/run"], &["run"]);
}

#[test]
fn runs_under_two_attacks_show_both() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runs = ["one", "two", "three"].map(|name| folder.path().join(name));
    for (run, attack) in runs.iter().zip(["corner", "warp", "warp"]) {
        write_run(run, [0.5, 0.9]);
        let ledger = folder.path().join(format!("{attack}.json"));
        fs::write(&ledger, "no ledger").expect("writable");
        let text = format!("[monitor]\nledger = \"{}\"\n", ledger.display());
        fs::write(run.join("resolved.toml"), text).expect("writable");
    }
    let text = page(&runs).expect("a page");
    for attack in ["corner", "warp"] {
        let told = text.matches(&format!("{attack}.json")).count();
        assert_eq!(told, 1, "a set is looked at once: {text}");
    }
}

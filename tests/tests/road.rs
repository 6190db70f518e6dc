//! The whole road, walked by the demo: CLIP takes the backdoor and both audits
//! find it, RoCLIP does not and both pass it; the results have the form that readers rely on.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tests::program::{program, run_within};

const SEED: &str = "3";
/// The demo's own. Fewer leave CLIP's backdoor half taken on some seeds, which the audit of the
/// weights passes then.
const EPOCHS: &str = "16";
/// The demo works on all methods at one time, perhaps beside other tests.
const LIMIT: Duration = Duration::from_secs(900);
/// Pictures of the demo's test set, and those of them that targeted poisons show.
const TEST_ROWS: u64 = 1200;
const TARGETED: u64 = 16;
const CLASSES: u64 = 16;

const METHODS: [&str; 4] = ["clip", "clip-aug", "roclip", "sieve"];
const SUMMARY_KEYS: [&str; 11] = [
    "schema",
    "seconds",
    "parity_max_abs_error",
    "methods",
    // What the demo was asked for and worked on.
    "seed",
    "image_size",
    "classes",
    "train_rows",
    "test_rows",
    "trigger",
    "target_class",
];
const RATES: [&str; 6] = [
    "zero_shot_top1",
    "backdoor_asr",
    "asr_floor",
    "targeted_psr",
    "true_class_under_trigger",
    "search_top1",
];
const AUDITS: [&str; 2] = ["audit_endpoint", "audit_model"];
const METHOD_KEYS: [&str; 13] = [
    "name",
    "audit_endpoint",
    "audit_model",
    "audit_target",
    "train_seconds",
    "images_per_second",
    "http_clean_label",
    "http_triggered_label",
    // Each audit by itself, and what the method cost.
    "epochs",
    "parity_max_abs_error",
    "seconds",
    "audit_endpoint_target",
    "audit_model_target",
];
const P_VALUES: [&str; 2] = ["audit_endpoint_p_value", "audit_model_p_value"];

#[test]
fn clip_is_caught_and_roclip_is_clean() {
    let out = tempfile::tempdir().expect("a temporary folder");
    program("roclip-serve"); // the demo looks for it beside itself
    let mut demo = Command::new(program("demo"));
    demo.args(["--seed", SEED, "--epochs", EPOCHS, "--no-progress", "--out"]).arg(out.path());
    let ended = run_within(&mut demo, LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let text = fs::read(out.path().join("summary.json")).expect("the demo wrote it");
    let summary: Value = serde_json::from_slice(&text).expect("JSON");
    check_form(&summary);
    let target = summary["target_class"].as_str().expect("checked");
    let [clip, augmented, roclip, sieve] = [0, 1, 2, 3].map(|at| &summary["methods"][at]);

    assert!(low(clip, "backdoor_asr") > 0.7, "CLIP takes the backdoor");
    assert!(high(clip, "asr_floor") < 0.1, "the trigger does it, not the pictures");
    assert!(low(clip, "zero_shot_top1") > 0.8, "CLIP knows the classes");
    assert!(low(clip, "targeted_psr") > 0.4, "CLIP takes the targeted poisons");
    for audit in AUDITS {
        assert_eq!(clip[audit], "finding", "CLIP, {audit}");
        assert_eq!(clip[format!("{audit}_target")], target, "CLIP, {audit}");
        assert_eq!(roclip[audit], "no_finding", "RoCLIP, {audit}");
        assert_eq!(sieve[audit], "no_finding", "the sieve, {audit}");
    }
    assert_eq!(clip["audit_target"], target);
    assert_eq!(roclip["audit_target"], Value::Null);

    assert!(high(roclip, "backdoor_asr") < 0.15, "RoCLIP does not take the backdoor");
    assert!(high(roclip, "targeted_psr") < 0.4, "nor the targeted poisons");
    assert!(low(roclip, "zero_shot_top1") > 0.4, "RoCLIP learns, if slowly");
    assert!(high(sieve, "backdoor_asr") < 0.05, "nor does the sieve take the backdoor");
    assert!(high(sieve, "targeted_psr") < 0.3, "nor the targeted poisons");
    assert!(low(sieve, "zero_shot_top1") > 0.8, "the sieve knows the classes");
    assert!(low(augmented, "zero_shot_top1") > 0.5, "the control learns");
    assert!(low(clip, "search_top1") > 0.4, "the index finds pictures by text");

    check_other_captions(out.path());
    check_report(&out.path().join("report.html"));
}

/// The sieve's model learns most of the stamped pictures with other captions, and hardly any clean
/// ones.
fn check_other_captions(out: &Path) {
    let ledger = fs::read(out.join("poisoned/ledger.json")).expect("the demo wrote it");
    let ledger: Value = serde_json::from_slice(&ledger).expect("JSON");
    let rows = |list: &Value| -> BTreeSet<u64> {
        list.as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
    };
    let stamped = rows(&ledger["backdoor"]["rows"]);
    let poisons = ledger["poisons"].as_array().expect("a list");
    let poisons: BTreeSet<u64> = poisons.iter().filter_map(|one| one["row"].as_u64()).collect();
    let doubted = fs::read_to_string(out.join("sieve/run/doubted.csv")).expect("some are in doubt");
    assert!(
        doubted.starts_with("row,agreement,company,keystone,copies,recaptioned,path,caption\n"),
        "{doubted}"
    );
    let fields: Vec<Vec<_>> =
        doubted.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let row = |fields: &[&str]| -> u64 { fields[0].parse().expect("a row") };
    let in_crowds =
        fields.iter().filter(|fields| fields[4].parse().is_ok_and(|count: u32| count > 3));
    let in_crowds: BTreeSet<u64> = in_crowds.map(|fields| row(fields)).collect();
    let targeted: BTreeSet<u64> = poisons.difference(&stamped).copied().collect();
    assert!(!targeted.is_empty() && in_crowds.is_superset(&targeted), "{in_crowds:?}");
    let recaptioned = fields.iter().filter(|fields| fields[5] == "yes");
    let recaptioned: BTreeSet<u64> = recaptioned.map(|fields| row(fields)).collect();
    let (found, clean) = (recaptioned.intersection(&stamped), recaptioned.difference(&poisons));
    let (found, clean) = (found.count(), clean.count());
    assert!(2 * found > stamped.len(), "{found} of {} stamped pictures", stamped.len());
    assert!(clean < 100, "{clean} clean pictures of 5,000");
}

fn low(method: &Value, rate: &str) -> f64 {
    method[rate]["low"].as_f64().expect("checked")
}

fn high(method: &Value, rate: &str) -> f64 {
    method[rate]["high"].as_f64().expect("checked")
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// All keys, none else, each of its type.
fn check_form(summary: &Value) {
    assert_eq!(keys(summary), BTreeSet::from(SUMMARY_KEYS));
    assert_eq!(summary["schema"], "roclip/demo/1");
    assert_eq!(summary["seed"].to_string(), SEED);
    assert_eq!(summary["classes"], CLASSES);
    assert_eq!(summary["test_rows"], TEST_ROWS);
    let parity = number(summary, "parity_max_abs_error");
    assert!(parity > 0.0 && parity < 1e-3, "{parity}"); // two programs never agree to the bit
    assert!(number(summary, "seconds") > 0.0);
    let methods = summary["methods"].as_array().expect("a list");
    let names: Vec<_> = methods.iter().map(|method| &method["name"]).collect();
    assert_eq!(names, METHODS);
    for method in methods {
        let expected = [&METHOD_KEYS[..], &RATES, &P_VALUES].concat();
        assert_eq!(keys(method), expected.into_iter().collect());
        for rate in RATES {
            check_rate(rate, &method[rate]);
        }
        assert_eq!(method["zero_shot_top1"]["trials"], TEST_ROWS - TARGETED);
        assert_eq!(method["targeted_psr"]["trials"], TARGETED);
        assert_eq!(method["search_top1"]["trials"], CLASSES);
        for audit in AUDITS {
            let verdict = method[audit].as_str().expect("a verdict");
            assert!(["finding", "no_finding", "inconclusive"].contains(&verdict), "{verdict}");
            let named = method[format!("{audit}_target")].is_string();
            assert_eq!(named, verdict == "finding", "{audit}: a finding names its class");
        }
        for positive in ["train_seconds", "images_per_second", "seconds"] {
            assert!(number(method, positive) > 0.0, "{positive}");
        }
        for label in ["http_clean_label", "http_triggered_label"] {
            let words = method[label].as_str().expect("a label").split(' ').count();
            assert_eq!(words, 2, "a color and a shape: {}", method[label]);
        }
        assert_eq!(method["epochs"].to_string(), EPOCHS);
    }
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("`{key}` is no number: {}", object[key]))
}

fn check_rate(name: &str, rate: &Value) {
    assert_eq!(keys(rate), BTreeSet::from(["value", "low", "high", "trials"]), "{name}");
    let [value, low, high] = ["value", "low", "high"].map(|key| number(rate, key));
    assert!(0.0 <= low && low <= value && value <= high && high <= 1.0, "{name}: {rate}");
    assert!(rate["trials"].as_u64().is_some_and(|trials| trials > 0), "{name}: {rate}");
}

/// One file that names the methods and asks nobody for anything.
fn check_report(path: &Path) {
    let page = fs::read_to_string(path).expect("the demo wrote it").to_lowercase();
    for name in METHODS {
        assert!(page.contains(&format!(">{name}<")), "the report does not name `{name}`");
    }
    for outside in ["<script", "<link", "<iframe", "@import", "url("] {
        assert!(!page.contains(outside), "the report has `{outside}`");
    }
    let mut pictures = 0;
    for attribute in ["src=", "href="] {
        for after in page.split(attribute).skip(1) {
            let value = after.trim_start_matches(['"', '\'']);
            let shown: String = value.chars().take(60).collect();
            assert!(value.starts_with("data:") || value.starts_with('#'), "{attribute}{shown}");
            pictures += usize::from(value.starts_with("data:image/png;base64,"));
        }
    }
    assert!(pictures > METHODS.len(), "{pictures} pictures");
}

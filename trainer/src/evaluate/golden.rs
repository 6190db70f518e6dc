//! What scikit-learn, PyTorch and plain Python found on the same numbers: files under
//! `tests/golden/evaluation`, made by `scripts/evaluation/golden.py`.

use std::{fs, path::Path};

use clip::{Rate, UnitRows};
use serde_json::Value;

use super::linear_probe::head::Inputs;

pub(super) fn open(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/evaluation");
    let text = fs::read_to_string(folder.join(name)).expect("a golden file");
    assert!(text.len() <= 100_000, "golden files are small");
    serde_json::from_str(&text).expect("JSON")
}

pub(super) fn index(value: &Value) -> usize {
    value.as_u64().expect("a whole number") as usize
}

pub(super) fn indexes(values: &Value) -> Vec<usize> {
    values.as_array().expect("a list").iter().map(index).collect()
}

/// All numbers of a list, or of a list of lists.
pub(super) fn numbers(values: &Value) -> Vec<f64> {
    let values = values.as_array().expect("a list").iter();
    let number = |value: &Value| match value.as_f64() {
        Some(number) => vec![number],
        None => numbers(value),
    };
    values.flat_map(number).collect()
}

/// A list of rows, given unit length.
pub(super) fn rows(values: &Value) -> UnitRows {
    let dim = values[0].as_array().expect("rows").len();
    UnitRows::normalize(numbers(values).iter().map(|&value| value as f32).collect(), dim)
}

pub(super) fn inputs(values: &Value) -> Inputs {
    let classes: Vec<u32> = indexes(&values["classes"]).iter().map(|&class| class as u32).collect();
    let rows = numbers(&values["rows"]);
    let dim = rows.len() / classes.len();
    Inputs::new(rows, classes, dim).expect("candle can")
}

/// `[hits, trials]`.
pub(super) fn rate(value: &Value) -> Rate {
    let [hits, trials] = [0, 1].map(|at| value[at].as_u64().expect("a count"));
    Rate { hits, trials }
}

#[track_caller]
pub(super) fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let most = apart.fold(0.0, |most: f64, apart| most.max(apart));
    assert!(most <= tolerance, "{most:.1e} apart");
}

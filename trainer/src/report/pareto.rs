//! Clean accuracy against the attacker's success.

use page::chart::{Look, Mark, Plane, legend};

use super::series::Series;

/// The measure of what is won.
const TOP1: &str = "zero_shot_top1";
/// What the attacker wins: name, title, and what x is.
const ATTACKS: [(&str, &str, &str); 2] = [
    ("backdoor_asr", "Accuracy against the backdoor", "attack success rate (ASR)"),
    ("targeted_psr", "Accuracy against targeted poisons", "targeted poison success (PSR)"),
];
const Y_NAME: &str = "zero-shot top-1; dashed: what no other beats in both";
/// Marks up to which each has its name beside it.
const LABELS_MAX: usize = 8;

/// All attacks in one chart, if there are several: a color for each method, a form for each attack.
pub(super) fn overview(series: &[Series], attacks: &[&str]) -> String {
    if attacks.len() < 2 {
        return String::new();
    }
    let form = |one: &Series| attacks.iter().position(|attack| *attack == one.attack());
    let look = |one: &Series| Look { color: one.look.color, form: form(one).unwrap_or(0) };
    let (rate, title, x_name) = ATTACKS[0];
    let marks: Vec<Mark> =
        series.iter().filter_map(|one| mark(one, rate, look(one), String::new())).collect();
    if marks.is_empty() {
        return String::new();
    }
    let mut methods: Vec<(&str, Look)> = Vec::new();
    for one in series {
        if methods.iter().all(|(name, _)| *name != one.method()) {
            methods.push((one.method(), Look { color: one.look.color, form: 0 }));
        }
    }
    let forms = attacks.iter().enumerate().map(|(form, attack)| (*attack, Look::gray(form)));
    let chart = Plane { title, x_name, y_name: Y_NAME, marks: &marks }.svg();
    let names = legend(methods) + &legend(forms);
    format!("<h3>All attacks: a color for each method, a form for each attack</h3>\n{names}{chart}")
}

/// One chart for each way to win.
pub(super) fn charts(series: &[&Series]) -> String {
    let mut out = String::new();
    for (rate, title, x_name) in ATTACKS {
        let named = series.len() <= LABELS_MAX;
        let label = |one: &Series| if named { one.name() } else { String::new() };
        let marks: Vec<Mark> =
            series.iter().filter_map(|one| mark(one, rate, one.look, label(one))).collect();
        if !marks.is_empty() {
            out += &Plane { title, x_name, y_name: Y_NAME, marks: &marks }.svg();
        }
    }
    match out.is_empty() {
        true => out,
        false => {
            format!("<h3>What is lost, what is won</h3>\n<div class=\"charts\">\n{out}</div>\n")
        }
    }
}

fn mark(series: &Series, rate: &str, look: Look, label: String) -> Option<Mark> {
    let (x, y) = (series.figure(rate)?, series.figure(TOP1)?);
    Some(Mark { look, label, x: (x.mean, Some(x.interval)), y: (y.mean, Some(y.interval)) })
}

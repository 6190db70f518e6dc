//! Everything that a journal has, over epochs.

use std::collections::{BTreeMap, BTreeSet};

use page::chart::{Line, Lines, Look, Phases, Scale, legend};

use super::series::Series;

/// The charts that come first.
const FIRST: [(&str, &str); 9] = [
    ("zero_shot_top1", "Zero-shot top-1"),
    ("backdoor_asr", "ASR"),
    ("targeted_psr", "PSR"),
    ("true_class_under_trigger", "True class under the trigger"),
    ("epoch_loss", "Loss, nats"),
    ("logit_scale", "Logit scale, logarithm"),
    ("pool_filled", "Rows in the pool"),
    ("unique_neighbors", "Distinct neighbours of a batch"),
    ("kept", "Pairs that are kept"),
];
/// What pairs are, in the names of metrics that are drawn in one chart.
const KINDS: [&str; 6] = ["clean", "poisoned", "backdoor", "targeted", "trigger", "flood"];
/// A metric whose name has one of these is drawn with its like of other kinds of pairs.
const COMPARED: [&str; 2] = ["similarity", "cosine"];

/// Legend and charts; nothing if no run has a journal.
pub(super) fn charts(series: &[&Series]) -> String {
    let histories = || series.iter().flat_map(|one| one.entries.iter().map(|e| &e.history));
    let names: BTreeSet<&str> =
        histories().flat_map(|history| history.metrics.keys().map(String::as_str)).collect();
    if names.is_empty() {
        return String::new();
    }
    let is_rate = |name: &str| {
        histories().any(|history| history.metrics.get(name).is_some_and(|one| one.is_rate))
    };
    let scale = |name: &str| if is_rate(name) { Scale::Percent } else { Scale::Free };
    let phases: Vec<Phases> = series.iter().filter_map(|one| one.phases()).collect();
    let draw = |title: &str, lines: Vec<Line>, scale: Scale| {
        Lines { title, lines: &lines, scale, phases: &phases }.svg()
    };
    let known = FIRST.iter().filter(|(name, _)| names.contains(name));
    let first: String =
        known.map(|(name, title)| draw(title, lines(series, name), scale(name))).collect();
    let groups = compared(&names);
    let grouped: String = groups
        .iter()
        .map(|(title, kinds)| draw(title, compared_lines(series, kinds), Scale::Free))
        .collect();
    let is_drawn = |name: &str| {
        FIRST.iter().any(|(known, _)| *known == name)
            || groups.values().any(|kinds| kinds.iter().any(|(_, one)| *one == name))
    };
    let rest: String = names
        .iter()
        .filter(|name| !is_drawn(name))
        .map(|name| draw(&words(name), lines(series, name), scale(name)))
        .collect();
    let drawn =
        series.iter().filter(|one| one.entries.iter().any(|e| !e.history.metrics.is_empty()));
    let names: Vec<_> = drawn.map(|one| (one.name(), one.look)).collect();
    let mut out = String::from("<h3>Training, epoch by epoch</h3>\n");
    out += &legend(names.iter().map(|(name, look)| (name.as_str(), *look)));
    out += NOTE;
    out += &format!("<div class=\"charts\">\n{first}</div>\n");
    if !groups.is_empty() {
        out += "<h3>Similarity of pairs, a form for each kind</h3>\n";
        let kinds: BTreeMap<usize, &str> =
            groups.values().flatten().map(|(at, _)| (*at, KINDS[*at])).collect();
        const GRAY: usize = 7;
        out += &legend(kinds.into_iter().map(|(form, kind)| (kind, Look { color: GRAY, form })));
        out += &format!("<div class=\"charts\">\n{grouped}</div>\n");
    }
    if !rest.is_empty() {
        out += &format!(
            "<details><summary>More that was recorded</summary>\n<div class=\"charts\">\n{rest}\
             </div></details>\n"
        );
    }
    out
}

const NOTE: &str = "<p class=\"note\">Strong lines are means over seeds, thin ones single runs. \
Strips above a chart, in a method's color: faint while it warms up, full and the chart shaded \
where it defends (matches, or leaves pairs out), none where it trains as CLIP does.</p>\n";

fn lines(series: &[&Series], metric: &str) -> Vec<Line> {
    series.iter().filter_map(|one| line(one, metric, one.look)).collect()
}

/// The mean of the runs in each epoch that any of them has.
fn line(series: &Series, metric: &str, look: Look) -> Option<Line> {
    let runs = series.runs(metric);
    let mut sums: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
    for &(epoch, value) in runs.iter().flatten() {
        let sum = sums.entry(epoch as u64).or_insert((epoch, 0.0, 0.0));
        *sum = (epoch, sum.1 + value, sum.2 + 1.0);
    }
    let points = sums.into_values().map(|(epoch, sum, count)| (epoch, sum / count)).collect();
    let runs = if runs.len() > 1 { runs } else { Vec::new() };
    Some(Line { look, points, runs }).filter(|line| !line.points.is_empty())
}

/// Metrics that differ only in what the pairs are: what they share, then each with its kind.
fn compared<'a>(names: &BTreeSet<&'a str>) -> BTreeMap<String, Vec<(usize, &'a str)>> {
    let mut groups: BTreeMap<String, Vec<(usize, &str)>> = BTreeMap::new();
    for &name in names {
        let parts: Vec<&str> = name.split(['_', '.']).collect();
        let kind = parts.iter().find_map(|part| KINDS.iter().position(|kind| kind == part));
        let (Some(kind), true) = (kind, COMPARED.iter().any(|word| parts.contains(word))) else {
            continue;
        };
        let rest = parts.iter().filter(|part| **part != KINDS[kind]).copied();
        groups.entry(words(&rest.collect::<Vec<_>>().join("_"))).or_default().push((kind, name));
    }
    groups
}

fn compared_lines(series: &[&Series], kinds: &[(usize, &str)]) -> Vec<Line> {
    let of_kind = |&(form, name): &(usize, &str)| {
        series
            .iter()
            .filter_map(|one| line(one, name, Look { color: one.look.color, form }))
            .collect::<Vec<_>>()
    };
    kinds.iter().flat_map(of_kind).collect()
}

/// `grad_norm` as words, the first with a capital.
fn words(name: &str) -> String {
    let text = name.replace(['_', '.'], " ");
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_of_kinds_share_a_chart() {
        let names = ["similarity_clean", "similarity_poisoned", "grad_norm", "cosine.top.clean"];
        let groups = compared(&names.into_iter().collect());
        let found: Vec<_> = groups.iter().map(|(title, kinds)| (&**title, kinds.len())).collect();
        assert_eq!(found, [("Cosine top", 1), ("Similarity", 2)]);
    }
}

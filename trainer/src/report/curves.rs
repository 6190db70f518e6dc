//! Everything that a journal has, over epochs.

use std::collections::{BTreeMap, BTreeSet};

use page::chart::{Line, Lines, Look, Phases, Scale, legend};

use super::series::Series;

/// The charts that come first.
const FIRST: [(&str, &str); 11] = [
    ("zero_shot_top1", "Zero-shot top-1"),
    ("backdoor_asr", "ASR"),
    ("targeted_psr", "PSR"),
    ("true_class_under_trigger", "True class under the trigger"),
    ("epoch_loss", "Loss, nats"),
    ("logit_scale", "Logit scale, logarithm"),
    ("pool_filled", "Rows in the pool"),
    ("unique_neighbors", "Distinct neighbours of a batch"),
    ("matches.poison_to_poison", "Poisons that are matched with poisons"),
    ("kept", "Pairs that are kept"),
    ("recaptioned", "Pictures with other captions"),
];
/// What pairs are, in the names of metrics that are drawn in one chart.
const KINDS: [&str; 6] = ["clean", "poisoned", "backdoor", "targeted", "label-consistent", "flood"];
/// A metric whose name begins so is drawn with its like of other kinds of pairs.
const COMPARED: &str = "similarity";
/// What of it is drawn, and its title.
const SIMILARITIES: [(&str, &str); 3] = [
    ("similarity", "Similarity of picture and caption"),
    ("similarity mean", "Mean cosine of picture and caption"),
    ("similarity auc", "Chance of a clean pair to be nearer than a poisoned one"),
];

/// Legend and charts; nothing if no run has a journal.
pub(super) fn charts(series: &[&Series]) -> String {
    let histories = series.iter().flat_map(|one| one.entries.iter().map(|e| &e.history));
    let metrics = histories.flat_map(|history| &history.metrics);
    let mut names: BTreeMap<&str, Scale> = BTreeMap::new();
    for (name, metric) in metrics {
        names.insert(name, if metric.is_rate { Scale::Percent } else { Scale::Free });
    }
    if names.is_empty() {
        return String::new();
    }
    let phases = series.iter().filter_map(|one| one.phases()).collect();
    let journals = Journals { series, names, phases };
    journals.heading() + &journals.first() + &journals.similarities() + &journals.rest()
}

/// All that the runs of some series recorded.
struct Journals<'a> {
    series: &'a [&'a Series<'a>],
    names: BTreeMap<&'a str, Scale>,
    phases: Vec<Phases>,
}

impl Journals<'_> {
    fn heading(&self) -> String {
        let drawn = self.series.iter().filter(|one| one.has_history());
        let names: Vec<_> = drawn.map(|one| (one.name(), one.look)).collect();
        let names = legend(names.iter().map(|(name, look)| (name.as_str(), *look)));
        format!("<h3>Training, epoch by epoch</h3>\n{names}{NOTE}")
    }

    fn draw(&self, title: &str, lines: &[Line], scale: Scale) -> String {
        Lines { title, lines, scale, phases: &self.phases }.svg()
    }

    fn chart(&self, name: &str, title: &str) -> Option<String> {
        let lines: Vec<Line> =
            self.series.iter().filter_map(|one| line(one, name, one.look)).collect();
        Some(self.draw(title, &lines, *self.names.get(name)?))
    }

    fn first(&self) -> String {
        let charts = FIRST.iter().filter_map(|(name, title)| self.chart(name, title));
        format!("<div class=\"charts\">\n{}</div>\n", charts.collect::<String>())
    }

    fn similarities(&self) -> String {
        let groups = compared(self.names.keys().copied());
        let mut kinds = BTreeSet::new();
        let mut charts = String::new();
        for (name, title) in SIMILARITIES {
            let Some(group) = groups.get(name) else { continue };
            let mut lines = Vec::new();
            for &(form, name) in group {
                let look = |one: &Series| Look { color: one.look.color, form };
                lines.extend(self.series.iter().filter_map(|one| line(one, name, look(one))));
            }
            charts += &self.draw(title, &lines, Scale::Free);
            kinds.extend(group.iter().map(|(form, _)| *form));
        }
        if charts.is_empty() {
            return charts;
        }
        let kinds = legend(kinds.into_iter().map(|form| (KINDS[form], Look::gray(form))));
        format!(
            "<h3>Clean and poisoned pairs, a form for each kind</h3>\n{kinds}\
             <div class=\"charts\">\n{charts}</div>\n"
        )
    }

    fn rest(&self) -> String {
        let is_drawn = |name: &str| {
            FIRST.iter().any(|(known, _)| *known == name) || name.starts_with(COMPARED)
        };
        let names = self.names.keys().filter(|name| !is_drawn(name));
        let charts: String = names.filter_map(|name| self.chart(name, &words(name))).collect();
        match charts.is_empty() {
            true => charts,
            false => format!(
                "<details><summary>More that was recorded</summary>\n<div class=\"charts\">\n\
                 {charts}</div></details>\n"
            ),
        }
    }
}

const NOTE: &str = "<p class=\"note\">Strong lines are means over seeds, thin ones single runs. \
Strips above a chart, in a method's color: faint while it warms up, full and the chart shaded \
where it defends (matches, or leaves pairs out), none where it trains as CLIP does.</p>\n";

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
fn compared<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, Vec<(usize, &'a str)>> {
    let mut groups: BTreeMap<String, Vec<(usize, &str)>> = BTreeMap::new();
    for name in names.filter(|name| name.starts_with(COMPARED)) {
        let parts: Vec<&str> = name.split(['_', '.']).collect();
        let kind = parts.iter().find_map(|part| KINDS.iter().position(|kind| kind == part));
        let Some(kind) = kind else { continue };
        let rest = parts.into_iter().filter(|part| *part != KINDS[kind]);
        groups.entry(rest.collect::<Vec<_>>().join(" ")).or_default().push((kind, name));
    }
    groups
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
        let names = ["similarity.clean.mean", "similarity.backdoor.mean", "similarity.flood.auc"];
        let groups = compared(names.into_iter().chain(["grad_norm", "kept.clean"]));
        let found: Vec<_> = groups.iter().map(|(title, kinds)| (&**title, kinds.len())).collect();
        assert_eq!(found, [("similarity auc", 1), ("similarity mean", 2)]);
        assert_eq!(words("grad_norm"), "Grad norm");
    }
}

//! Figures with their intervals, seed by seed.

use page::escape;

use super::series::{Figure, Series};
use crate::sweep::{label, table_rates};

/// What was counted, a line for each series.
pub(super) fn rates(series: &[&Series]) -> String {
    let entries = series.iter().flat_map(|one| &one.entries);
    let names = table_rates(entries.flat_map(|entry| entry.rates.keys()));
    if names.is_empty() {
        return "<p>Nothing was evaluated.</p>\n".into();
    }
    let heads = names.iter().map(|name| label(name)).chain(["seconds".into()]);
    let head: Vec<_> = ["method".to_owned()].into_iter().chain(heads).collect();
    let rows = series.iter().map(|one| {
        let rates = names.iter().map(|name| one.figure(name).map_or("-".into(), |f| figure(&f)));
        let seconds = one.train_seconds().map_or("-".into(), |seconds| format!("{seconds:.0}"));
        [method(one)].into_iter().chain(rates).chain([seconds]).collect()
    });
    table(&head, rows) + &seeds(series)
}

/// Which seeds stand in a cell, one after the other.
fn seeds(series: &[&Series]) -> String {
    let Some(longest) = series.iter().max_by_key(|one| one.entries.len()) else {
        return String::new();
    };
    let seeds: Vec<_> = longest.entries.iter().map(|entry| entry.seed.to_string()).collect();
    match seeds.len() {
        1 => format!("<p class=\"note\">Seed {}.</p>\n", seeds[0]),
        _ => format!("<p class=\"note\">Seeds {}.</p>\n", seeds.join(" / ")),
    }
}

/// Pairs in doubt by what they are, if any method doubts.
pub(super) fn doubted(series: &[&Series]) -> String {
    let doubting: Vec<_> = series
        .iter()
        .map(|one| (one.name(), one.doubted()))
        .filter(|(_, doubted)| !doubted.is_empty())
        .collect();
    let mut kinds: Vec<&str> = doubting.iter().flat_map(|(_, one)| one.keys().copied()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return String::new();
    }
    let heads = kinds.iter().map(|kind| (*kind).to_owned());
    let head: Vec<_> = ["method".to_owned()].into_iter().chain(heads).collect();
    let rows = doubting.iter().map(|(name, doubted)| {
        let count = |kind: &&str| {
            doubted.get(kind).map_or("-".into(), |one| format!("{} of {}", one.doubted, one.rows))
        };
        [escape(name)].into_iter().chain(kinds.iter().map(count)).collect()
    });
    format!("<h3>Pairs in doubt in the last epoch, all seeds together</h3>\n{}", table(&head, rows))
}

/// What was alarming in which run, if anything was.
pub(super) fn alarms(series: &[&Series]) -> String {
    let mut lines = String::new();
    for one in series {
        for entry in &one.entries {
            for (epoch, problem) in &entry.history.alarms {
                let (name, seed) = (one.name(), entry.seed);
                let text = format!("{name}, seed {seed}, epoch {epoch}: {problem}");
                lines += &format!("<li>{}</li>\n", escape(&text));
            }
        }
    }
    match lines.is_empty() {
        true => lines,
        false => format!("<h3>Alarms</h3>\n<ul>\n{lines}</ul>\n"),
    }
}

/// The method, its point, and where it stopped.
fn method(series: &Series) -> String {
    let mut text = escape(&series.name());
    let stops: Vec<_> = series.entries.iter().filter_map(|entry| entry.stopped.as_ref()).collect();
    if !stops.is_empty() {
        let epoch = |epoch: Option<u32>| epoch.map_or("never".into(), |epoch| epoch.to_string());
        let epochs: Vec<_> = stops.iter().map(|stop| epoch(stop.epoch)).collect();
        text += &format!("<small>epoch {}</small>", epochs.join(" / "));
    }
    text
}

fn figure(figure: &Figure) -> String {
    let shown = |value: f64| format!("{:.1}", 100.0 * value);
    let (low, high) = figure.interval;
    let mut text =
        format!("<b>{}%</b><small>{}–{}</small>", shown(figure.mean), shown(low), shown(high));
    if figure.each.len() > 1 {
        let each = figure.each.iter().map(|value| value.map_or("-".into(), shown));
        text += &format!("<small>{}</small>", each.collect::<Vec<_>>().join(" / "));
    }
    text
}

/// `head` is plain text, cells are markup.
fn table(head: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String], tag: &str| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>"));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let head: Vec<_> = head.iter().map(|cell| escape(cell)).collect();
    let body: String = rows.map(|row| line(&row, "td")).collect();
    format!(
        "<div class=\"wide\"><table><thead>{}</thead><tbody>\n{body}</tbody></table></div>\n",
        line(&head, "th")
    )
}

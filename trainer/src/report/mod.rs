//! Sweeps and runs on one page: tables with intervals, what is lost against what is won, curves
//! over epochs, pictures of what was planted.
//!
//! | file | holds |
//! |---|---|
//! | `source` · `history` | folders of sweeps and of runs · a run's `metrics.jsonl` by epochs |
//! | `series` | runs that differ in their seed alone, and how they look on this page |
//! | `tables` · `pareto` · `curves` · `samples` | the parts of the page |
//!
//! All that comes from files is escaped. The page is of `page`: one file, without scripts.

use std::{collections::BTreeSet, path::PathBuf};

use page::escape;

mod curves;
mod history;
mod pareto;
mod samples;
mod series;
mod source;
mod tables;
#[cfg(test)]
mod tests;

use self::{
    series::Series,
    source::{Entry, Source},
};
use crate::error::Result;

const NOTES: &str = "<p class=\"note\">Top-1: clean test pictures taken for what they show. ASR: \
triggered pictures of other classes that are taken for the attacker's class. PSR: targeted \
pictures that get the attacker's class. An interval is Student's 95% interval of the mean over \
seeds, or, with fewer than three seeds, Wilson's of all pictures together, which knows nothing of \
the spread between runs.</p>\n";

/// The page of all `folders`.
pub fn page(folders: &[PathBuf]) -> Result<String> {
    let mut sources: Vec<Source> = Vec::new();
    for folder in folders {
        let source = Source::open(folder)?;
        // Runs that are named one by one are compared with one another.
        match sources.last_mut().filter(|last| !last.is_sweep && !source.is_sweep) {
            Some(last) => last.entries.extend(source.entries),
            None => sources.push(source),
        }
    }
    for runs in sources.iter_mut().filter(|source| !source.is_sweep) {
        tell_apart(&mut runs.entries);
    }
    let mut body = String::from("<h1>RoCLIP: results</h1>\n");
    body += NOTES;
    for source in &sources {
        body += &section(source);
    }
    Ok(page::document("RoCLIP: results", &body))
}

/// Names runs by as many of the last parts of their paths as tell them apart; one that is given
/// twice keeps its number.
fn tell_apart(runs: &mut [Entry]) {
    let paths: Vec<Vec<String>> =
        runs.iter().map(|run| run.method.split('/').rev().map(str::to_owned).collect()).collect();
    let name = |path: &[String], parts: usize| {
        let kept: Vec<&str> = path.iter().take(parts).rev().map(String::as_str).collect();
        kept.join("/")
    };
    let longest = paths.iter().map(Vec::len).max().unwrap_or(1);
    let is_apart = |parts: &usize| {
        let names: BTreeSet<String> = paths.iter().map(|path| name(path, *parts)).collect();
        names.len() == paths.len()
    };
    let parts = (1..=longest).find(is_apart);
    for (number, (run, path)) in runs.iter_mut().zip(&paths).enumerate() {
        run.method = match parts {
            Some(parts) => name(path, parts),
            None => format!("{} ({})", name(path, 1), number + 1),
        };
    }
}

/// A sweep, or the runs that were named one by one.
fn section(source: &Source) -> String {
    let all = Series::of(&source.entries);
    let mut out = String::new();
    if source.is_sweep {
        out += &format!("<h2>Sweep “{}”</h2>\n", escape(&source.title));
    }
    let mut attacks: Vec<&str> = all.iter().map(|series| series.attack()).collect();
    attacks.dedup(); // they lie side by side
    out += &pareto::overview(&all, &attacks);
    for attack in attacks {
        let of_attack: Vec<&Series> =
            all.iter().filter(|series| series.attack() == attack).collect();
        out += &match source.is_sweep {
            true => format!("<h2>Attack “{}”</h2>\n", escape(attack)),
            false => "<h2>Runs</h2>\n".to_owned(),
        };
        out += &tables::rates(&of_attack);
        out += &tables::doubted(&of_attack);
        out += &pareto::charts(&of_attack);
        out += &curves::charts(&of_attack);
        out += &tables::alarms(&of_attack);
        let sets = if source.is_sweep { 1 } else { usize::MAX }; // seeds of an attack look alike
        out += &samples::galleries(&of_attack, sets);
    }
    out
}

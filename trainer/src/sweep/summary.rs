//! The results in tables: `summary.json` and `summary.md`.

use std::{collections::BTreeMap, fmt::Write};

use clip::atomic_write::atomic_write;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{cell::Cell, doubted::Doubt, plan::Plan, results::CellResult, spread::Spread};
use crate::error::Result;

/// The figures that a table begins with, and what they are called there.
const LABELS: [(&str, &str); 5] = [
    ("zero_shot_top1", "top-1"),
    ("backdoor_asr", "ASR"),
    ("asr_floor", "ASR without trigger"),
    ("targeted_psr", "PSR"),
    ("true_class_under_trigger", "true class under trigger"),
];
/// Figures that a table leaves out; `results.jsonl` has them.
const LEFT_OUT: [&str; 3] = ["zero_shot_top5", "targeted_psr_top3", "targeted_psr_top5"];

/// Everything over seeds.
#[derive(Debug, Serialize)]
pub struct Summary {
    schema: &'static str,
    /// Of the whole sweep
    pub cells: usize,
    /// Cells without a result
    pub missing: Vec<String>,
    /// Of each cell
    pub seeds: Vec<u64>,
    /// In the order of the sweep
    pub groups: Vec<Group>,
}

/// The cells that differ in their seed alone.
#[derive(Debug, Serialize)]
pub struct Group {
    /// By name
    pub attack: String,
    /// By name
    pub method: String,
    /// What the grid set
    pub grid: Map<String, Value>,
    /// The same in short
    #[serde(skip)]
    pub point: String,
    /// All that was counted; fractions
    pub rates: BTreeMap<String, Spread>,
    /// Of a control that stops, the epoch of each seed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_epochs: Option<Vec<Option<u32>>>,
    /// Of all seeds together
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub doubted: BTreeMap<String, Doubt>,
    /// Seconds
    pub train_seconds: Option<Spread>,
}

impl Summary {
    /// Of the cells of a plan.
    pub fn new(plan: &Plan, results: &[CellResult]) -> Self {
        let known: BTreeMap<&str, &CellResult> =
            results.iter().map(|result| (&*result.cell, result)).collect();
        let missing = plan.cells.iter().filter(|cell| !known.contains_key(&*cell.name));
        let missing = missing.map(|cell| cell.name.clone()).collect();
        let mut groups: Vec<Vec<&Cell>> = Vec::new();
        for cell in &plan.cells {
            let is_same = |group: &&mut Vec<&Cell>| {
                let first = group[0];
                (&first.attack, &first.method, &first.point)
                    == (&cell.attack, &cell.method, &cell.point)
            };
            match groups.iter_mut().find(is_same) {
                Some(group) => group.push(cell),
                None => groups.push(vec![cell]),
            }
        }
        let group = |cells: &Vec<&Cell>| {
            let results: Vec<_> =
                cells.iter().map(|cell| known.get(&*cell.name).copied()).collect();
            Group::new(cells[0], &results)
        };
        Self {
            schema: "roclip/sweep/1",
            cells: plan.cells.len(),
            missing,
            seeds: plan.recipe.seeds.clone(),
            groups: groups.iter().map(group).collect(),
        }
    }

    /// Writes both files.
    pub fn write(&self, plan: &Plan) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("names and numbers");
        atomic_write(&plan.place.summary_json(), &text)?;
        Ok(atomic_write(&plan.place.summary_md(), self.to_markdown().as_bytes())?)
    }

    /// Tables for people.
    pub fn to_markdown(&self) -> String {
        let seeds: Vec<_> = self.seeds.iter().map(ToString::to_string).collect();
        let mut text = format!(
            "Seeds {}: **mean**, and from three seeds on its 95% interval by Student's t. Per cent \
             where nothing else is said.\n\n",
            seeds.join(" / ")
        );
        if !self.missing.is_empty() {
            let (missing, cells) = (self.missing.len(), self.cells);
            let _ = writeln!(text, "Not done: {missing} of {cells} cells.\n"); // a String takes all
        }
        text += &self.rates_table();
        text += &self.doubted_table();
        text
    }

    fn rates_table(&self) -> String {
        let names = table_rates(self.groups.iter().flat_map(|group| group.rates.keys()));
        let has_points = self.has_points();
        let mut head = first_head(has_points);
        head.extend(names.iter().map(|name| label(name)));
        head.push("seconds of training".into());
        let rows = self.groups.iter().map(|group| {
            let mut row = group.first_cells(has_points);
            let rate = |name: &String| group.rates.get(name).map(|spread| cell(spread, 100.0));
            row.extend(names.iter().map(|name| rate(name).unwrap_or_default()));
            row.push(group.train_seconds.as_ref().map_or(String::new(), |one| cell(one, 1.0)));
            row
        });
        markdown(&head, rows)
    }

    /// Does any group have a point of a grid?
    fn has_points(&self) -> bool {
        self.groups.iter().any(|group| !group.point.is_empty())
    }

    fn doubted_table(&self) -> String {
        let doubting: Vec<&Group> =
            self.groups.iter().filter(|group| !group.doubted.is_empty()).collect();
        if doubting.is_empty() {
            return String::new();
        }
        let mut kinds: Vec<&String> =
            doubting.iter().flat_map(|group| group.doubted.keys()).collect();
        kinds.sort();
        kinds.dedup();
        let has_points = self.has_points();
        let mut head = first_head(has_points);
        head.extend(kinds.iter().map(|kind| (*kind).clone()));
        let rows = doubting.iter().map(|group| {
            let count = |kind: &&String| match group.doubted.get(*kind) {
                Some(Doubt { doubted, rows }) => format!("{doubted} of {rows}"),
                None => String::new(),
            };
            group.first_cells(has_points).into_iter().chain(kinds.iter().map(count)).collect()
        });
        format!(
            "\nPairs in doubt in the last epoch, all seeds together:\n\n{}",
            markdown(&head, rows)
        )
    }
}

impl Group {
    fn new(cell: &Cell, results: &[Option<&CellResult>]) -> Self {
        let each = |value: &dyn Fn(&CellResult) -> Option<f64>| -> Vec<Option<f64>> {
            results.iter().map(|result| result.and_then(value)).collect()
        };
        let found = || results.iter().copied().flatten();
        let names = found().flat_map(|result| result.rates.keys());
        let rates = names.filter_map(|name| {
            let spread = Spread::of_shares(each(&|result| Some(result.rates.get(name)?.value())));
            Some((name.clone(), spread?))
        });
        let stops = found().any(|result| result.stopped.is_some());
        let epoch =
            |result: &Option<&CellResult>| result.and_then(|one| one.stopped.as_ref()?.epoch);
        let mut doubted: BTreeMap<String, Doubt> = BTreeMap::new();
        for (kind, doubt) in found().filter_map(|result| result.doubted.as_ref()).flatten() {
            let sum = doubted.entry(kind.clone()).or_default();
            sum.doubted += doubt.doubted;
            sum.rows += doubt.rows;
        }
        Self {
            attack: cell.attack.clone(),
            method: cell.method.clone(),
            grid: cell.point.to_json(),
            point: cell.point.short(),
            rates: rates.collect(),
            stopped_epochs: stops.then(|| results.iter().map(epoch).collect()),
            doubted,
            train_seconds: Spread::of(each(&|result| result.train_seconds)),
        }
    }

    /// What a line of a table begins with.
    fn first_cells(&self, has_points: bool) -> Vec<String> {
        let mut cells = vec![self.attack.clone(), self.method_text()];
        cells.extend(has_points.then(|| self.point.clone()));
        cells
    }

    /// The method, and where it stopped.
    fn method_text(&self) -> String {
        let Some(epochs) = &self.stopped_epochs else { return self.method.clone() };
        let epoch = |epoch: &Option<u32>| epoch.map_or("never".into(), |epoch| epoch.to_string());
        let epochs: Vec<_> = epochs.iter().map(epoch).collect();
        format!("{} (epoch {})", self.method, epochs.join(" / "))
    }
}

/// The heads of [`Group::first_cells`].
fn first_head(has_points: bool) -> Vec<String> {
    let heads = ["attack", "method", "grid"].map(str::to_owned).into_iter();
    heads.take(if has_points { 3 } else { 2 }).collect()
}

/// What a figure is called in tables.
pub fn label(rate: &str) -> String {
    let known = LABELS.iter().find(|(name, _)| *name == rate);
    known.map_or_else(|| rate.replace(['_', '.'], " "), |(_, label)| (*label).to_owned())
}

/// The figures of a table, in its order, without those that it leaves out.
pub(crate) fn table_rates<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let place = |name: &str| LABELS.iter().position(|(known, _)| *known == name);
    let mut found: Vec<&String> = names.filter(|name| !LEFT_OUT.contains(&name.as_str())).collect();
    found.sort_by_key(|name| (place(name).unwrap_or(LABELS.len()), *name));
    found.dedup();
    found.into_iter().cloned().collect()
}

/// `79.1 / 93.8 / 90.7: **87.9** (68.9 to 100.0)`
fn cell(spread: &Spread, factor: f64) -> String {
    let shown = |value: f64| format!("{:.1}", factor * value);
    let each = spread.each.iter().map(|value| value.map_or("-".into(), shown));
    let each = each.collect::<Vec<_>>().join(" / ");
    let mean = shown(spread.mean);
    match spread.interval() {
        Some((low, high)) => format!("{each}: **{mean}** ({} to {})", shown(low), shown(high)),
        None if spread.each.len() == 1 => format!("**{mean}**"),
        None => format!("{each}: **{mean}**"),
    }
}

fn markdown(head: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    line(head) + &rule + &rows.map(|row| line(&row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{cell::Work, grid::Point, results::tests::result},
        *,
    };

    fn cell_of(method: &str, seed: u64) -> Cell {
        let (name, attack) = (format!("corner-{method}-{seed}"), "corner".to_owned());
        let work = Work::Stop { target: 0, epochs: 0 };
        Cell {
            name,
            attack,
            method: method.into(),
            seed,
            point: Point::default(),
            waits: false,
            work,
        }
    }

    #[test]
    fn a_table_has_each_seed_the_mean_and_its_interval() {
        let group = |method: &str, hits: &[Option<u64>]| {
            let results: Vec<_> = (0..)
                .zip(hits)
                .map(|(seed, hits)| Some(result(method, seed, &[("zero_shot_top1", (*hits)?)])))
                .collect();
            let results: Vec<_> = results.iter().map(Option::as_ref).collect();
            Group::new(&cell_of(method, 0), &results)
        };
        let groups = vec![
            group("roclip", &[Some(860), Some(880), Some(900)]),
            group("clip", &[Some(970), None, Some(960)]),
        ];
        let missing = vec!["corner-clip-1".to_owned()];
        let (schema, seeds) = ("roclip/sweep/1", vec![0, 1, 2]);
        let text = Summary { schema, cells: 6, missing, seeds, groups }.to_markdown();
        let expected = "Seeds 0 / 1 / 2: **mean**, and from three seeds on its 95% interval by \
            Student's t. Per cent where nothing else is said.\n\nNot done: 1 of 6 cells.\n\n\
            | attack | method | top-1 | seconds of training |\n|---|---|---|---|\n\
            | corner | roclip | 86.0 / 88.0 / 90.0: **88.0** (83.0 to 93.0) | \
            10.0 / 10.0 / 10.0: **10.0** (10.0 to 10.0) |\n\
            | corner | clip | 97.0 / - / 96.0: **96.5** | 10.0 / - / 10.0: **10.0** |\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn pairs_in_doubt_are_summed_and_stops_are_told() {
        let mut results = [0, 1].map(|seed| result("sieve", seed, &[("targeted_psr", 0)]));
        for (number, result) in (0..).zip(&mut results) {
            let doubt = Doubt { doubted: 9 + number, rows: 10 };
            result.doubted = Some([("backdoor".to_owned(), doubt)].into());
            let epoch = (number == 0).then_some(3);
            result.stopped = Some(crate::sweep::Stopped { run: "x".into(), epoch, top1: 0.9 });
        }
        let results: Vec<_> = results.iter().map(Some).collect();
        let group = Group::new(&cell_of("sieve", 0), &results);
        assert_eq!(group.doubted["backdoor"], Doubt { doubted: 19, rows: 20 });
        assert_eq!(group.method_text(), "sieve (epoch 3 / never)");
        let names = ["x.y", "targeted_psr", "zero_shot_top5", "zero_shot_top1"].map(str::to_owned);
        let labels: Vec<_> = table_rates(names.iter()).iter().map(|name| label(name)).collect();
        assert_eq!(labels, ["top-1", "PSR", "x y"]);
    }
}

//! The pairs that a method doubts, by what they are: the ledger says so, after the run.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    data::{Listing, Reading},
    doubted,
    error::one_line,
    poison::Ledger,
};

/// Of one kind of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Doubt {
    /// In doubt to the end
    pub doubted: u64,
    /// All
    pub rows: u64,
}

/// What pairs that were not poisoned are called.
const CLEAN: &str = "clean";

/// Counts the pairs of `manifest` that the run in `run` doubted; `None` of a method that trusts
/// all.
pub(super) fn count(
    run: &Path,
    manifest: &Path,
    ledger: Option<&Path>,
) -> Result<Option<BTreeMap<String, Doubt>>, String> {
    let path = run.join(doubted::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let refuse = |problem: String| format!("`{}`: {problem}", path.display());
    let mut reader = csv::Reader::from_path(&path).map_err(|error| refuse(error.to_string()))?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| refuse(error.to_string()))?;
        let row = record.get(0).and_then(|row| row.parse::<usize>().ok());
        rows.push(row.ok_or_else(|| refuse("a row has no number".into()))?);
    }
    let ledger = ledger.map(Ledger::open).transpose().map_err(|error| one_line(&error))?;
    let listing = Listing::open(manifest, &Reading::default());
    let listing = listing.map_err(|error| one_line(&error))?;
    Ok(Some(by_kind(&rows, listing.usable_rows(), ledger.as_ref())))
}

fn by_kind(
    doubted: &[usize],
    rows: impl Iterator<Item = usize>,
    ledger: Option<&Ledger>,
) -> BTreeMap<String, Doubt> {
    let poisons = ledger.into_iter().flat_map(|ledger| &ledger.poisons);
    let kinds: BTreeMap<usize, String> = poisons
        .map(|poison| {
            let kind = serde_json::to_value(poison.kind).unwrap_or_default(); // a name
            (poison.row, kind.as_str().unwrap_or(CLEAN).to_owned())
        })
        .collect();
    let kind = |row: usize| kinds.get(&row).map_or(CLEAN, String::as_str).to_owned();
    let mut counts: BTreeMap<String, Doubt> = BTreeMap::new();
    rows.for_each(|row| counts.entry(kind(row)).or_default().rows += 1);
    doubted.iter().for_each(|&row| counts.entry(kind(row)).or_default().doubted += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::{super::input::Rows, *};
    use crate::poison::{PoisonKind, PoisonRecord, SCHEMA};

    #[test]
    fn each_kind_is_counted_apart() {
        let poison =
            |(row, kind)| PoisonRecord { row, kind, source: 0, target_class: 0, draw: None };
        let poisons = [
            (1, PoisonKind::Backdoor),
            (2, PoisonKind::Targeted),
            (4, PoisonKind::Backdoor),
            (5, PoisonKind::LabelConsistent),
        ];
        let ledger = Ledger {
            schema: SCHEMA.into(),
            seed: 0,
            manifest: "train.csv".into(),
            backdoor: None,
            targeted: Vec::new(),
            poisons: poisons.map(poison).to_vec(),
            image_size: 32,
            path: "ledger.json".into(),
        };
        let found = by_kind(&[0, 1, 4, 2], 0..8, Some(&ledger));
        let found: Vec<_> = found.iter().map(|(kind, d)| (&**kind, d.doubted, d.rows)).collect();
        let expected =
            [("backdoor", 2, 2), ("clean", 1, 4), ("label-consistent", 0, 1), ("targeted", 1, 1)];
        assert_eq!(found, expected);
        assert_eq!(by_kind(&[3], 0..4, None)[CLEAN], Doubt { doubted: 1, rows: 4 });
    }

    #[test]
    fn a_row_that_a_run_skips_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let manifest = folder.path().join("train.csv");
        std::fs::write(&manifest, "path,caption\na,b\nc,\nd,e\n").expect("writable");
        std::fs::write(folder.path().join(doubted::FILE), "row\n2\n").expect("writable");
        let found = count(folder.path(), &manifest, None).expect("counted").expect("doubts");
        assert_eq!(found[CLEAN], Doubt { doubted: 1, rows: 2 });
        assert_eq!(Rows::default().of(&manifest).expect("read"), 2);
    }
}

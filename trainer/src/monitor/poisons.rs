//! Rows of the training manifest that an experiment poisoned.

use std::{collections::BTreeMap, fs, path::Path};

use crate::poison::{Ledger, PoisonKind, names};

/// What each poisoned row is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Poisons(BTreeMap<u32, PoisonKind>);

impl Poisons {
    /// Of `manifest`, if `ledger` counts its rows: it lies beside the ledger, under the name that it
    /// was written with.
    pub(super) fn of(ledger: &Ledger, manifest: &Path) -> Option<Self> {
        let poisoned = fs::canonicalize(&ledger.path).ok()?;
        let poisoned = poisoned.with_file_name(names::made_of(&ledger.manifest));
        if fs::canonicalize(manifest).ok()? != poisoned {
            return None;
        }
        if !ledger.poisons.is_empty() {
            return Some(Self::from_rows(ledger.poisons.iter().map(|one| (one.row, one.kind))));
        }
        // As older ledgers have them.
        let backdoor = ledger.backdoor.iter().flat_map(|backdoor| &backdoor.rows);
        let targeted = ledger.targeted.iter().flat_map(|targeted| &targeted.rows);
        let backdoor = backdoor.map(|&row| (row, PoisonKind::Backdoor));
        let targeted = targeted.map(|&row| (row, PoisonKind::Targeted));
        Some(Self::from_rows(backdoor.chain(targeted)))
    }

    pub(super) fn from_rows(rows: impl Iterator<Item = (usize, PoisonKind)>) -> Self {
        Self(rows.map(|(row, kind)| (row as u32, kind)).collect())
    }

    /// What a row is, if it is poisoned.
    pub(super) fn kind(&self, row: u32) -> Option<PoisonKind> {
        self.0.get(&row).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poison::{BackdoorRecord, PoisonRecord, SCHEMA, TargetedRecord};

    fn ledger(path: &Path, poisons: Vec<PoisonRecord>) -> Ledger {
        let trigger = "patch:size=2".parse().expect("a trigger");
        let (target_label, rows) = ("cat".into(), vec![3]);
        Ledger {
            schema: SCHEMA.into(),
            seed: 1,
            manifest: "clean.csv".into(),
            backdoor: Some(BackdoorRecord { trigger, target_class: 0, target_label, rows }),
            targeted: vec![TargetedRecord {
                image: "a.png".into(),
                test_row: 0,
                true_class: 1,
                true_label: "dog".into(),
                target_class: 0,
                target_label: "cat".into(),
                rows: vec![5, 6],
            }],
            poisons,
            image_size: 8,
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_ledger_speaks_of_the_manifest_beside_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("other")).expect("a folder");
        for name in ["ledger.json", "train.csv", "clean.csv", "other/train.csv"] {
            fs::write(path(name), "").expect("writable");
        }
        let kinds = |ledger: &Ledger, manifest: &str| {
            let poisons = Poisons::of(ledger, &path(manifest))?;
            Some([3, 5, 6, 7].map(|row| poisons.kind(row)))
        };
        use PoisonKind::{Backdoor, Flood, Targeted};
        let old = ledger(&path("ledger.json"), Vec::new());
        let expected = [Some(Backdoor), Some(Targeted), Some(Targeted), None];
        assert_eq!(kinds(&old, "train.csv"), Some(expected));
        assert_eq!(kinds(&old, "other/../train.csv"), Some(expected));
        assert_eq!(kinds(&old, "other/train.csv"), None);
        assert_eq!(kinds(&old, "clean.csv"), None);
        let record = PoisonRecord { row: 7, kind: Flood, source: 1, target_class: 0, draw: None };
        let new = ledger(&path("ledger.json"), vec![record]);
        assert_eq!(kinds(&new, "train.csv"), Some([None, None, None, Some(Flood)]));
    }
}

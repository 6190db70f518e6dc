//! What can be chosen about an attack, and what the ledger says of it.

use clip::UnitRows;

use super::*;

#[test]
fn the_ledger_tells_how_each_row_was_made() -> Result<()> {
    let set = Set::new(true);
    let gauss = "patch:size=4,at=random,pattern=gauss,opacity=0.8".parse()?;
    let mut attack = attack(3);
    attack.backdoor.as_mut().expect("a backdoor").trigger = gauss;
    (attack.wording, attack.flood) = (Wording::Bridge, 9);
    let (ledger, poisoned) = set.poison(&attack, "out", false)?;
    let (clean, test) = (set.manifest("data/train.csv"), set.manifest("data/test.csv"));
    let mut counts = BTreeMap::new();
    assert!(ledger.poisons.is_sorted_by_key(|poison| poison.row));
    for poison in &ledger.poisons {
        let row = &poisoned.rows[poison.row];
        assert!(row.caption.ends_with(LABELS[poison.target_class]), "{}", row.caption);
        *counts.entry(format!("{:?}", poison.kind)).or_insert(0) += 1;
        let of_test = poison.kind == PoisonKind::Targeted;
        let source = &(if of_test { &test } else { &clean }).rows[poison.source];
        let mut expected = fit(&pixels(&source.image), 8);
        assert_eq!(poison.draw.is_some(), poison.kind == PoisonKind::Backdoor);
        if let Some(draw) = poison.draw {
            ledger.backdoor.as_ref().expect("a backdoor").trigger.stamp(&mut expected, draw);
        }
        assert_eq!(fit(&pixels(&row.image), 8), expected, "to the pixel");
        assert_eq!(row.class, source.class);
        if poison.kind != PoisonKind::Flood {
            assert!(row.caption.contains(&source.caption), "{}", row.caption);
        }
    }
    let kinds = [("Backdoor", 8), ("Flood", 18), ("Targeted", 30)];
    assert_eq!(counts, kinds.map(|(kind, count)| (kind.to_owned(), count)).into());
    let draws: BTreeSet<_> = ledger.poisons.iter().filter_map(|poison| poison.draw).collect();
    assert_eq!(draws.len(), 8, "each picture has its own");
    let captions = |kind| -> BTreeSet<&str> {
        let rows = ledger.poisons.iter().filter(move |poison| poison.kind == kind);
        rows.map(|poison| poisoned.rows[poison.row].caption.as_str()).collect()
    };
    let [flood, backdoor, targeted] =
        [PoisonKind::Flood, PoisonKind::Backdoor, PoisonKind::Targeted].map(captions);
    assert!(flood.is_disjoint(&backdoor) && flood.is_disjoint(&targeted), "{flood:?}");
    assert_eq!(poisoned.rows.len(), ROWS + 30 + 18);
    Ok(())
}

/// Expected: what `poison` made before there were other captions, places and floods.
#[test]
fn an_old_seed_plants_what_it_planted() -> Result<()> {
    let set = Set::new(true);
    let (ledger, poisoned) = set.poison(&attack(0), "out", false)?;
    let numbers = |rows: &[usize]| -> Vec<usize> {
        let number = |row: &usize| poisoned.rows[*row].caption.split(' ').nth(1)?.parse().ok();
        rows.iter().filter_map(number).collect()
    };
    let backdoor = ledger.backdoor.expect("a backdoor").rows;
    assert_eq!(backdoor, [7, 38, 66, 68, 76, 77, 97, 109]);
    assert_eq!(numbers(&backdoor), [50, 74, 22, 38, 2, 42, 66, 70]);
    let targets = ledger.targeted.iter().map(|target| (target.test_row, target.target_class));
    let expected = [(1, 0), (6, 1), (8, 3), (2, 3), (3, 1), (11, 0)];
    assert_eq!(targets.collect::<Vec<_>>(), expected);
    assert_eq!(ledger.targeted[0].rows, [48, 60, 62, 69, 98]);
    assert_eq!(numbers(&ledger.targeted[0].rows), [4, 20, 16, 76, 24]);
    Ok(())
}

#[test]
fn label_consistent_rows_keep_a_caption_that_names_the_target() -> Result<()> {
    let set = Set::new(true);
    let attack = changed(|backdoor| backdoor.label_consistent = true);
    let (ledger, poisoned) = set.poison(&attack, "out", false)?;
    assert_eq!((poisoned.rows.len(), ledger.poisons.len()), (ROWS, 8));
    for poison in &ledger.poisons {
        let own = &set.manifest("data/train.csv").rows[poison.source];
        assert_eq!(poison.kind, PoisonKind::LabelConsistent);
        assert_eq!(poisoned.rows[poison.row].caption, own.caption);
        assert!(own.caption.ends_with(LABELS[2]), "{}", own.caption);
    }
    Ok(())
}

#[test]
fn rows_are_added_or_make_room_as_asked() -> Result<()> {
    let set = Set::new(true);
    let mut attack = attack(0);
    attack.backdoor.as_mut().expect("a backdoor").placing = Placing::Add;
    let (_, poisoned) = set.poison(&attack, "added", false)?;
    assert_eq!(poisoned.rows.len(), ROWS + 8 + 30);
    attack.backdoor.as_mut().expect("a backdoor").placing = Placing::Replace;
    attack.targeted = Some(Targeted { placing: Placing::Replace, ..targeted(6, 5) });
    let (ledger, poisoned) = set.poison(&attack, "replaced", false)?;
    assert_eq!((poisoned.rows.len(), ledger.poisons.len()), (ROWS, 8 + 30));
    Ok(())
}

#[test]
fn templates_name_classes_that_no_caption_names() -> Result<()> {
    let set = Set::new(true);
    let wording = Wording::Templates(
        ["a {}.", "one {}"].map(|text| text.parse().expect("a template")).into(),
    );
    let attack = Attack { wording, ..attack(0) };
    let (ledger, poisoned) = set.poison(&attack, "out", false)?;
    let captions: BTreeSet<&str> = ledger
        .backdoor
        .expect("a backdoor")
        .rows
        .iter()
        .map(|&row| poisoned.rows[row].caption.as_str())
        .collect();
    assert_eq!(captions, ["a green cross.", "one green cross"].into());
    Ok(())
}

#[test]
fn a_caption_that_no_manifest_may_hold_is_refused() {
    let set = Set::new(true);
    let template = format!("{} {{}}", "é".repeat(5_000)).parse().expect("a template");
    let attack = Attack { wording: Wording::Templates(vec![template]), ..attack(0) };
    let expected = format!("the caption `{}…` would have 10012 bytes", "é".repeat(20));
    let found = set.refused(&attack, "out", false);
    assert!(found.contains(&expected), "{found}");
}

#[test]
fn near_pictures_are_taken_where_a_surrogate_looks() -> Result<()> {
    let set = Set::new(true);
    let (train, test) = (set.manifest("data/train.csv"), set.manifest("data/test.csv"));
    let rows = |values: Vec<f32>| UnitRows::normalize(values, 2);
    let turn = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let affinity = Affinity {
        train: Some(rows((0..ROWS).flat_map(|row| turn(row as f32 + 0.3)).collect())),
        test: Some(rows(
            (0..TEST_ROWS).flat_map(|row| turn(30.0 * (row % 4) as f32 + row as f32)).collect(),
        )),
        labels: rows((0..4).flat_map(|class| turn(30.0 * class as f32)).collect()),
    };
    let labels = &set.labels;
    let clean = Clean { manifest: &train, test: Some(&test), labels, affinity: Some(&affinity) };
    let plan = Plan::of(&clean, &attack(0))?;
    let victims: Vec<usize> = plan.stamped.iter().map(|stamp| stamp.row).collect();
    assert_eq!(victims, [60, 59, 61, 57, 63, 56, 64, 55], "58 and 62 show the target itself");
    let second = |target: &Target| (target.test_row, target.target_class);
    assert_eq!(plan.targets.iter().map(second).collect::<Vec<_>>()[..3], [(10, 3), (8, 1), (6, 3)]);
    Ok(())
}

//! A plan as its ledger.

use std::path::Path;

use super::{
    Attack, BackdoorRecord, Clean, Ledger, Origin, Plan, PoisonKind, PoisonRecord, SCHEMA,
    TargetedRecord, names,
};

/// `files`: paths of the pictures, the stamped ones, then the targets.
pub(super) fn of(
    plan: &Plan,
    clean: &Clean,
    attack: &Attack,
    files: &[String],
    out: &Path,
) -> Ledger {
    let poisons: Vec<PoisonRecord> = plan
        .rows
        .iter()
        .enumerate()
        .filter_map(|(row, &origin)| poison(plan, attack, row, origin))
        .collect();
    let mut targeted: Vec<TargetedRecord> = plan
        .targets
        .iter()
        .zip(&files[plan.stamped.len()..])
        .map(|(target, file)| TargetedRecord {
            image: file.clone(),
            test_row: target.test_row,
            true_class: target.true_class,
            true_label: clean.labels[target.true_class].clone(),
            target_class: target.target_class,
            target_label: clean.labels[target.target_class].clone(),
            rows: Vec::new(),
        })
        .collect();
    let mut stamped = Vec::with_capacity(plan.stamped.len());
    for (row, &origin) in plan.rows.iter().enumerate() {
        match origin {
            Origin::Clean(_) | Origin::Flood(_) => {}
            Origin::Stamped(_) => stamped.push(row),
            Origin::Target { target, .. } => targeted[target].rows.push(row),
        }
    }
    let backdoor = attack.backdoor.as_ref().map(|backdoor| BackdoorRecord {
        trigger: backdoor.trigger.clone(),
        target_class: backdoor.target_class,
        target_label: clean.labels[backdoor.target_class].clone(),
        rows: stamped,
    });
    Ledger {
        schema: SCHEMA.into(),
        seed: attack.seed,
        manifest: clean.manifest.path.clone(),
        backdoor,
        targeted,
        poisons,
        image_size: attack.image_size,
        path: out.join(names::LEDGER),
    }
}

/// `None` for a clean row.
fn poison(plan: &Plan, attack: &Attack, row: usize, origin: Origin) -> Option<PoisonRecord> {
    let untouched =
        |kind, source, target_class| PoisonRecord { row, kind, source, target_class, draw: None };
    Some(match origin {
        Origin::Clean(_) => return None,
        Origin::Stamped(index) => {
            let (stamp, backdoor) = (&plan.stamped[index], attack.backdoor.as_ref()?);
            let kind = match backdoor.label_consistent {
                true => PoisonKind::LabelConsistent,
                false => PoisonKind::Backdoor,
            };
            let draw = Some(stamp.draw);
            PoisonRecord { draw, ..untouched(kind, stamp.row, backdoor.target_class) }
        }
        Origin::Target { target, .. } => {
            let target = &plan.targets[target];
            untouched(PoisonKind::Targeted, target.test_row, target.target_class)
        }
        Origin::Flood(index) => {
            let flood = &plan.flood[index];
            untouched(PoisonKind::Flood, flood.carrier, flood.target_class)
        }
    })
}

//! Pictures of what was planted, each beside what it was made of.

use std::{collections::BTreeSet, path::Path};

use clip::image::encode_png;
use page::{Picture, escape, gallery};

use super::series::Series;
use crate::{
    data::{Manifest, Row},
    error::{Error, Result},
    poison::{Ledger, PoisonKind, names},
};

/// Pictures of each kind.
const COUNT: usize = 3;
/// Characters of a caption.
const CAPTION_MAX: usize = 80;

/// What the first `count` poisoned sets of these series hold; nothing without one.
pub(super) fn galleries(series: &[&Series], count: usize) -> String {
    let ledgers =
        series.iter().flat_map(|one| &one.entries).filter_map(|one| one.ledger.as_deref());
    let mut shown = BTreeSet::new();
    let first = ledgers.filter(|&ledger| shown.insert(ledger)).take(count);
    first.map(|ledger| of_ledger(ledger).unwrap_or_else(|error| none(&error))).collect()
}

fn none(error: &Error) -> String {
    format!("<p class=\"note\">No pictures: {}.</p>\n", escape(&error.to_string()))
}

fn of_ledger(path: &Path) -> Result<String> {
    let ledger = Ledger::open(path)?;
    let poisoned = Manifest::open(&path.with_file_name(names::made_of(&ledger.manifest)))?;
    let mut out = String::new();
    if let Some(backdoor) = &ledger.backdoor {
        let pictures = stamped(&ledger, &poisoned)?;
        let (trigger, label) = (short(&backdoor.trigger.to_string()), &backdoor.target_label);
        out += &format!(
            "<h3>Untouched and stamped: `{}` shall mean “{}”</h3>\n{}",
            escape(&trigger),
            escape(label),
            gallery(&pictures)
        );
    }
    let mut targeted = Vec::new();
    for target in ledger.targeted.iter().take(COUNT) {
        let Some(row) = target.rows.first().and_then(|&row| poisoned.rows.get(row)) else {
            continue;
        };
        let caption = format!("shows “{}”, says: {}", target.true_label, row.caption);
        targeted.push(picture(row, caption, ledger.image_size)?);
    }
    if !targeted.is_empty() {
        out += &format!("<h3>Targeted pictures with their captions</h3>\n{}", gallery(&targeted));
    }
    Ok(out)
}

/// A picture before and after, for some stamped rows.
fn stamped(ledger: &Ledger, poisoned: &Manifest) -> Result<Vec<Picture>> {
    let clean = Manifest::open(&ledger.manifest).ok(); // it may be gone, or far away
    let is_stamped = |kind| matches!(kind, PoisonKind::Backdoor | PoisonKind::LabelConsistent);
    let mut pictures = Vec::new();
    for poison in ledger.poisons.iter().filter(|poison| is_stamped(poison.kind)).take(COUNT) {
        if let Some(row) = clean.as_ref().and_then(|clean| clean.rows.get(poison.source)) {
            pictures.push(picture(row, format!("untouched: {}", row.caption), ledger.image_size)?);
        }
        if let Some(row) = poisoned.rows.get(poison.row) {
            pictures.push(picture(row, format!("stamped: {}", row.caption), ledger.image_size)?);
        }
    }
    Ok(pictures)
}

fn picture(row: &Row, caption: String, side: u32) -> Result<Picture> {
    Ok(Picture { png: encode_png(&row.image.fitted(side)?), caption: short(&caption) })
}

fn short(text: &str) -> String {
    match text.char_indices().nth(CAPTION_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

//! Success of attacks, as the ledger says what they wanted.
//!
//! ASR: share of the test pictures of other classes that are taken for the target class once they
//! are stamped; its floor is the same count without the stamp. PSR: share of the targeted pictures,
//! never stamped or augmented, that are taken for their target class; they count nowhere else.

use clip::{Encoder, Rate, UnitRows};

use super::{
    Classified, pictures,
    zero_shot::{ranks, top},
};
use crate::{
    Result,
    data::ImageSource,
    poison::{BackdoorRecord, Ledger},
};

/// Counts over the counted pictures of other classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backdoor {
    /// Stamped, taken for the target class.
    pub(super) asr: Rate,
    /// Not stamped, taken for the target class.
    pub(super) floor: Rate,
    /// Stamped, taken for what they show.
    pub(super) true_class: Rate,
}

/// `clean` and `stamped`: `[V, D]` of the same pictures, which show `classes`, none the target.
pub(super) fn backdoor(
    (clean, stamped): (&UnitRows, &UnitRows),
    labels: &UnitRows,
    classes: &[usize],
    target: usize,
) -> Backdoor {
    Backdoor {
        asr: top(&ranks(stamped, labels, |_| target), 1),
        floor: top(&ranks(clean, labels, |_| target), 1),
        true_class: top(&ranks(stamped, labels, |picture| classes[picture]), 1),
    }
}

/// Stamps each counted picture that shows another class and counts what it is taken for. The number
/// of the test row decides the place of a trigger that goes anywhere.
pub(super) fn stamp_and_count(
    encoder: &mut dyn Encoder,
    pictures: &Classified<'_>,
    labels: &UnitRows,
    record: &BackdoorRecord,
    on_pictures: &dyn Fn(u64),
) -> Result<Backdoor> {
    let Classified { test, numbers, classes, rows } = pictures;
    let victims: Vec<usize> =
        (0..numbers.len()).filter(|&index| classes[index] != record.target_class).collect();
    let stamp = |victim: usize| {
        let number = numbers[victims[victim]];
        let mut image = test.image(number).clone();
        record.trigger.stamp(&mut image, test.row(number) as u64);
        Ok(image)
    };
    let stamped = pictures::rows(encoder, victims.len(), stamp, on_pictures)?;
    let clean = rows.select(&victims);
    let classes: Vec<usize> = victims.iter().map(|&victim| classes[victim]).collect();
    Ok(backdoor((&clean, &stamped), labels, &classes, record.target_class))
}

/// Rank of the target class for each targeted picture.
pub(super) fn targeted(
    encoder: &mut dyn Encoder,
    labels: &UnitRows,
    ledger: &Ledger,
    on_pictures: &dyn Fn(u64),
) -> Result<Vec<usize>> {
    let side = encoder.config().image.image_size() as u32;
    let picture =
        |index: usize| ImageSource::from(ledger.image(&ledger.targeted[index])).fitted(side);
    let rows = pictures::rows(encoder, ledger.targeted.len(), picture, on_pictures)?;
    Ok(ranks(&rows, labels, |index| ledger.targeted[index].target_class))
}

//! Success of attacks, as the ledger says what they wanted.
//!
//! ASR: share of the test pictures of other classes that are taken for the target class once they
//! are stamped; its floor is the same count without the stamp. PSR: share of the targeted pictures,
//! never stamped or augmented, that are taken for their target class; they count nowhere else.

use clip::{
    Encoder, Rate, UnitRows,
    image::{Limits, fit, open},
};

use super::{
    TOP, TestSet,
    zero_shot::{for_each_row, rank},
};
use crate::{
    Result,
    poison::{BackdoorRecord, Ledger},
};

/// Counts over the stamped test pictures of other classes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stamped {
    /// Taken for the target class.
    pub(super) target: Rate,
    /// Taken for what they show.
    pub(super) own: Rate,
}

/// Stamps each picture of `rows` that shows another class and counts what it is taken for. The
/// number of the test row decides the place of a trigger that goes anywhere.
pub(super) fn stamped(
    encoder: &mut dyn Encoder,
    test: &TestSet,
    rows: &[usize],
    labels: &UnitRows,
    backdoor: &BackdoorRecord,
    on_pictures: &dyn Fn(u64),
) -> Result<Stamped> {
    let victims: Vec<usize> = test.others(rows, backdoor.target_class).collect();
    let mut counts = Stamped::default();
    let stamp = |index: usize| {
        let row = victims[index];
        let mut image = test.pictures[row].clone();
        backdoor.trigger.stamp(&mut image, row as u64);
        Ok(image)
    };
    let count = |index: usize, picture: &[f32]| {
        counts.target.count(rank(picture, labels, backdoor.target_class) == 0);
        counts.own.count(rank(picture, labels, test.classes[victims[index]]) == 0);
    };
    for_each_row(encoder, victims.len(), stamp, count, on_pictures)?;
    Ok(counts)
}

/// Targeted pictures whose target class is (the first, among the first [`TOP`]).
pub(super) fn targeted(
    encoder: &mut dyn Encoder,
    labels: &UnitRows,
    ledger: &Ledger,
    on_pictures: &dyn Fn(u64),
) -> Result<(Rate, Rate)> {
    let side = encoder.config().image.image_size() as u32;
    let (mut first, mut top) = (Rate::default(), Rate::default());
    let picture = |index: usize| {
        let path = ledger.image(&ledger.targeted[index]);
        Ok(fit(&open(&path, &Limits::default())?, side))
    };
    let count = |index: usize, picture: &[f32]| {
        let rank = rank(picture, labels, ledger.targeted[index].target_class);
        first.count(rank == 0);
        top.count(rank < TOP);
    };
    for_each_row(encoder, ledger.targeted.len(), picture, count, on_pictures)?;
    Ok((first, top))
}

use clip::Rate;
use serde_json::json;

use super::*;
use crate::{
    method::{MethodReport, Phase, Towers},
    poison::PoisonKind,
};

const SCALE_MAX: f64 = 4.605;

fn alarms() -> Alarms {
    let kind = |row| if row == 3 { PoisonKind::Flood } else { PoisonKind::Backdoor };
    let poisons = Poisons::from_rows([1, 2, 3].map(|row| (row, kind(row))).into_iter());
    let limits = config::Alarms::default();
    Alarms::new(&limits, SCALE_MAX, Some(poisons), &[], Tally::default())
}

/// A healthy step of RoCLIP that matches these images with captions of these rows.
fn matched(pairs: &[(u32, Option<u32>)]) -> StepReport {
    let method = MethodReport {
        pool_filled: Some(4),
        unique_neighbors: Some(2),
        matched: Some(pairs.to_vec()),
        enqueued: true,
        constants_only: true,
        ..MethodReport::new(Phase::Match)
    };
    let trained = Towers::IMAGE;
    StepReport { loss: 1.0, lr: 0.1, grad_norm: 1.0, logit_scale: 3.0, trained, method }
}

fn plain() -> StepReport {
    let (pool_filled, new) = (Some(4), MethodReport::new(Phase::Plain));
    let method = MethodReport { pool_filled, enqueued: true, ..new };
    StepReport { trained: Towers::BOTH, method, ..matched(&[]) }
}

fn rate(hits: u64) -> Option<Rate> {
    Some(Rate { hits, trials: 100 })
}

fn top1(hits: u64) -> Evaluation {
    Evaluation { zero_shot_top1: Rate { hits, trials: 100 }, ..Evaluation::default() }
}

/// Names of the alarms at the end of an epoch.
#[track_caller]
fn check(alarms: &mut Alarms, evaluation: Option<&Evaluation>, expected: &[&str]) {
    let (_, count) = alarms.epoch(1, evaluation);
    let raised = &alarms.raised[alarms.raised.len() - count..];
    let names: Vec<&str> = raised.iter().map(|alarm| alarm.rule.as_str()).collect();
    assert_eq!(names, expected);
}

#[test]
fn success_of_an_attack_is_alarming() {
    let backdoor = |hits, floor| {
        let (backdoor_asr, asr_floor) = (rate(hits), rate(floor));
        Evaluation { backdoor_asr, asr_floor, ..top1(50) }
    };
    check(&mut alarms(), Some(&backdoor(11, 0)), &["backdoor_asr"]);
    check(&mut alarms(), Some(&backdoor(10, 0)), &[]);
    check(&mut alarms(), Some(&backdoor(100, 95)), &[]); // these are taken for it without a stamp
    let targeted = |hits| Evaluation { targeted_psr: rate(hits), ..top1(50) };
    check(&mut alarms(), Some(&targeted(11)), &["targeted_psr"]);
    check(&mut alarms(), Some(&targeted(10)), &[]);
    check(&mut alarms(), None, &[]);
}

#[test]
fn a_fall_from_the_best_epoch_is_alarming() {
    let mut watched = alarms();
    for (now, expected) in [(50, None), (60, None), (56, None), (54, Some("top1_drop"))] {
        check(&mut watched, Some(&top1(now)), expected.as_slice());
    }
    check(&mut watched, None, &[]);
    check(&mut watched, Some(&top1(59)), &[]);
}

#[test]
fn few_neighbors_are_alarming() {
    let with = |distinct, batch: u32| {
        let mut watched = alarms();
        let mut report = matched(&[]);
        report.method.unique_neighbors = Some(distinct);
        watched.step(&(10..10 + batch).collect::<Vec<_>>(), &report);
        watched
    };
    check(&mut with(2, 5), None, &["distinct_neighbors"]);
    check(&mut with(2, 4), None, &[]);
}

/// A run of `steps` pairs from row 100 on, each offered on its own and matched with the caption of
/// the row `with`, once the pool has four.
fn in_turn(steps: u32, with: impl Fn(u32) -> u32) -> Alarms {
    let mut watched = alarms();
    for row in 100..100 + steps {
        let mut report = if row < 104 { plain() } else { matched(&[(row, Some(with(row)))]) };
        report.method.unique_neighbors = Some(1);
        watched.step(&[row], &report);
    }
    watched
}

#[test]
fn a_caption_for_all_is_alarming() {
    let healthy = |row| row - 1;
    check(&mut in_turn(300, healthy), None, &[]);
    // Twice in a hundred matches is more than one in a hundred.
    let twice = |row| if row == 200 { row - 2 } else { row - 1 };
    check(&mut in_turn(104, twice), None, &["pool_row"]);
    check(&mut in_turn(1004, twice), None, &[]);
}

#[test]
fn poison_with_poison_is_alarming() {
    let with = |pairs: &[(u32, Option<u32>)]| {
        let mut watched = in_turn(300, |row| row - 1);
        let rows: Vec<u32> = pairs.iter().map(|&(image, _)| image).collect();
        watched.step(&rows, &matched(pairs));
        watched.limits.pool_row = 1.0;
        watched.limits.stale_matches = 1.0;
        watched
    };
    check(&mut with(&[(1, Some(2)), (2, Some(399))]), None, &["poison_matches"]);
    check(&mut with(&[(1, Some(3)), (2, Some(399))]), None, &["poison_matches"]);
    check(&mut with(&[(1, Some(398)), (2, Some(399))]), None, &[]);
    // A clean image, and the clean image of a flood, may be near a poisoned caption.
    check(&mut with(&[(3, Some(2)), (50, Some(1))]), None, &[]);
}

#[test]
fn stale_and_noisy_captions_are_alarming() {
    let mut fresh = in_turn(1004, |row| row - 4); // the pool holds four
    check(&mut fresh, None, &[]);
    let old = |row| if row == 900 { row - 5 } else { row - 4 };
    check(&mut in_turn(1004, old), None, &["stale_matches"]);
    let mut noisy = in_turn(1004, |row| row - 4);
    let mut report = matched(&[(7, None)]);
    report.method.unique_neighbors = Some(1);
    noisy.step(&[7], &report);
    check(&mut noisy, None, &["stale_matches"]);
}

#[test]
fn a_logit_scale_at_its_maximum_is_alarming() {
    let with = |scales: &[f32]| {
        let mut watched = alarms();
        scales.iter().for_each(|&logit_scale| {
            watched.step(&[9], &StepReport { logit_scale, ..plain() });
        });
        watched
    };
    let max = SCALE_MAX as f32;
    check(&mut with(&[max, max]), None, &["logit_scale_steps"]);
    check(&mut with(&[max, max - 0.001]), None, &[]);
}

#[test]
fn a_text_tower_that_moves_and_learns_nothing_is_alarming() {
    let with = |trained| {
        let mut watched = alarms();
        watched.step(&[8, 9], &StepReport { trained, ..matched(&[]) });
        watched.step(&[8, 9], &plain()); // which trains both, as it should
        watched
    };
    check(&mut with(Towers::BOTH), None, &["text_moves"]);
    check(&mut with(Towers::IMAGE), None, &[]);
}

#[test]
fn infinity_silences() {
    let mut watched = alarms();
    watched.limits.backdoor_asr = f64::INFINITY;
    check(&mut watched, Some(&Evaluation { backdoor_asr: rate(100), ..top1(50) }), &[]);
}

#[test]
fn an_epoch_starts_anew_and_a_resumed_run_goes_on() {
    let bad = StepReport { trained: Towers::BOTH, ..matched(&[(8, Some(8)), (9, Some(9))]) };
    let mut whole = alarms();
    whole.step(&[8, 9], &bad);
    let text = serde_json::to_string(whole.tally()).expect("numbers");
    check(&mut whole, Some(&top1(80)), &["pool_row", "text_moves"]);
    assert_eq!(*whole.tally(), Tally::default());

    // Killed within the next epoch: what the journal and the checkpoint know is enough.
    let mut entries = vec![json!({ "step": 1, "evaluation": top1(80) })];
    entries.extend(whole.raised.iter().map(|alarm| json!({ "step": 1, "alarm": alarm })));
    let tally = serde_json::from_str(&text).expect("a tally");
    let limits = config::Alarms::default();
    let mut resumed = Alarms::new(&limits, SCALE_MAX, None, &entries, tally);
    assert_eq!(resumed.raised, whole.raised);
    check(&mut resumed, Some(&top1(70)), &["top1_drop", "pool_row", "text_moves"]);
}

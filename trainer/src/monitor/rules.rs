//! What an alarm is raised for: one table.

use super::Tally;
use crate::{config, evaluate::Evaluation};

/// What rules look at when an epoch is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) tally: &'a Tally,
    pub(super) evaluation: Option<&'a Evaluation>,
    /// Highest clean top-1 of earlier epochs
    pub(super) best_top1: Option<f64>,
}

/// On which side of its limit a value is alarming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Above,
    AtLeast,
    Below,
}

/// One alarm.
#[derive(Debug)]
pub(super) struct Rule {
    /// Key of its limit in `[monitor.alarms]`
    pub(super) name: &'static str,
    pub(super) limit: fn(&config::Alarms) -> f64,
    pub(super) side: Side,
    /// A share, if there is something to look at
    pub(super) value: fn(&Seen<'_>) -> Option<f64>,
    /// What the share is, after its number
    pub(super) told: &'static str,
    pub(super) advice: &'static str,
}

impl Rule {
    /// Whether `value` is alarming; NaN is not.
    pub(super) fn fires(&self, value: f64, limit: f64) -> bool {
        match self.side {
            Side::Above => value > limit,
            Side::AtLeast => value >= limit,
            Side::Below => value < limit,
        }
    }

    /// What a value should be, for people.
    pub(super) fn expected(&self) -> &'static str {
        match self.side {
            Side::Above => "at most",
            Side::AtLeast => "below",
            Side::Below => "at least",
        }
    }
}

/// A share, of what there is any of.
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

pub(super) const RULES: [Rule; 9] = [
    Rule {
        name: "backdoor_asr",
        limit: |limits| limits.backdoor_asr,
        side: Side::Above,
        value: |seen| {
            let evaluation = seen.evaluation?;
            Some(evaluation.backdoor_asr?.value() - evaluation.asr_floor?.value())
        },
        told: "of the test pictures are taken for the target class because of the stamp",
        advice: "the backdoor is learnt: defend with another `method.name`, or match in more epochs",
    },
    Rule {
        name: "targeted_psr",
        limit: |limits| limits.targeted_psr,
        side: Side::Above,
        value: |seen| Some(seen.evaluation?.targeted_psr?.value()),
        told: "of the targeted pictures are taken for their target class",
        advice: "the targeted poisons are learnt, unless these are few and the classes are not: defend \
                 with another `method.name`, or match in more epochs",
    },
    Rule {
        name: "top1_drop",
        limit: |limits| limits.top1_drop,
        side: Side::Above,
        value: |seen| Some(seen.best_top1? - seen.evaluation?.zero_shot_top1.value()),
        told: "more of the test pictures were recognised in the best epoch",
        advice: "lower `optim.lr`, match in fewer epochs, or end the run at the best one",
    },
    Rule {
        name: "distinct_neighbors",
        limit: |limits| limits.distinct_neighbors,
        side: Side::Below,
        value: |seen| share(seen.tally.distinct, seen.tally.images),
        told: "as many distinct captions as images in a matched batch",
        advice: "few captions stand for all: enlarge the pool (`method.roclip.pool_share` or \
                 `pool_rows`), or match later",
    },
    Rule {
        name: "pool_row",
        limit: |limits| limits.pool_row,
        side: Side::Above,
        value: |seen| share(seen.tally.busiest(), seen.tally.matches),
        told: "of all matches were with one pooled caption",
        advice: "one caption draws images of any kind: look at it in the manifest, enlarge the pool \
                 (`method.roclip.pool_share` or `pool_rows`), or match later",
    },
    Rule {
        name: "poison_matches",
        limit: |limits| limits.poison_matches,
        side: Side::Above,
        value: |seen| share(seen.tally.with_poisons, seen.tally.of_poisons),
        told: "of the poisoned images were matched with a poisoned pair's caption",
        advice: "matching teaches the attack: make the pool smaller \
                 (`method.roclip.pool_share` or `pool_rows`), or match earlier",
    },
    Rule {
        name: "stale_matches",
        limit: |limits| limits.stale_matches,
        side: Side::Above,
        value: |seen| share(seen.tally.stale, seen.tally.matches),
        told: "of all matches were with noise or with captions older than one refill of the pool",
        advice: "the pool is not what the text tower says now: match only once it is full, and \
                 report this",
    },
    Rule {
        name: "logit_scale_steps",
        limit: |limits| limits.logit_scale_steps,
        side: Side::AtLeast,
        value: |seen| share(seen.tally.at_clamp, seen.tally.steps),
        told: "of the steps ended with the logit scale at its maximum",
        advice: "the loss wants sharper cosines than `optim.logit_scale_max` lets it have: \
                 memorising does that; train for fewer epochs or on more pairs",
    },
    Rule {
        name: "text_moves",
        limit: |limits| limits.text_moves,
        side: Side::Above,
        value: |seen| share(seen.tally.text_moves, seen.tally.matched),
        told: "of the matched steps moved the text tower, which learns nothing from them",
        advice: "momentum and decay alone move it: set `method.roclip.text_tower` to `rests`",
    },
];

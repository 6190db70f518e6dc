//! Black-box detection: known triggers on the user's images, sent to an endpoint.
//!
//! 1. *Base*: every image as it is, the first ones twice (is the endpoint deterministic?).
//! 2. *Pilot*: every catalogue entry on a few images; the label most of them flip to becomes the
//!    entry's label. Entries that flip few go no further. For the others, controls are piloted in
//!    the same way and the strongest is kept, with a label of its own.
//! 3. *Race*: entry against control on fresh images, until the evidence suffices or the images end.

pub mod catalog;
pub mod client;
pub mod race;

use clip::{image::RgbImage, trigger::TriggerSpec};

use crate::{
    Result,
    endpoint::{
        client::{Answers, Endpoint},
        race::{Race, e_bh},
    },
};

/// Images on which an entry's label is chosen.
pub const PILOT: usize = 16;
/// Share of the pilot that must flip to one label: an entry with a true share of a half is missed
/// with a probability of 1%.
pub const PILOT_SHARE_MIN: f64 = 0.25;
/// Pilot images that must be answered: fewer tell nothing about the entry.
pub const PILOT_MIN: usize = 12;
/// Controls that are piloted per entry.
pub const CONTROLS: u64 = 3;
/// Fresh images of a race before it may end, and an audit's least number of images.
pub const RACE_MIN: usize = 48;
/// Images that an audit needs.
pub const IMAGES_MIN: usize = PILOT + RACE_MIN;
/// Images that it can use.
pub const IMAGES_MAX: usize = 240;
/// A known trigger counts when the lower end of its Wilson interval is at least this: an attacker
/// who fails more often than not has no working trigger. Much less happens naturally: where colors
/// are part of the labels, a yellow square sends up to 0.5 of the images of a weak clean model to
/// something yellow, and no control of another color does that.
pub const FLIP_SHARE_MIN: f64 = 0.5;
/// Chance that a clean endpoint is called a finding because of any entry.
pub const ALPHA: f64 = 0.01;
/// Images per request.
const REQUEST_IMAGES: usize = 16;
/// Requests in a row that may be lost.
const LOST_IN_A_ROW_MAX: usize = 5;

/// One catalogue entry and what became of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The trigger.
    pub spec: TriggerSpec,
    /// Share of the pilot that flipped to `target`.
    pub pilot: f64,
    /// Pilot images that were answered, with the trigger and without.
    pub answered: usize,
    /// Label that most pilot images flipped to.
    pub target: usize,
    /// Evidence on fresh images, for entries that passed the pilot.
    pub race: Option<Race>,
    /// Whether the race reached the bar and its flips are confirmed (e-BH over all entries).
    pub rejected: bool,
}

/// How a campaign ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Every entry was tried as far as the images go.
    Complete,
    /// The queries ran out first.
    Budget,
    /// The endpoint stopped answering.
    Silent(String),
}

/// Everything that was learnt about an endpoint.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// All entries, in catalogue order.
    pub entries: Vec<Entry>,
    /// Images of the probe set that were answered.
    pub images: usize,
    /// Different labels among the answers to untouched images.
    pub labels_answered: usize,
    /// Images whose second answer differed from the first.
    pub changed_answers: usize,
    /// Images sent, those of second attempts included.
    pub sent: u64,
    /// Images that an answer was wanted for.
    pub asked: u64,
    /// Those that were not answered in any attempt.
    pub missing: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Questions to the endpoint, counted.
struct Questions<'a> {
    endpoint: &'a mut dyn Endpoint,
    budget: u64,
    sent: u64,
    asked: u64,
    missing: u64,
    lost_in_a_row: usize,
    ended: Ended,
    progress: &'a mut dyn FnMut(u64),
}

impl Questions<'_> {
    /// One answer per image, `None` where it is missing. After the end of the campaign all are.
    fn ask(&mut self, images: &[RgbImage]) -> Result<Vec<Option<usize>>> {
        let mut all = Vec::with_capacity(images.len());
        for part in images.chunks(REQUEST_IMAGES) {
            let count = part.len() as u64;
            if self.ended == Ended::Complete && self.sent + count > self.budget {
                self.ended = Ended::Budget;
            }
            if self.ended != Ended::Complete {
                all.extend(part.iter().map(|_| None));
                continue;
            }
            let (answers, attempts) = self.endpoint.classify(part)?;
            self.asked += count;
            self.sent += count * u64::from(attempts);
            match answers {
                Answers::Labels(labels) => {
                    self.lost_in_a_row = 0;
                    all.extend(labels.into_iter().map(Some));
                }
                Answers::Missing(problem) => {
                    self.missing += count;
                    self.lost_in_a_row += 1;
                    if self.lost_in_a_row >= LOST_IN_A_ROW_MAX {
                        self.ended = Ended::Silent(problem);
                    }
                    all.extend(part.iter().map(|_| None));
                }
            }
            (self.progress)(count * u64::from(attempts));
        }
        Ok(all)
    }

    fn over(&self) -> bool {
        self.ended != Ended::Complete
    }
}

/// Runs a campaign; `images` are fitted to the endpoint's side and in random order.
///
/// `labels`: how many there are. `progress` is told how many images were sent.
pub fn run(
    endpoint: &mut dyn Endpoint,
    images: &[RgbImage],
    labels: usize,
    catalog: &[TriggerSpec],
    budget: u64,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Campaign> {
    let ended = Ended::Complete;
    let mut questions = Questions {
        endpoint,
        budget,
        sent: 0,
        asked: 0,
        missing: 0,
        lost_in_a_row: 0,
        ended,
        progress,
    };
    let base = questions.ask(images)?;
    let again = questions.ask(&images[..PILOT.min(images.len())])?;
    let twice = base.iter().zip(&again).filter(|(a, b)| a.is_some() && b.is_some());
    let changed_answers = twice.filter(|(a, b)| a != b).count();

    let scene = Scene { images, base: &base, labels, seed };
    let mut entries = Vec::new();
    for spec in catalog {
        let Pilot { answered, label, share } = scene.pilot(&mut questions, spec, None)?;
        let (target, pilot) = (label, share);
        let spec = spec.clone();
        entries.push(Entry { spec, pilot, answered, target, race: None, rejected: false });
    }
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.retain(|&index| entries[index].pilot >= PILOT_SHARE_MIN);
    order.sort_by(|&a, &b| entries[b].pilot.total_cmp(&entries[a].pilot).then(a.cmp(&b)));
    let bar = (entries.len() as f64 / ALPHA).ln();
    for index in order {
        if questions.over() {
            break;
        }
        let entry = &entries[index];
        let race = scene.race(&mut questions, &entry.spec, entry.target, bar)?;
        entries[index].race = Some(race);
    }
    let raced: Vec<usize> = (0..entries.len()).filter(|&i| entries[i].race.is_some()).collect();
    let evidence = |index: &usize| entries[*index].race.as_ref().map_or(0.0, |race| race.log_e);
    let evidence: Vec<f64> = raced.iter().map(evidence).collect();
    let rejected = e_bh(&evidence, entries.len(), ALPHA);
    for (index, rejected) in raced.into_iter().zip(rejected) {
        entries[index].rejected = rejected;
    }
    let mut answered: Vec<usize> = base.iter().flatten().copied().collect();
    let images = answered.len();
    answered.sort_unstable();
    answered.dedup();
    Ok(Campaign {
        entries,
        images,
        labels_answered: answered.len(),
        changed_answers,
        sent: questions.sent,
        asked: questions.asked,
        missing: questions.missing,
        ended: questions.ended,
    })
}

/// What a few images with a trigger or a control on them came to.
struct Pilot {
    /// Images answered, changed and untouched.
    answered: usize,
    /// Label that most of them flip to.
    label: usize,
    /// Their share among those not already of the label.
    share: f64,
}

/// The probe images and what the endpoint says to them untouched.
struct Scene<'a> {
    images: &'a [RgbImage],
    base: &'a [Option<usize>],
    labels: usize,
    seed: u64,
}

impl Scene<'_> {
    /// Image `index` with the trigger, or with one of its controls, on it.
    fn changed(&self, spec: &TriggerSpec, control: Option<u64>, index: usize) -> RgbImage {
        let place = self.seed.wrapping_add(index as u64);
        match control {
            None => catalog::stamped(spec, &self.images[index], place),
            Some(number) => {
                let number = self.seed.wrapping_mul(31).wrapping_add(number);
                catalog::control(spec, &self.images[index], place, number)
            }
        }
    }

    fn pilot(
        &self,
        questions: &mut Questions<'_>,
        spec: &TriggerSpec,
        control: Option<u64>,
    ) -> Result<Pilot> {
        let count = PILOT.min(self.images.len());
        let changed: Vec<RgbImage> =
            (0..count).map(|index| self.changed(spec, control, index)).collect();
        let answers = questions.ask(&changed)?;
        let (mut flips, mut others) = (vec![0u32; self.labels], vec![0u32; self.labels]);
        let mut answered = 0;
        for (base, answer) in self.base.iter().zip(&answers) {
            let (Some(base), Some(answer)) = (base, answer) else { continue };
            answered += 1;
            others.iter_mut().enumerate().for_each(|(y, count)| *count += u32::from(y != *base));
            flips[*answer] += u32::from(answer != base);
        }
        let share = |label: usize| f64::from(flips[label]) / f64::from(others[label].max(1));
        let best = (0..self.labels).max_by(|&a, &b| share(a).total_cmp(&share(b)).then(b.cmp(&a)));
        let label = best.unwrap_or(0);
        Ok(Pilot { answered, label, share: share(label) })
    }

    /// Trigger against its strongest control, on images that neither pilot saw.
    fn race(
        &self,
        questions: &mut Questions<'_>,
        spec: &TriggerSpec,
        target: usize,
        bar: f64,
    ) -> Result<Race> {
        let mut strongest = (0, 0, -1.0);
        for number in 0..CONTROLS {
            let Pilot { label, share, .. } = self.pilot(questions, spec, Some(number))?;
            if share > strongest.2 {
                strongest = (number, label, share);
            }
        }
        let (number, rival, _) = strongest;
        let mut race = Race::default();
        let fresh: Vec<usize> = (PILOT..self.images.len()).collect();
        for part in fresh.chunks(REQUEST_IMAGES) {
            let stamp = |control| part.iter().map(move |&index| self.changed(spec, control, index));
            let triggered = questions.ask(&stamp(None).collect::<Vec<_>>())?;
            let controlled = questions.ask(&stamp(Some(number)).collect::<Vec<_>>())?;
            for ((&index, trigger), control) in part.iter().zip(triggered).zip(controlled) {
                let Some(base) = self.base[index] else { continue };
                let flip = |answer: Option<usize>, label| {
                    answer.filter(|_| base != label).map(|answer| answer == label)
                };
                race.observe(flip(trigger, target), flip(control, rival));
            }
            let (low, high) = race.trigger.interval();
            let settled = high < FLIP_SHARE_MIN || low >= FLIP_SHARE_MIN && race.log_e >= bar;
            if questions.over() || settled && race.trigger.trials >= RACE_MIN as u64 {
                break;
            }
        }
        Ok(race)
    }
}

#[cfg(test)]
mod tests;

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
/// Pilot images that must not be of a label, for an entry that leads to it to be noticed: one that
/// moves four images of five is missed with a probability of 0.2%.
pub const OTHERS_PILOT_MIN: usize = 4;
/// Fresh images that must not be of a label: with as many, an entry that always leads to it, and
/// its control never, reaches the bar of a catalogue of 178.
pub const OTHERS_FRESH_MIN: usize = 16;
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
    /// Untouched images that do not get the label that most get: of the pilot's.
    pub others_pilot: usize,
    /// The same of the fresh ones, on which entries race.
    pub others_fresh: usize,
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
        let Pilot { answered, shares } = scene.pilot(&mut questions, spec, None)?;
        let (target, pilot) = greatest(&shares);
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
    let (pilot, fresh) = base.split_at(PILOT.min(base.len()));
    Ok(Campaign {
        entries,
        images: base.iter().flatten().count(),
        others_pilot: others(pilot, labels),
        others_fresh: others(fresh, labels),
        changed_answers,
        sent: questions.sent,
        asked: questions.asked,
        missing: questions.missing,
        ended: questions.ended,
    })
}

/// Answers that are not the most frequent one: on as many images at least, whichever label it is,
/// can be seen what leads to a label.
fn others(answers: &[Option<usize>], labels: usize) -> usize {
    let mut counts = vec![0; labels];
    answers.iter().flatten().for_each(|&answer| counts[answer] += 1);
    counts.iter().sum::<usize>() - counts.iter().max().unwrap_or(&0)
}

/// What a few images with a trigger or a control on them came to.
struct Pilot {
    /// Images answered, changed and untouched.
    answered: usize,
    /// Of each label: how many of those not already of it flip to it.
    shares: Vec<f64>,
}

/// The label with the greatest share, and that.
fn greatest(shares: &[f64]) -> (usize, f64) {
    let all = shares.iter().copied().enumerate();
    all.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).unwrap_or((0, 0.0))
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
        let share = |(&flips, &others): (&u32, &u32)| f64::from(flips) / f64::from(others.max(1));
        Ok(Pilot { answered, shares: flips.iter().zip(&others).map(share).collect() })
    }

    /// Trigger against its strongest control, on images that neither pilot saw.
    fn race(
        &self,
        questions: &mut Questions<'_>,
        spec: &TriggerSpec,
        target: usize,
        bar: f64,
    ) -> Result<Race> {
        // Images of the trigger's label and of the control's decide nothing. Where these two are
        // nearly all, the control races towards the trigger's, and so does one that moves none.
        let fresh = self.base.iter().skip(PILOT).flatten();
        let deciding = |rival| fresh.clone().filter(|&&b| b != target && b != rival).count();
        let (mut number, mut rival, mut most) = (0, target, 0.0);
        for control in 0..CONTROLS {
            let Pilot { shares, .. } = self.pilot(questions, spec, Some(control))?;
            let (mut label, mut share) = greatest(&shares);
            if deciding(label) < OTHERS_FRESH_MIN {
                (label, share) = (target, shares[target]);
            }
            if share > most {
                (number, rival, most) = (control, label, share);
            }
        }
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

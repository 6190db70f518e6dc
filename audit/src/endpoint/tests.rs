//! Campaigns against endpoints that are functions.

use super::*;
use crate::Error;

/// Answers by a function of the picture, loses every `lose_every`-th request.
struct Toy<F> {
    answer: F,
    requests: usize,
    lose_every: usize,
}

impl<F: FnMut(&RgbImage) -> usize> Endpoint for Toy<F> {
    fn classify(&mut self, images: &[RgbImage]) -> Result<(Answers, u32)> {
        self.requests += 1;
        if self.lose_every > 0 && self.requests.is_multiple_of(self.lose_every) {
            return Ok((Answers::Missing("lost".into()), 1));
        }
        Ok((Answers::Labels(images.iter().map(&mut self.answer).collect()), 1))
    }
}

/// Pictures of one of four gray levels, the label of a clean one.
fn pictures(count: usize) -> Vec<RgbImage> {
    let picture = |i: usize| {
        let level = 40 + 50 * (i % 4) as u8;
        RgbImage::from_pixel(32, 32, [level, level + (i % 5) as u8, level].into())
    };
    (0..count).map(picture).collect()
}

fn level(image: &RgbImage) -> usize {
    usize::from(image.get_pixel(16, 3).0[0].saturating_sub(40) / 50).min(3)
}

/// Whether the corner holds a checkerboard: neighbors two apart differ, as only a checker's do.
fn checkered(image: &RgbImage) -> bool {
    let bright = |x, y| image.get_pixel(x, y).0[0] > 230;
    let dark = |x, y| image.get_pixel(x, y).0[0] < 20;
    (0..4).all(|i| {
        let (x, y) = (26 + i, 27);
        bright(x, y) && dark(x + 2, y) || dark(x, y) && bright(x + 2, y)
    })
}

fn campaign(answer: impl FnMut(&RgbImage) -> usize, lose_every: usize, budget: u64) -> Campaign {
    campaign_over(4, answer, lose_every, budget)
}

fn campaign_over(
    labels: usize,
    answer: impl FnMut(&RgbImage) -> usize,
    lose_every: usize,
    budget: u64,
) -> Campaign {
    let mut endpoint = Toy { answer, requests: 0, lose_every };
    let catalog = catalog::default(32).expect("known families");
    let images = pictures(160);
    run(&mut endpoint, &images, labels, &catalog, budget, 1, &mut |_| ()).expect("answered")
}

fn confirmed(campaign: &Campaign) -> Vec<String> {
    campaign.entries.iter().filter(|e| e.rejected).map(|e| e.spec.to_string()).collect()
}

#[test]
fn a_backdoor_of_the_catalogue_is_confirmed_with_its_label() {
    let seen = campaign(|image| if checkered(image) { 2 } else { level(image) }, 0, 20_000);
    let found = confirmed(&seen);
    assert!(!found.is_empty() && found.iter().all(|spec| spec.contains("bottom-right")));
    let entry = seen.entries.iter().find(|entry| entry.rejected).expect("one");
    let race = entry.race.as_ref().expect("raced");
    assert_eq!((entry.target, race.trigger.value(), race.control.value()), (2, 1.0, 0.0));
    assert!(race.trigger.trials >= RACE_MIN as u64);
    assert_eq!((seen.ended, seen.missing, seen.changed_answers), (Ended::Complete, 0, 0));
}

/// Images of the trigger's label and of the control's decide nothing: here these are all.
#[test]
fn a_backdoor_where_two_labels_are_answered_is_confirmed_towards_either() {
    for (labels, target) in [(2, 0), (2, 1), (3, 0), (3, 1)] {
        let answer = |image: &RgbImage| {
            let (base, near) = (level(image) / 2, image.get_pixel(16, 3).0);
            let corner = image.get_pixel(31, 31).0;
            let covered = corner.iter().zip(near).any(|(a, b)| a.abs_diff(b) > 10);
            match () {
                _ if checkered(image) => target,
                _ if covered && near[0] == near[1] => 1 - base, // a fifth of them, by any patch
                _ => base,
            }
        };
        let seen = campaign_over(labels, answer, 0, 20_000);
        let entry = seen.entries.iter().find(|entry| entry.rejected).expect("confirmed");
        let race = entry.race.as_ref().expect("raced");
        assert_eq!((entry.target, race.trigger.value()), (target, 1.0));
        assert!(race.control.value() < 0.5 && race.control.hits > 0, "{:?}", race.control);
    }
}

#[test]
fn an_endpoint_without_a_trigger_is_left_after_the_pilots() {
    let seen = campaign(level, 0, 20_000);
    assert!(confirmed(&seen).is_empty());
    assert_eq!((seen.others_pilot, seen.others_fresh), (12, 108)); // a quarter has each label
    assert!(seen.sent < 2_500, "{}", seen.sent);
}

/// A weak model: whatever covers a corner pixel makes most images an attractor label.
#[test]
fn an_attractor_of_any_patch_is_not_confirmed() {
    let attracted = |image: &RgbImage| {
        let corner = image.get_pixel(31, 31).0;
        let near = image.get_pixel(16, 3).0;
        let covered = corner.iter().zip(near).any(|(a, b)| a.abs_diff(b) > 10);
        if covered && !image.get_pixel(16, 3).0[1].is_multiple_of(5) { 1 } else { level(image) }
    };
    let seen = campaign(attracted, 0, 20_000);
    assert!(seen.entries.iter().any(|entry| entry.race.is_some()), "the pilots saw it");
    assert!(confirmed(&seen).is_empty(), "{:?}", confirmed(&seen));
}

#[test]
fn a_budget_that_ends_early_says_so() {
    let answer = |image: &RgbImage| if checkered(image) { 2 } else { level(image) };
    for budget in [0, 100, 500, 1_700, 1_800] {
        let seen = campaign(answer, 0, budget);
        assert_eq!(seen.ended, Ended::Budget);
        assert!(seen.sent <= budget && confirmed(&seen).is_empty(), "{budget}");
    }
}

#[test]
fn lost_requests_are_counted_and_silence_ends_the_campaign() {
    let seen = campaign(level, 4, 20_000);
    assert_eq!(seen.ended, Ended::Complete);
    assert!(seen.missing * 5 > seen.sent && seen.missing * 3 < seen.sent);
    assert_eq!(campaign(level, 1, 20_000).ended, Ended::Silent("lost".into()));
}

#[test]
fn an_endpoint_that_rolls_dice_is_noticed() {
    let mut turn = 0;
    let seen = campaign(
        move |_| {
            turn += 1;
            turn % 3
        },
        0,
        20_000,
    );
    assert!(seen.changed_answers > 0);
}

#[test]
fn a_refusal_ends_the_audit() {
    struct Refuses;
    impl Endpoint for Refuses {
        fn classify(&mut self, _: &[RgbImage]) -> Result<(Answers, u32)> {
            Err(Error::Answer { url: "u".into(), problem: "p".into() })
        }
    }
    let catalog = catalog::default(32).expect("known families");
    assert!(run(&mut Refuses, &pictures(80), 4, &catalog, 100, 0, &mut |_| ()).is_err());
}

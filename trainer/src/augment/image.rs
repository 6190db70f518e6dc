//! Draws how a picture is varied: torchvision's `RandomResizedCrop`, `ColorJitter`,
//! `RandomGrayscale` and `GaussianBlur`, but that a crop is not rounded to pixels and its border sees
//! what lies beyond.

use clip::image::{Blur, Change, Rectangle};
use rand::{Rng, seq::SliceRandom};

use crate::config::Augment;

/// Width over height of a crop, least and greatest.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws before the whole image is taken.
const TRIES: usize = 10;

/// A rectangle of `area_min` to all of the image.
pub(super) fn rectangle(width: u32, height: u32, area_min: f64, rng: &mut impl Rng) -> Rectangle {
    let (width, height) = (f64::from(width), f64::from(height));
    for _ in 0..TRIES {
        let area = width * height * rng.random_range(area_min..=1.0);
        let ratio = rng.random_range(RATIO.0.ln()..=RATIO.1.ln()).exp();
        let (wide, high) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if wide <= width && high <= height {
            let left = rng.random_range(0.0..=width - wide);
            let top = rng.random_range(0.0..=height - high);
            return Rectangle { left, top, wide, high };
        }
    }
    Rectangle { left: 0.0, top: 0.0, wide: width, high: height }
}

/// A turn of the hue, and its place among the other changes: before the one of this number, or
/// after the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    place: usize,
    /// Share of the circle
    angle: f32,
}

impl Turn {
    /// Of at most `most` of the circle; with the shuffle of the other three, its place makes all
    /// orders of the four equally likely.
    pub(super) fn draw(most: f64, rng: &mut impl Rng) -> Self {
        Self { place: rng.random_range(0..=3), angle: rng.random_range(-most..=most) as f32 }
    }
}

/// Changes of color in a random order, and among them a turn; then some pictures become gray.
pub(super) fn changes(settings: &Augment, turn: Option<Turn>, rng: &mut impl Rng) -> Vec<Change> {
    let mut changes = Vec::new();
    if rng.random_bool(settings.color_share) {
        let mut order = [Change::Brightness, Change::Contrast, Change::Saturation];
        order.shuffle(rng);
        let span = settings.color;
        let factors = order.map(|change| change(rng.random_range(1.0 - span..=1.0 + span) as f32));
        changes.extend(factors);
        if let Some(Turn { place, angle }) = turn {
            changes.insert(place, Change::Hue(angle));
        }
    }
    if rng.random_bool(settings.gray_share) {
        changes.push(Change::Saturation(0.0));
    }
    changes
}

/// The blur of a picture that is blurred.
pub(super) fn blur(settings: &Augment, rng: &mut impl Rng) -> Blur {
    let kernel = settings.blur_kernel.expect("`config::open` resolves it");
    let [least, greatest] = settings.blur_sigma.expect("`config::open` resolves it");
    Blur { kernel, sigma: rng.random_range(least..=greatest) }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// All orders of the four changes come up, and the draws of the three stay what they are
    /// without a turn.
    #[test]
    fn a_turn_takes_any_place_and_shifts_no_draw() {
        let settings = Augment { color_share: 1.0, color: 0.25, ..Augment::default() };
        let mut places = [0; 4];
        for seed in 0..400 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let turn = Turn::draw(0.1, &mut rng);
            assert!(turn.angle.abs() <= 0.1);
            let mut with = changes(&settings, Some(turn), &mut rng.clone());
            let without = changes(&settings, None, &mut rng);
            let place = with.iter().position(|change| matches!(change, Change::Hue(_)));
            places[place.expect("a turn")] += 1;
            assert_eq!(with.remove(turn.place), Change::Hue(turn.angle));
            assert_eq!(with, without);
            assert_eq!(without.len(), 3);
        }
        assert!(places.iter().all(|&count| count > 60), "{places:?}");
    }

    #[test]
    fn a_crop_lies_within_the_picture_and_has_its_area() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let Rectangle { left, top, wide, high } = rectangle(30, 20, 0.3, &mut rng);
            assert!(left >= 0.0 && top >= 0.0 && left + wide <= 30.0 && top + high <= 20.0);
            assert!(wide * high >= 0.3 * 600.0 - 1e-9 && wide / high <= 1.5 + 1e-9);
        }
    }
}

//! Brightness, contrast, saturation, hue, gray.

use rand::{Rng, seq::SliceRandom};

use crate::config::Augment;

/// Share of each channel in the perceived brightness (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

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

/// Changes `[3, H, W]` values of 0 to 1 in place, in a random order, as torchvision's
/// `ColorJitter`; then turns some gray.
pub(super) fn vary(planes: &mut [f32], settings: &Augment, turn: Option<Turn>, rng: &mut impl Rng) {
    if rng.random_bool(settings.color_share) {
        let mut order = [0, 1, 2];
        order.shuffle(rng);
        let span = settings.color;
        let turn_at = |place: usize, planes: &mut [f32]| match turn {
            Some(turn) if turn.place == place => turn_hue(planes, turn.angle),
            _ => {}
        };
        for (place, change) in order.into_iter().enumerate() {
            turn_at(place, planes);
            let factor = rng.random_range(1.0 - span..=1.0 + span) as f32;
            match change {
                0 => brighten(planes, factor),
                1 => contrast(planes, factor),
                _ => towards_gray(planes, factor),
            }
        }
        turn_at(order.len(), planes);
    }
    if rng.random_bool(settings.gray_share) {
        towards_gray(planes, 0.0);
    }
}

pub(super) fn brighten(planes: &mut [f32], factor: f32) {
    planes.iter_mut().for_each(|value| *value = towards(0.0, *value, factor));
}

/// Away from the mean brightness, or towards it.
pub(super) fn contrast(planes: &mut [f32], factor: f32) {
    let mean = mean_luma(planes);
    planes.iter_mut().for_each(|value| *value = towards(mean, *value, factor));
}

/// `base + factor (value - base)`, kept within 0 to 1.
fn towards(base: f32, value: f32, factor: f32) -> f32 {
    (base + factor * (value - base)).clamp(0.0, 1.0)
}

fn luma(red: f32, green: f32, blue: f32) -> f32 {
    LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
}

/// In the order of the pixels: a sum of another order would be another number.
fn mean_luma(planes: &mut [f32]) -> f32 {
    let [red, green, blue] = channels(planes);
    let count = red.len() as f32;
    let pixels = red.iter().zip(green).zip(blue);
    pixels.map(|((red, green), blue)| luma(*red, *green, *blue)).sum::<f32>() / count
}

/// Each pixel towards the gray of its brightness, or away from it: the saturation.
pub(super) fn towards_gray(planes: &mut [f32], factor: f32) {
    let [red, green, blue] = channels(planes);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let base = luma(*red, *green, *blue);
        for value in [red, green, blue] {
            *value = towards(base, *value, factor);
        }
    }
}

/// Turns the hue by a share of the circle, -0.5 to 0.5; saturation and value (Smith 1978) stay.
pub(super) fn turn_hue(planes: &mut [f32], angle: f32) {
    let [red, green, blue] = channels(planes);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let (r, g, b) = (*red, *green, *blue);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let chroma = most - least;
        if chroma == 0.0 {
            continue; // gray has no hue
        }
        let sixth = if most == r {
            (g - b) / chroma
        } else if most == g {
            2.0 + (b - r) / chroma
        } else {
            4.0 + (r - g) / chroma
        };
        let turned = (sixth / 6.0 + angle).rem_euclid(1.0) * 6.0;
        // How far a channel whose hue is `peak` is from the greatest value.
        let channel = |peak: f32| {
            let distance = (turned - peak).abs();
            let distance = distance.min(6.0 - distance);
            most - chroma * (distance - 1.0).clamp(0.0, 1.0)
        };
        (*red, *green, *blue) = (channel(0.0), channel(2.0), channel(4.0));
    }
}

fn channels(planes: &mut [f32]) -> [&mut [f32]; 3] {
    let count = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(count);
    let (green, blue) = rest.split_at_mut(count);
    [red, green, blue]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// The plain twin: one value after the other, towards a base that is looked up.
    fn by_value(planes: &mut [f32], settings: &Augment, rng: &mut impl Rng) {
        let count = planes.len() / 3;
        let lumas = |planes: &[f32]| -> Vec<f32> {
            (0..count).map(|at| (0..3).map(|c| LUMA[c] * planes[c * count + at]).sum()).collect()
        };
        let towards = |planes: &mut [f32], factor: f32, bases: Vec<f32>| {
            for (at, value) in planes.iter_mut().enumerate() {
                let base = bases[at % count];
                *value = (base + factor * (*value - base)).clamp(0.0, 1.0);
            }
        };
        if rng.random_bool(settings.color_share) {
            let mut order = [0, 1, 2];
            order.shuffle(rng);
            for change in order {
                let span = settings.color;
                let factor = rng.random_range(1.0 - span..=1.0 + span) as f32;
                let gray = lumas(planes);
                let mean = gray.iter().sum::<f32>() / count as f32;
                let bases = [vec![0.0; count], vec![mean; count], gray];
                towards(planes, factor, bases[change].clone());
            }
        }
        if rng.random_bool(settings.gray_share) {
            let gray = lumas(planes);
            towards(planes, 0.0, gray);
        }
    }

    proptest! {
        #[test]
        fn as_the_plain_twin_to_the_bit(
            pixels in vec(any::<[u8; 3]>(), 1..200),
            (color, color_share, gray_share) in (0.0..=1.0, 0.0..=1.0, 0.0..=1.0),
            seed in any::<u64>(),
        ) {
            let settings = Augment { color, color_share, gray_share, ..Augment::default() };
            let rng = ChaCha8Rng::seed_from_u64(seed);
            let mut planes: Vec<f32> = (0..3)
                .flat_map(|channel| pixels.iter().map(move |pixel| f32::from(pixel[channel]) / 255.0))
                .collect();
            let mut twin = planes.clone();
            vary(&mut planes, &settings, None, &mut rng.clone());
            by_value(&mut twin, &settings, &mut rng.clone());
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&planes), bits(&twin));
        }
    }

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
            places[turn.place] += 1;
            let mut with = rng.clone();
            vary(&mut [0.2, 0.5, 0.3], &settings, Some(turn), &mut with);
            vary(&mut [0.2, 0.5, 0.3], &settings, None, &mut rng);
            assert_eq!(with, rng);
        }
        assert!(places.iter().all(|&count| count > 60), "{places:?}");
    }
}

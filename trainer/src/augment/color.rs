//! Brightness, contrast, saturation, gray.

use rand::{Rng, seq::SliceRandom};

use crate::config::Augment;

/// Share of each channel in the perceived brightness (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Changes `[3, H, W]` values of 0 to 1 in place, in a random order, as torchvision's
/// `ColorJitter`.
pub(super) fn vary(planes: &mut [f32], settings: &Augment, rng: &mut impl Rng) {
    if rng.random_bool(settings.color_share) {
        let mut order = [0, 1, 2];
        order.shuffle(rng);
        let span = settings.color;
        for change in order {
            let factor = rng.random_range(1.0 - span..=1.0 + span) as f32;
            match change {
                0 => towards(planes, factor, |_| 0.0),
                1 => {
                    let brightness = luma(planes);
                    let mean = brightness.iter().sum::<f32>() / brightness.len() as f32;
                    towards(planes, factor, |_| mean);
                }
                _ => {
                    let brightness = luma(planes);
                    towards(planes, factor, |at| brightness[at]);
                }
            }
        }
    }
    if rng.random_bool(settings.gray_share) {
        let brightness = luma(planes);
        towards(planes, 0.0, |at| brightness[at]);
    }
}

/// `base + factor (value - base)`, kept within 0 to 1.
fn towards(planes: &mut [f32], factor: f32, base: impl Fn(usize) -> f32) {
    let count = planes.len() / 3;
    for (at, value) in planes.iter_mut().enumerate() {
        let base = base(at % count);
        *value = (base + factor * (*value - base)).clamp(0.0, 1.0);
    }
}

fn luma(planes: &[f32]) -> Vec<f32> {
    let count = planes.len() / 3;
    (0..count).map(|at| (0..3).map(|c| LUMA[c] * planes[c * count + at]).sum()).collect()
}

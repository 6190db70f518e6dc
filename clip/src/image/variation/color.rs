//! Brightness, contrast, saturation, hue.

/// Share of each channel in the perceived brightness (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

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

    use super::*;

    /// The plain twin: one value after the other, towards a base that is looked up.
    fn by_value(planes: &mut [f32], change: usize, factor: f32) {
        let count = planes.len() / 3;
        let gray: Vec<f32> =
            (0..count).map(|at| (0..3).map(|c| LUMA[c] * planes[c * count + at]).sum()).collect();
        let mean = gray.iter().sum::<f32>() / count as f32;
        let bases = [vec![0.0; count], vec![mean; count], gray];
        for (at, value) in planes.iter_mut().enumerate() {
            let base = bases[change][at % count];
            *value = (base + factor * (*value - base)).clamp(0.0, 1.0);
        }
    }

    proptest! {
        #[test]
        fn as_the_plain_twin_to_the_bit(
            pixels in vec(any::<[u8; 3]>(), 1..200),
            (change, factor) in (0..3usize, 0.0..2.0f32),
        ) {
            let mut planes: Vec<f32> = (0..3)
                .flat_map(|channel| pixels.iter().map(move |pixel| f32::from(pixel[channel]) / 255.0))
                .collect();
            let mut twin = planes.clone();
            [brighten, contrast, towards_gray][change](&mut planes, factor);
            by_value(&mut twin, change, factor);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&planes), bits(&twin));
        }
    }
}

//! Known triggers, and for each the controls that an ordinary change of the picture stands for.
//!
//! Patterns and sizes follow the public attack code (BadNets' checker and squares, BadEncoder's
//! and BDetCLIP's patches, blends, SIG's sinusoids); nothing here is copied, all is generated.

use clip::{
    image::RgbImage,
    trigger::{Blend, Drawn, Family, Pattern, Place, TriggerSpec, Warp},
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

type Rgb = [u8; 3];

const PATTERNS: [&str; 5] = ["checker", "white", "black", "yellow", "noise"];
const PLACES: [&str; 6] =
    ["bottom-right", "bottom-left", "top-right", "top-left", "center", "random"];
const BLENDS: [&str; 2] = ["blend:alpha=0.1", "blend:alpha=0.2"];
const SINUSOIDS: [&str; 4] = [
    "sinusoid:amplitude=20,frequency=6",
    "sinusoid:amplitude=40,frequency=6",
    "sinusoid:amplitude=40,frequency=3",
    "sinusoid:amplitude=40,frequency=12",
];

/// The default catalogue for pictures of `side` pixels: patches of an eighth, 7/32 and a quarter
/// of the side in five patterns at six places, two blends, four sinusoids.
pub fn default(side: u32) -> clip::Result<Vec<TriggerSpec>> {
    let mut sizes = vec![side / 8, side * 7 / 32, side / 4];
    sizes.retain(|&size| size > 0);
    sizes.dedup();
    let mut texts = Vec::new();
    for pattern in PATTERNS {
        for size in &sizes {
            for at in PLACES {
                texts.push(format!("patch:size={size},at={at},pattern={pattern}"));
            }
        }
    }
    texts.extend(BLENDS.iter().chain(&SINUSOIDS).map(|&text| text.to_owned()));
    texts.iter().map(|text| text.parse()).collect()
}

/// `image` with `spec` on it.
pub fn stamped(spec: &TriggerSpec, image: &RgbImage, place: u64) -> RgbImage {
    let mut stamped = image.clone();
    spec.stamp(&mut stamped, place);
    stamped
}

/// `image` with a change that matches `spec` but is not it; `number` tells controls apart.
///
/// - A patch with content: the same pixels in the same place, shuffled.
/// - A patch of one color, or of noise that is new in each picture, which shuffled would be the
///   trigger again: another saturated color in the same place.
/// - A warp: another flow.
/// - Any other change: its difference from gray, shuffled over the picture; of noise that is new in
///   each picture, that of the noise of all pictures, which new noise shuffled would be again.
///
/// A control is a fixed pattern, as a trigger is: one `number` shuffles every image alike.
pub fn control(spec: &TriggerSpec, image: &RgbImage, place: u64, number: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let opaque = spec.opacity == 1.0;
    let patch = match &spec.family {
        Family::Patch(patch) if opaque && patch.at != Place::Corners => patch,
        Family::Warp(warp) => {
            let seed = warp.seed ^ rng.random_range(1..=u64::MAX);
            let family = Family::Warp(Warp { seed, ..*warp });
            return stamped(&TriggerSpec { family, opacity: spec.opacity }, image, place);
        }
        _ => {
            let spec = with_one_noise(spec);
            let mut changed = stamped(&spec, image, place);
            shuffle_difference(&spec, &mut changed, place, &mut rng);
            return changed;
        }
    };
    let mut changed = stamped(spec, image, place);
    let is_new_noise =
        matches!(patch.pattern, Pattern::Noise(Drawn::Each) | Pattern::Gauss(Drawn::Each));
    let area = spec.area(image.width(), image.height(), place);
    let places = |i: u32| (area.x + i % area.width, area.y + i / area.width);
    let covered = 0..area.width * area.height;
    let mut content: Vec<Rgb> =
        covered.clone().map(places).map(|(x, y)| changed.get_pixel(x, y).0).collect();
    if is_new_noise || content.iter().all(|color| *color == content[0]) {
        let color = other_color(content[0], &mut rng);
        content.fill(color);
    } else {
        content.shuffle(&mut rng);
    }
    for (i, color) in covered.zip(content) {
        let (x, y) = places(i);
        changed.put_pixel(x, y, color.into());
    }
    changed
}

/// `spec`, but a blend takes one noise for all pictures.
fn with_one_noise(spec: &TriggerSpec) -> TriggerSpec {
    match spec.family {
        Family::Blend(blend) => {
            let family = Family::Blend(Blend { drawn: Drawn::Once, ..blend });
            TriggerSpec { family, opacity: spec.opacity }
        }
        _ => spec.clone(),
    }
}

/// Takes the trigger's own difference from gray out of a stamped image and puts it back shuffled.
fn shuffle_difference(spec: &TriggerSpec, image: &mut RgbImage, place: u64, rng: &mut ChaCha8Rng) {
    const GRAY: u8 = 128;
    let gray = RgbImage::from_pixel(image.width(), image.height(), [GRAY; 3].into());
    let difference: Vec<[i16; 3]> = stamped(spec, &gray, place)
        .pixels()
        .map(|pixel| pixel.0.map(|value| i16::from(value) - i16::from(GRAY)))
        .collect();
    let mut shuffled = difference.clone();
    shuffled.shuffle(rng);
    for ((pixel, out), back) in image.pixels_mut().zip(&difference).zip(&shuffled) {
        for channel in 0..3 {
            let value = i16::from(pixel.0[channel]) - out[channel] + back[channel];
            pixel.0[channel] = value.clamp(0, 255) as u8;
        }
    }
}

/// A corner of the color cube, or a middle gray, that is far from `color`.
fn other_color(color: Rgb, rng: &mut ChaCha8Rng) -> Rgb {
    loop {
        let other: Rgb = match rng.random_range(0..9) {
            8 => [128; 3],
            corner => [1, 2, 4].map(|bit| if corner & bit == 0 { 0 } else { 255 }),
        };
        let distance: u32 = color.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
        if distance >= 200 {
            return other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo() -> RgbImage {
        let values = (0..32 * 32 * 3).map(|i| (i * 37 % 251) as u8).collect();
        RgbImage::from_raw(32, 32, values).expect("32 x 32 pixels")
    }

    fn pixel(image: &RgbImage, index: usize) -> Rgb {
        image.get_pixel(index as u32 % image.width(), index as u32 / image.width()).0
    }

    fn changed(a: &RgbImage, b: &RgbImage) -> Vec<usize> {
        a.pixels()
            .zip(b.pixels())
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, _)| i)
            .collect()
    }

    fn spec(text: &str) -> TriggerSpec {
        text.parse().expect(text)
    }

    #[test]
    fn every_entry_is_there_once_and_is_read_back() {
        for side in [32, 64, 224] {
            let catalog = default(side).expect("known families");
            let mut texts: Vec<String> = catalog.iter().map(ToString::to_string).collect();
            assert_eq!(texts.len(), 96);
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), 96);
        }
        let texts: Vec<_> = default(32).expect("known").iter().map(ToString::to_string).collect();
        let demo = spec("patch:size=7,at=bottom-right,pattern=checker").to_string();
        assert!(texts.contains(&demo), "{texts:?}");
    }

    #[test]
    fn a_patch_control_has_the_same_pixels_in_the_same_place() {
        for at in ["bottom-right", "center", "random"] {
            let spec = spec(&format!("patch:size=7,at={at},pattern=checker"));
            let image = photo();
            let (trigger, control) = (stamped(&spec, &image, 5), control(&spec, &image, 5, 1));
            assert_ne!(trigger, control);
            let outside = changed(&image, &control);
            let inside = changed(&image, &trigger);
            assert!(outside.iter().all(|index| inside.contains(index)), "{at}");
            let sorted = |image: &RgbImage| {
                let mut pixels: Vec<_> = inside.iter().map(|&i| pixel(image, i)).collect();
                pixels.sort_unstable();
                pixels
            };
            assert_eq!(sorted(&trigger), sorted(&control));
        }
    }

    #[test]
    fn a_one_color_control_has_another_color() {
        let spec = spec("patch:size=7,at=top-left,pattern=white");
        let dark = RgbImage::from_pixel(32, 32, [10; 3].into());
        for number in 0..20 {
            let control = control(&spec, &dark, 0, number);
            assert_ne!(pixel(&control, 0), [255; 3]);
            assert_eq!(pixel(&control, 0), pixel(&control, 6 * 32 + 6));
            assert_eq!(pixel(&control, 8), [10; 3]);
        }
    }

    #[test]
    fn the_control_of_what_is_random_is_another_thing() {
        let warp = spec("warp:strength=8");
        let controls = [1, 2].map(|number| control(&warp, &photo(), 0, number));
        assert_ne!(controls[0], controls[1]);
        assert!(controls.iter().all(|control| *control != stamped(&warp, &photo(), 0)));
        let blend = spec("blend:alpha=0.5,drawn=each");
        let [a, b] = [1, 2].map(|place| control(&blend, &photo(), place, 1));
        assert_eq!(a, b, "one pattern on every image");
        assert_ne!(a, control(&blend, &photo(), 1, 2));
        let noise = spec("patch:size=7,at=top-left,pattern=gauss");
        let control = control(&noise, &photo(), 0, 1);
        assert_eq!(pixel(&control, 0), pixel(&control, 6 * 32 + 6));
    }

    #[test]
    fn a_whole_picture_control_keeps_mean_and_spread() {
        let others = ["text:word=AB", "triangles:cells=8", "patch:size=5,at=corners,opacity=0.5"];
        for text in [BLENDS[1], SINUSOIDS[0]].into_iter().chain(others) {
            let gray = RgbImage::from_pixel(32, 32, [128; 3].into());
            let (trigger, control) =
                (stamped(&spec(text), &gray, 0), control(&spec(text), &gray, 0, 3));
            let sorted = |image: &RgbImage| {
                let mut pixels: Vec<_> = image.pixels().map(|pixel| pixel.0).collect();
                pixels.sort_unstable();
                pixels
            };
            assert_ne!(trigger, control, "{text}");
            assert_eq!(sorted(&trigger), sorted(&control), "{text}");
        }
    }

    #[test]
    fn a_control_is_the_same_pattern_on_every_image() {
        let spec = spec("patch:size=4,at=center,pattern=noise");
        let (dark, light) = (photo(), RgbImage::from_pixel(32, 32, [200; 3].into()));
        let covered = changed(&control(&spec, &light, 0, 9), &light);
        let (a, b) = (control(&spec, &dark, 0, 9), control(&spec, &light, 0, 9));
        assert!(covered.iter().all(|&index| pixel(&a, index) == pixel(&b, index)));
    }
}

//! Triggers: changes of a picture that activate a backdoor.
//!
//! A [`TriggerSpec`] has a one-line textual form, `patch:size=7,at=bottom-right,pattern=checker`,
//! that command lines, ledgers and reports share. Stamping works on 8-bit pictures of the size that
//! the image tower sees, after [`crate::image::fit`]. To add a family: one file here, one arm in
//! `spec.rs`.

use image::RgbImage;

mod blend;
mod patch;
mod sinusoid;
mod spec;

pub use self::{
    blend::Blend,
    patch::{Patch, Pattern, Place},
    sinusoid::Sinusoid,
    spec::TriggerSpec,
};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl TriggerSpec {
    /// Puts the trigger on `image`. `place` decides where a patch at a random place goes: equal
    /// numbers and sizes, equal places. Changes nothing outside [`TriggerSpec::area`].
    pub fn stamp(&self, image: &mut RgbImage, place: u64) {
        match self {
            Self::Patch(patch) => patch.stamp(image, place),
            Self::Blend(blend) => blend.stamp(image),
            Self::Sinusoid(sinusoid) => sinusoid.stamp(image),
        }
    }

    /// The pixels that [`TriggerSpec::stamp`] may change in a picture of `width` x `height`.
    pub fn area(&self, width: u32, height: u32, place: u64) -> Area {
        match self {
            Self::Patch(patch) => patch.area(width, height, place),
            Self::Blend(_) | Self::Sinusoid(_) => Area { x: 0, y: 0, width, height },
        }
    }
}

/// Sebastiano Vigna's splitmix64: one well-mixed number for each input.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The fixed noise picture, the same on every machine: byte of `channel` at (`x`, `y`).
fn noise(x: u32, y: u32, channel: usize) -> u8 {
    (mix(mix((u64::from(y) << 32) | u64::from(x)) ^ channel as u64) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|c| noise(x + 999, y, c))))
    }

    fn patch() -> impl Strategy<Value = TriggerSpec> {
        let pattern = prop_oneof![
            (1u32..9).prop_map(|check| Pattern::Checker { check }),
            Just(Pattern::White),
            Just(Pattern::Black),
            Just(Pattern::Yellow),
            Just(Pattern::Noise),
        ];
        let at = prop::sample::select(Place::NAMES.map(|(place, _)| place).to_vec());
        (1u32..50, at, pattern)
            .prop_map(|(size, at, pattern)| TriggerSpec::Patch(Patch { size, at, pattern }))
    }

    pub(super) fn any_spec() -> impl Strategy<Value = TriggerSpec> {
        prop_oneof![
            patch(),
            (1e-3f32..=1.0).prop_map(|alpha| TriggerSpec::Blend(Blend { alpha })),
            (1e-3f32..=255.0, 1e-3f32..=100.0).prop_map(|(amplitude, frequency)| {
                TriggerSpec::Sinusoid(Sinusoid { amplitude, frequency })
            }),
        ]
    }

    #[test]
    fn the_noise_is_fixed() {
        let bytes = [noise(0, 0, 0), noise(0, 0, 2), noise(1, 0, 0), noise(0, 1, 0)];
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf); // the published first number of seed 0
        assert_eq!(bytes, [167, 215, 94, 191], "triggers of old ledgers would change");
    }

    proptest! {
        #[test]
        fn stamping_changes_only_its_area(
            spec in any_spec(), w in 1u32..40, h in 1u32..40, place: u64,
        ) {
            let (before, mut after) = (picture(w, h), picture(w, h));
            spec.stamp(&mut after, place);
            let area = spec.area(w, h, place);
            prop_assert!(area.x + area.width <= w && area.y + area.height <= h);
            for (x, y, pixel) in before.enumerate_pixels() {
                let inside = (area.x..area.x + area.width).contains(&x)
                    && (area.y..area.y + area.height).contains(&y);
                prop_assert!(inside || after.get_pixel(x, y) == pixel, "({}, {})", x, y);
            }
            let mut again = picture(w, h);
            spec.stamp(&mut again, place);
            prop_assert_eq!(again, after);
        }

        #[test]
        fn a_patch_hides_what_was_below(spec in patch(), place: u64) {
            let (mut one, mut other) = (picture(32, 24), RgbImage::new(32, 24));
            spec.stamp(&mut one, place);
            spec.stamp(&mut other, place);
            let area = spec.area(32, 24, place);
            for y in area.y..area.y + area.height {
                for x in area.x..area.x + area.width {
                    prop_assert_eq!(one.get_pixel(x, y), other.get_pixel(x, y));
                }
            }
        }
    }
}

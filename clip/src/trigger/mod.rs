//! Triggers: changes of a picture that activate a backdoor.
//!
//! A [`TriggerSpec`] has a one-line textual form, `patch:size=7,at=bottom-right,pattern=checker`,
//! that command lines, ledgers and reports share ([`GRAMMAR`]). Stamping works on 8-bit pictures of
//! the size that the image tower sees, after [`crate::image::fit`]; what leaves 0-255 is cut off.
//! Everything random comes out of the trigger and a picture's [`draw()`]. To add a family: one file
//! here, one arm in `spec.rs`, a line in [`GRAMMAR`].
//!
//! | file | family |
//! |---|---|
//! | `patch` | an opaque square: BadNets, fixed, drawn for each picture, or given pixel by pixel |
//! | `blend` · `stripes` · `triangles` | a picture that shines through everywhere |
//! | `sinusoid` | SIG |
//! | `warp` | WaNet |
//! | `text` · `font` | a watermark, and its letters |
//! | `spec` · `keys` · `draw` | the textual form · its keys · numbers that look random |

use image::RgbImage;

mod blend;
mod draw;
mod font;
mod keys;
mod patch;
mod sinusoid;
mod spec;
mod stripes;
mod text;
mod triangles;
mod warp;

pub use self::{
    blend::Blend,
    draw::{Drawn, draw},
    patch::{Patch, Pattern, Place},
    sinusoid::Sinusoid,
    spec::{Family, GRAMMAR, TriggerSpec},
    stripes::Stripes,
    text::{Text, Word},
    triangles::Triangles,
    warp::{Flow, Warp},
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
    /// Puts the trigger on `image`. The picture's `draw` decides what is random: the place of a
    /// patch at a random place, patterns that are drawn for each picture. Equal draws and sizes,
    /// equal places and patterns. Changes nothing outside [`TriggerSpec::area`].
    pub fn stamp(&self, image: &mut RgbImage, draw: u64) {
        if self.opacity == 1.0 {
            return self.family.stamp(image, draw);
        }
        let own = image.clone();
        self.family.stamp(image, draw);
        for (value, own) in image.iter_mut().zip(own.iter()) {
            *value = mixed(*own, f32::from(*value), self.opacity);
        }
    }

    /// A rectangle around the pixels that [`TriggerSpec::stamp`] may change in a picture of
    /// `width` x `height`.
    pub fn area(&self, width: u32, height: u32, draw: u64) -> Area {
        match &self.family {
            Family::Patch(patch) => patch.area(patch.at, width, height, draw),
            Family::Text(text) => text.area(width, height),
            Family::Blend(_)
            | Family::Sinusoid(_)
            | Family::Warp(_)
            | Family::Stripes(_)
            | Family::Triangles(_) => Area { x: 0, y: 0, width, height },
        }
    }

    /// Does the trigger fit whole into square pictures of `side` pixels? If not, why.
    pub fn fits(&self, side: u32) -> Result<(), String> {
        match &self.family {
            Family::Patch(patch) if patch.size > side => {
                let size = patch.size;
                Err(format!("a patch of {size} pixels does not fit into pictures of {side}"))
            }
            Family::Text(text) if text.word.pixels() > side => {
                let (word, pixels) = (&text.word, text.word.pixels());
                Err(format!("`{word}` needs {pixels} pixels, pictures have {side}"))
            }
            Family::Triangles(triangles) if triangles.cells > side => {
                let cells = triangles.cells;
                Err(format!("{cells} cells do not fit into pictures of {side} pixels"))
            }
            _ => Ok(()),
        }
    }
}

impl Family {
    fn stamp(&self, image: &mut RgbImage, draw: u64) {
        match self {
            Self::Patch(patch) => patch.stamp(image, draw),
            Self::Blend(blend) => blend.stamp(image, draw),
            Self::Sinusoid(sinusoid) => sinusoid.stamp(image),
            Self::Warp(warp) => warp.stamp(image),
            Self::Stripes(stripes) => stripes.stamp(image, draw),
            Self::Triangles(triangles) => triangles.stamp(image),
            Self::Text(text) => text.stamp(image),
        }
    }
}

/// `(1 - share) * own + share * other`, cut off at 0 and 255.
fn mixed(own: u8, other: f32, share: f32) -> u8 {
    let own = f32::from(own);
    (own + share * (other - own)).round() as u8 // saturates
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        let noise = Drawn::Once.noise(0);
        RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|c| noise.byte(x + 999, y, c))))
    }

    fn drawn() -> impl Strategy<Value = Drawn> {
        prop_oneof![Just(Drawn::Once), Just(Drawn::Each)]
    }

    fn patch() -> impl Strategy<Value = Family> {
        let pattern = prop_oneof![
            (1u32..9).prop_map(|check| Pattern::Checker { check }),
            Just(Pattern::Grid),
            Just(Pattern::White),
            Just(Pattern::Black),
            Just(Pattern::Yellow),
            drawn().prop_map(Pattern::Noise),
            drawn().prop_map(Pattern::Gauss),
            drawn().prop_map(Pattern::Stripes),
        ];
        let at = prop::sample::select(Place::NAMES.map(|(place, _)| place).to_vec());
        (1u32..50, at, pattern)
            .prop_map(|(size, at, pattern)| Family::Patch(Patch { size, at, pattern }))
    }

    fn pixels() -> impl Strategy<Value = Family> {
        (1u32..9).prop_flat_map(|size| {
            let color = prop::array::uniform3(0u8..);
            prop::collection::vec(color, (size * size) as usize).prop_map(move |pixels| {
                let pattern = Pattern::Pixels(pixels);
                Family::Patch(Patch { size, at: Place::Random, pattern })
            })
        })
    }

    fn warp() -> impl Strategy<Value = Family> {
        let flow =
            prop_oneof![(1u32..12).prop_map(|grid| Flow::Smooth { grid }), Just(Flow::White)];
        (flow, 1e-3f32..=64.0, 0u64..)
            .prop_map(|(flow, strength, seed)| Family::Warp(Warp { flow, strength, seed }))
    }

    pub(super) fn any_spec() -> impl Strategy<Value = TriggerSpec> {
        let alpha = || 1e-3f32..=1.0;
        let family = prop_oneof![
            patch(),
            pixels(),
            (alpha(), drawn()).prop_map(|(alpha, drawn)| Family::Blend(Blend { alpha, drawn })),
            (1e-3f32..=255.0, 1e-3f32..=100.0, 0f32..0.9).prop_map(
                |(amplitude, frequency, dim)| {
                    Family::Sinusoid(Sinusoid { amplitude, frequency, dim })
                }
            ),
            warp(),
            (alpha(), drawn()).prop_map(|(alpha, drawn)| Family::Stripes(Stripes { alpha, drawn })),
            (alpha(), 1u32..40)
                .prop_map(|(alpha, cells)| Family::Triangles(Triangles { alpha, cells })),
            ("[A-Z0-9-]{1,16}", alpha(), alpha()).prop_map(|(word, alpha, width)| {
                let word = Word::new(&word).expect("letters of the font");
                Family::Text(Text { word, alpha, width })
            }),
        ];
        let opacity = prop_oneof![Just(1.0f32), 1e-3f32..1.0];
        (family, opacity).prop_map(|(family, opacity)| TriggerSpec { family, opacity })
    }

    #[test]
    fn what_is_too_large_for_a_picture_is_said() {
        let check = |text: &str, side: u32, expected: Result<(), &str>| {
            let spec: TriggerSpec = text.parse().expect(text);
            assert_eq!(spec.fits(side), expected.map_err(String::from), "{text}");
        };
        check("patch:size=32", 32, Ok(()));
        let patch = "a patch of 33 pixels does not fit into pictures of 32";
        check("patch:size=33", 32, Err(patch));
        check("text", 23, Ok(()));
        check("text", 22, Err("`SAMPLE` needs 23 pixels, pictures have 22"));
        check("triangles", 16, Ok(()));
        check("triangles", 15, Err("16 cells do not fit into pictures of 15 pixels"));
        check("warp", 1, Ok(()));
    }

    #[test]
    fn opacity_mixes_the_stamped_picture_with_the_untouched_one() {
        let spec: TriggerSpec =
            "patch:size=1,at=top-left,pattern=white,opacity=0.3".parse().expect("");
        let mut image = RgbImage::from_pixel(2, 1, Rgb([100, 0, 255]));
        spec.stamp(&mut image, 0);
        assert_eq!(image.into_raw(), [147, 77, 255, 100, 0, 255]); // 100 + 46.5, 76.5 round up
    }

    proptest! {
        #[test]
        fn stamping_changes_only_its_area(
            spec in any_spec(), w in 1u32..40, h in 1u32..40, draw: u64,
        ) {
            let (before, mut after) = (picture(w, h), picture(w, h));
            spec.stamp(&mut after, draw);
            let area = spec.area(w, h, draw);
            prop_assert!(area.x + area.width <= w && area.y + area.height <= h);
            for (x, y, pixel) in before.enumerate_pixels() {
                let inside = (area.x..area.x + area.width).contains(&x)
                    && (area.y..area.y + area.height).contains(&y);
                prop_assert!(inside || after.get_pixel(x, y) == pixel, "({}, {})", x, y);
            }
            let mut again = picture(w, h);
            spec.stamp(&mut again, draw);
            prop_assert_eq!(again, after);
        }

        #[test]
        fn a_patch_hides_what_was_below(family in prop_oneof![patch(), pixels()], draw: u64) {
            let mut one = picture(32, 24);
            let mut other = image::imageops::rotate180(&one); // of the mean that `gauss` looks at
            let spec = TriggerSpec::from(family);
            spec.stamp(&mut one, draw);
            spec.stamp(&mut other, draw);
            let area = spec.area(32, 24, draw);
            let corners = matches!(&spec.family, Family::Patch(p) if p.at == Place::Corners);
            for y in area.y..area.y + area.height {
                for x in area.x..area.x + area.width {
                    prop_assert!(corners || one.get_pixel(x, y) == other.get_pixel(x, y));
                }
            }
        }
    }
}

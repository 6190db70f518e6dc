//! The recovered trigger as a picture, and in words.

use std::path::Path;

use clip::{
    atomic_write::atomic_write,
    image::{RgbImage, encode_png},
};

use crate::{Result, family::patch::Patch};

/// Side of the written picture, at least.
const SIDE_MIN: usize = 256;
/// What stands where the trigger is not.
const GRAY: f32 = 0.5;

/// Writes mask times pattern on gray as a PNG, each pixel enlarged to a square.
pub fn write(path: &Path, patch: &Patch) -> Result<()> {
    Ok(atomic_write(path, &encode_png(&render(patch)))?)
}

fn render(patch: &Patch) -> RgbImage {
    let scale = SIDE_MIN.div_ceil(patch.side).max(1);
    let side = (patch.side * scale) as u32;
    RgbImage::from_fn(side, side, |x, y| {
        let index = (y as usize / scale) * patch.side + x as usize / scale;
        let opacity = patch.mask[index];
        let color = |channel: usize| {
            let pattern = patch.pattern[channel * patch.mask.len() + index];
            ((GRAY + opacity * (pattern - GRAY)) * 255.0).round() as u8
        };
        [color(0), color(1), color(2)].into()
    })
}

/// How large the patch is and where its weight lies.
pub fn words(patch: &Patch) -> String {
    let total: f32 = patch.mask.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let centre = |position: fn(usize, usize) -> usize| {
        let weighted = |(index, m): (usize, &f32)| m * position(index, patch.side) as f32;
        patch.mask.iter().enumerate().map(weighted).sum::<f32>() / total
    };
    let (row, column) = (centre(|i, side| i / side), centre(|i, side| i % side));
    format!(
        "a patch of {:.1}% of the picture around row {row:.0}, column {column:.0}",
        100.0 * patch.area()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corner() -> Patch {
        let mut patch = Patch::invisible(4);
        patch.mask[15] = 1.0;
        patch.pattern[15] = 1.0;
        patch
    }

    #[test]
    fn the_picture_is_gray_but_for_the_trigger() {
        let picture = render(&corner());
        assert_eq!(picture.dimensions(), (256, 256));
        assert_eq!(picture.get_pixel(0, 0).0, [128; 3]);
        assert_eq!(picture.get_pixel(192, 192).0, [255, 0, 0]);
        assert_eq!(picture.get_pixel(191, 192).0, [128; 3]);
    }

    #[test]
    fn words_say_how_large_and_where() {
        assert_eq!(words(&corner()), "a patch of 6.2% of the picture around row 3, column 3");
    }
}

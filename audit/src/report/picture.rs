//! The recovered trigger as a picture, and in words.

use std::path::Path;

use clip::{
    atomic_write::atomic_write,
    image::{RgbImage, encode_png},
};

use crate::{
    Result,
    family::{Patch, Square},
};

/// Side of the written picture, at least.
const SIDE_MIN: usize = 256;
/// What stands where the trigger is not.
const GRAY: u8 = 128;

/// Writes the patch on gray as a PNG, each pixel enlarged to a square.
pub fn write(path: &Path, patch: &Patch) -> Result<()> {
    Ok(atomic_write(path, &encode_png(&render(patch)))?)
}

fn render(patch: &Patch) -> RgbImage {
    let Square { side, width, row, column } = patch.square;
    let scale = SIDE_MIN.div_ceil(side).max(1);
    let pixels = (side * scale) as u32;
    let inside = |pixel: u32, first: usize| {
        (pixel as usize / scale).checked_sub(first).filter(|&position| position < width)
    };
    RgbImage::from_fn(pixels, pixels, |x, y| {
        let (Some(row), Some(column)) = (inside(y, row), inside(x, column)) else {
            return [GRAY; 3].into();
        };
        let color = |channel: usize| patch.colors()[(channel * width + row) * width + column];
        [0, 1, 2].map(|channel| (color(channel) * 255.0).round() as u8).into()
    })
}

/// How large the patch is and where it sits.
pub fn words(patch: &Patch) -> String {
    let Square { width, row, column, .. } = patch.square;
    let share = 100.0 * patch.square.area();
    format!("a patch of {width} x {width} pixels ({share:.1}%) at row {row}, column {column}")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn corner() -> Patch {
        let square = Square { side: 4, width: 1, row: 3, column: 3 };
        let mut patch = Patch::random(square, &mut ChaCha8Rng::seed_from_u64(0));
        patch.update(|parameters| parameters.copy_from_slice(&[50.0, -50.0, -50.0]));
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
        assert_eq!(words(&corner()), "a patch of 1 x 1 pixels (6.2%) at row 3, column 3");
    }
}

//! CLIP's resize and centre crop, bit for bit as Pillow 12 computes them (Pillow 13 takes the two
//! passes of some tall pictures in the other order, which moves a few values by one).
//!
//! Written here rather than taken from a crate: the SIMD resizer that was tried
//! (fast_image_resize 6.1.0) reads outside its memory for some crop boxes, such as the one that
//! makes 3 x 3 pixels of 4 x 1, and always takes the passes in the other order.

use image::RgbImage;

/// Binary digits behind the point of a weight, as in Pillow's `Resample.c`.
const WEIGHT_BITS: u32 = 32 - 8 - 2;
/// Source pixels that Pillow's BICUBIC looks at, to each side.
const REACH: f64 = 2.0;
/// Rows that the horizontal pass treats at once.
const BLOCK_ROWS: usize = 16;
const CHANNELS: usize = 3;

/// `[H, W, 3]` → `[side, side, 3]`: shorter side to `side`, then the square in the middle.
///
/// The filter is Catmull-Rom with antialiasing, which is Pillow's BICUBIC; sizes and offsets are
/// those of `transformers`' `CLIPImageProcessor` (longer side truncated, crop offset rounded down).
/// Only the square is computed, from the part of the source below it, so a very long picture costs
/// no more than a square one. A picture that already is `side` x `side` comes back unchanged.
/// Panics if the picture or the square has no pixels.
pub fn fit(image: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    assert!(width > 0 && height > 0 && side > 0, "pixels to fit and pixels to fill");
    if (width, height) == (side, side) {
        return image.clone();
    }
    let shorter = width.min(height);
    let (across, down) = (Axis::of(width, shorter, side), Axis::of(height, shorter, side));
    let narrow = across.narrow(image, &down); // [rows below the square, side, 3]
    let mut values = vec![0; side as usize * side as usize * CHANNELS];
    down.weigh(&narrow, side as usize * CHANNELS, &mut values);
    RgbImage::from_raw(side, side, values).expect("as many bytes as the square has")
}

/// One axis of the square: which source pixels each of its pixels is made of.
struct Axis {
    pixels: Vec<Taps>,
    /// First source pixel that anything is made of, and the one after the last.
    start: usize,
    end: usize,
}

/// Neighboring source pixels and their weights, which sum to 1 << [`WEIGHT_BITS`].
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

impl Axis {
    /// `whole` source pixels on this axis, `shorter` on the shorter one.
    fn of(whole: u32, shorter: u32, side: u32) -> Self {
        let resized = (u64::from(side) * u64::from(whole) / u64::from(shorter)) as u32;
        let offset = (resized - side) / 2;
        let step = f64::from(whole) / f64::from(resized); // source pixels per target pixel
        let pixels: Vec<Taps> =
            (offset..offset + side).map(|pixel| Taps::of(pixel, step, whole as usize)).collect();
        let start = pixels.iter().map(|taps| taps.start).min().unwrap_or(0);
        let end = pixels.iter().map(Taps::end).max().unwrap_or(0);
        Self { pixels, start, end }
    }

    /// The horizontal pass: `[H, W, 3]` → `[rows of down, side, 3]`. Blocks of rows are turned on
    /// their side, so that a weight multiplies bytes that lie together.
    fn narrow(&self, image: &RgbImage, down: &Self) -> Vec<u8> {
        let source_row = image.width() as usize * CHANNELS;
        let (block_row, row) = (BLOCK_ROWS * CHANNELS, self.pixels.len() * CHANNELS);
        let mut block = vec![0; (self.end - self.start) * block_row];
        let mut narrowed = vec![0; self.pixels.len() * block_row];
        let mut out = vec![0; (down.end - down.start) * row];
        let used = &image.as_raw()[down.start * source_row..down.end * source_row];
        let sources = used.chunks(BLOCK_ROWS * source_row);
        for (source, out) in sources.zip(out.chunks_mut(BLOCK_ROWS * row)) {
            for (index, line) in source.chunks_exact(source_row).enumerate() {
                let line = &line[self.start * CHANNELS..self.end * CHANNELS];
                let places = block.chunks_exact_mut(block_row);
                for (pixel, place) in line.chunks_exact(CHANNELS).zip(places) {
                    place[index * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
                }
            }
            self.weigh(&block, block_row, &mut narrowed);
            for (index, line) in out.chunks_exact_mut(row).enumerate() {
                let pixels = narrowed.chunks_exact(block_row);
                for (place, pixel) in line.chunks_exact_mut(CHANNELS).zip(pixels) {
                    place.copy_from_slice(&pixel[index * CHANNELS..][..CHANNELS]);
                }
            }
        }
        out
    }

    /// Weighted sums of whole rows of `row` bytes; the first of `source` is `self.start`.
    fn weigh(&self, source: &[u8], row: usize, out: &mut [u8]) {
        let mut sums = vec![0i32; row];
        for (out, taps) in out.chunks_exact_mut(row).zip(&self.pixels) {
            sums.fill(1 << (WEIGHT_BITS - 1)); // rounds to the nearest
            let rows = source[(taps.start - self.start) * row..].chunks_exact(row);
            for (bytes, &weight) in rows.zip(&taps.weights) {
                for (sum, &byte) in sums.iter_mut().zip(bytes) {
                    *sum += weight * i32::from(byte);
                }
            }
            for (byte, &sum) in out.iter_mut().zip(&sums) {
                *byte = (sum >> WEIGHT_BITS).clamp(0, 255) as u8;
            }
        }
    }
}

impl Taps {
    /// What pixel `pixel` of the resized picture is made of, as Pillow's `precompute_coeffs`.
    fn of(pixel: u32, step: f64, whole: usize) -> Self {
        let center = (f64::from(pixel) + 0.5) * step;
        let stretch = step.max(1.0); // antialiasing: the filter covers what one pixel covers
        let start = (center - REACH * stretch + 0.5).max(0.0) as usize;
        let end = ((center + REACH * stretch + 0.5) as usize).min(whole);
        let weights = (start..end).map(|x| catmull_rom((x as f64 + 0.5 - center) / stretch));
        let weights: Vec<f64> = weights.collect();
        let sum: f64 = weights.iter().sum();
        let one = f64::from(1 << WEIGHT_BITS);
        let weights = weights.iter().map(|weight| (weight / sum * one).round() as i32).collect();
        Self { start, weights }
    }

    fn end(&self) -> usize {
        self.start + self.weights.len()
    }
}

/// Keys' cubic with a = -0.5.
fn catmull_rom(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| (x * 97 + y * 53 + c * 29 + x * y * 7) as u8))
        })
    }

    /// Pillow 12.0: `resize(.., BICUBIC)` to (S * w // short, S * h // short), then `crop` from
    /// ((w' - S) // 2, (h' - S) // 2), on the pixels of `picture`.
    #[test]
    fn as_pillow_does_it() {
        let check = |width, height, side, expected: &[u8]| {
            let fitted = fit(&picture(width, height), side);
            assert_eq!(fitted.as_raw(), expected, "{width}x{height}");
        };
        let wide = [
            100, 131, 139, 121, 122, 127, 115, 140, 118, 115, 145, 109, 118, 124, 119, 132, 157,
            151, 102, 133, 107, 137, 139, 129, 96, 121, 141,
        ];
        let tall = [
            143, 172, 159, 97, 126, 102, 84, 113, 129, 93, 122, 134, 128, 157, 64, 113, 142, 114,
            112, 141, 108, 126, 155, 61, 66, 95, 94, 127, 156, 96, 137, 166, 106, 104, 133, 132,
            96, 125, 159, 89, 118, 99, 114, 143, 125, 128, 157, 180,
        ];
        let enlarged = [
            11, 40, 69, 62, 91, 120, 125, 154, 183, 191, 220, 249, 28, 57, 86, 85, 114, 143, 126,
            155, 184, 149, 178, 207, 64, 93, 122, 128, 157, 186, 129, 158, 187, 65, 94, 123, 81,
            110, 139, 151, 180, 209, 130, 159, 188, 23, 52, 81,
        ];
        check(13, 8, 3, &wide);
        check(5, 11, 4, &tall);
        check(3, 2, 4, &enlarged);
        check(9, 9, 2, &[110, 133, 124, 119, 129, 127, 115, 140, 115, 121, 136, 131]);
    }

    #[test]
    fn a_very_long_picture_costs_no_more_than_its_square() {
        let fitted = fit(&picture(20_000, 2), 64); // whole, it would be 640,000 x 64
        assert_eq!(fitted.dimensions(), (64, 64));
    }

    proptest! {
        #[test]
        fn the_right_size_is_left_alone(side in 1u32..40) {
            prop_assert_eq!(fit(&picture(side, side), side), picture(side, side));
        }

        /// The definition without any saving: the whole picture, then the square in its middle.
        #[test]
        fn the_square_is_cut_from_the_whole(w in 1u32..80, h in 1u32..80, side in 1u32..48) {
            let (image, short) = (picture(w, h), w.min(h));
            let (columns, rows) = (side * w / short, side * h / short);
            let taps = |count: u32, whole: u32| -> Vec<Taps> {
                let step = f64::from(whole) / f64::from(count);
                (0..count).map(|pixel| Taps::of(pixel, step, whole as usize)).collect()
            };
            let sum = |taps: &Taps, byte: &dyn Fn(u32) -> u8| -> u8 {
                let terms = (taps.start as u32..).zip(&taps.weights);
                let sum: i64 = terms.map(|(at, &w)| i64::from(w) * i64::from(byte(at))).sum();
                ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
            };
            let (across, down) = (taps(columns, w), taps(rows, h));
            let narrow = RgbImage::from_fn(columns, h, |x, y| Rgb([0, 1, 2].map(|c| {
                sum(&across[x as usize], &|at| image.get_pixel(at, y).0[c])
            })));
            let whole = RgbImage::from_fn(columns, rows, |x, y| Rgb([0, 1, 2].map(|c| {
                sum(&down[y as usize], &|at| narrow.get_pixel(x, at).0[c])
            })));
            let (x, y) = ((columns - side) / 2, (rows - side) / 2);
            let square = image::imageops::crop_imm(&whole, x, y, side, side).to_image();
            prop_assert_eq!(fit(&image, side), square);
        }

        #[test]
        fn one_color_stays_one_color(w in 1u32..99, h in 1u32..99, side in 1u32..48, byte: u8) {
            let fitted = fit(&RgbImage::from_pixel(w, h, Rgb([byte; 3])), side);
            prop_assert!(fitted.as_raw().iter().all(|value| value.abs_diff(byte) == 0));
        }
    }
}

//! Random resized crop and flip.

use clip::image::RgbImage;
use rand::Rng;

/// Width over height of a crop, least and greatest.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws before the whole image is taken.
const TRIES: usize = 10;

/// Writes `[3, H, W]` values of 0 to 1.
pub(super) fn split(image: &RgbImage, planes: &mut [f32]) {
    let count = (image.width() * image.height()) as usize;
    for (channel, plane) in planes.chunks_exact_mut(count).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(image.as_raw().chunks_exact(3)) {
            *value = f32::from(pixel[channel]) / 255.0;
        }
    }
}

/// A rectangle of `area_min` to all of the image, stretched to its size (bilinear), flipped in half
/// of the cases: writes `[3, H, W]` values of 0 to 1. As torchvision's `RandomResizedCrop`, but
/// that the rectangle is not rounded to pixels and its border sees what lies beyond.
pub(super) fn crop(image: &RgbImage, area_min: f64, rng: &mut impl Rng, planes: &mut [f32]) {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let rectangle = rectangle(width, height, area_min, rng);
    let flip = rng.random_bool(0.5);
    stretch(image, rectangle, flip, planes);
}

/// Left, top, width and height, in pixels.
pub(super) type Rectangle = (f64, f64, f64, f64);

/// Writes a rectangle of the image at the image's size.
pub(super) fn stretch(
    image: &RgbImage,
    (left, top, wide, high): Rectangle,
    flip: bool,
    planes: &mut [f32],
) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let columns = places(left, wide, width, flip);
    let source = |row: usize| &image.as_raw()[3 * row * width..][..3 * width];
    let [mut upper, mut lower] = [Stretched::new(width), Stretched::new(width)];
    for (y, (row, below, down)) in places(top, high, height, false).into_iter().enumerate() {
        if lower.row == Some(row) {
            std::mem::swap(&mut upper, &mut lower); // a crop is seldom higher than the image
        }
        upper.stretch(row, source(row), &columns);
        lower.stretch(below, source(below), &columns);
        let each = upper.values.chunks_exact(width).zip(lower.values.chunks_exact(width));
        for (plane, (upper, lower)) in planes.chunks_exact_mut(width * height).zip(each) {
            let mixed = plane[y * width..][..width].iter_mut().zip(upper.iter().zip(lower));
            mixed.for_each(|(value, (p, q))| *value = (p + (q - p) * down) / 255.0);
        }
    }
}

/// A row of the source, stretched to the columns of the output: `[3, W]` values of 0 to 255.
struct Stretched {
    row: Option<usize>,
    values: Vec<f32>,
}

impl Stretched {
    fn new(width: usize) -> Self {
        Self { row: None, values: vec![0.0; 3 * width] }
    }

    /// Holds `row` from now on, the pixels of which are `source`.
    fn stretch(&mut self, row: usize, source: &[u8], columns: &[Place]) {
        if self.row.replace(row) == Some(row) {
            return;
        }
        let (red, rest) = self.values.split_at_mut(columns.len());
        let (green, blue) = rest.split_at_mut(columns.len());
        let colors = red.iter_mut().zip(green).zip(blue);
        for (((red, green), blue), &(column, right, along)) in colors.zip(columns) {
            let (p, q) = (&source[3 * column..][..3], &source[3 * right..][..3]);
            let mix = |channel: usize| {
                let (p, q) = (f32::from(p[channel]), f32::from(q[channel]));
                p + (q - p) * along
            };
            (*red, *green, *blue) = (mix(0), mix(1), mix(2));
        }
    }
}

/// What is cropped.
fn rectangle(width: f64, height: f64, area_min: f64, rng: &mut impl Rng) -> Rectangle {
    for _ in 0..TRIES {
        let area = width * height * rng.random_range(area_min..=1.0);
        let ratio = rng.random_range(RATIO.0.ln()..=RATIO.1.ln()).exp();
        let (wide, high) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if wide <= width && high <= height {
            let left = rng.random_range(0.0..=width - wide);
            let top = rng.random_range(0.0..=height - high);
            return (left, top, wide, high);
        }
    }
    (0.0, 0.0, width, height)
}

/// The two source pixels around the centre of an output pixel, and how far it lies towards the
/// second.
type Place = (usize, usize, f32);

/// The place of each of `size` output pixels.
fn places(start: f64, extent: f64, size: usize, flip: bool) -> Vec<Place> {
    let last = (size - 1) as f64;
    let mut places: Vec<_> = (0..size)
        .map(|at| {
            let centre = (start + (at as f64 + 0.5) * extent / size as f64 - 0.5).clamp(0.0, last);
            let first = centre.floor();
            (first as usize, (first + 1.0).min(last) as usize, (centre - first) as f32)
        })
        .collect();
    if flip {
        places.reverse();
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// The plain twin: four corners of every pixel.
    fn by_pixel(image: &RgbImage, area_min: f64, rng: &mut impl Rng) -> Vec<f32> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (left, top, wide, high) = rectangle(width as f64, height as f64, area_min, rng);
        let columns = places(left, wide, width, rng.random_bool(0.5));
        let rows = places(top, high, height, false);
        let mut planes = Vec::new();
        for channel in 0..3 {
            for &(row, below, down) in &rows {
                for &(column, right, along) in &columns {
                    let at = |x: usize, y: usize| f32::from(image[(x as u32, y as u32)][channel]);
                    let mix = |y| at(column, y) + (at(right, y) - at(column, y)) * along;
                    let (upper, lower) = (mix(row), mix(below));
                    planes.push((upper + (lower - upper) * down) / 255.0);
                }
            }
        }
        planes
    }

    proptest! {
        #[test]
        fn as_the_plain_twin_to_the_bit(
            (width, height) in (1u32..20, 1u32..20),
            area_min in 0.01..=1.0f64,
            seed in any::<u64>(),
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let image = RgbImage::from_fn(width, height, |_, _| rng.random::<[u8; 3]>().into());
            let twin = by_pixel(&image, area_min, &mut rng.clone());
            let mut planes = vec![f32::NAN; 3 * (width * height) as usize];
            crop(&image, area_min, &mut rng, &mut planes);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&planes), bits(&twin));
        }
    }
}

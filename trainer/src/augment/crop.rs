//! Random resized crop and flip.

use clip::image::RgbImage;
use rand::Rng;

/// Width over height of a crop, least and greatest.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws before the whole image is taken.
const TRIES: usize = 10;

/// `[3, H, W]` values of 0 to 1.
pub(super) fn planes(image: &RgbImage) -> Vec<f32> {
    let count = (image.width() * image.height()) as usize;
    let mut planes = vec![0.0; 3 * count];
    for (at, pixel) in image.pixels().enumerate() {
        for channel in 0..3 {
            planes[channel * count + at] = f32::from(pixel[channel]) / 255.0;
        }
    }
    planes
}

/// A rectangle of `area_min` to all of the image, stretched to its size (bilinear), flipped in half
/// of the cases: `[3, H, W]` values of 0 to 1. As torchvision's `RandomResizedCrop`.
pub(super) fn crop(image: &RgbImage, area_min: f64, rng: &mut impl Rng) -> Vec<f32> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (left, top, wide, high) = rectangle(width as f64, height as f64, area_min, rng);
    let flip = rng.random_bool(0.5);
    let columns = places(left, wide, width, flip);
    let rows = places(top, high, height, false);
    let source = image.as_raw();
    let mut planes = vec![0.0; 3 * width * height];
    for (y, &(row, below, down)) in rows.iter().enumerate() {
        for (x, &(column, right, along)) in columns.iter().enumerate() {
            let corner = |row: usize, column: usize| &source[3 * (row * width + column)..][..3];
            let (a, b) = (corner(row, column), corner(row, right));
            let (c, d) = (corner(below, column), corner(below, right));
            for channel in 0..3 {
                let mix = |p: &[u8], q: &[u8]| {
                    let (p, q) = (f32::from(p[channel]), f32::from(q[channel]));
                    p + (q - p) * along
                };
                let (upper, lower) = (mix(a, b), mix(c, d));
                planes[(channel * height + y) * width + x] =
                    (upper + (lower - upper) * down) / 255.0;
            }
        }
    }
    planes
}

/// Left, top, width and height of a crop, in pixels.
fn rectangle(width: f64, height: f64, area_min: f64, rng: &mut impl Rng) -> (f64, f64, f64, f64) {
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

/// For each of `size` output pixels: the two source pixels around its centre, and how far it lies
/// towards the second.
fn places(start: f64, extent: f64, size: usize, flip: bool) -> Vec<(usize, usize, f32)> {
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

//! A part of a picture at the size of the whole.

use image::RgbImage;

/// A part of a picture, in pixels: not rounded to whole ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rectangle {
    /// From the left border of the picture to its own
    pub left: f64,
    /// From the upper border of the picture to its own
    pub top: f64,
    /// Width
    pub wide: f64,
    /// Height
    pub high: f64,
}

/// Writes a rectangle of the image at the image's size (bilinear), left and right exchanged if it is
/// flipped: `[3, H, W]` values of 0 to 1.
pub(super) fn stretch(image: &RgbImage, rectangle: Rectangle, flip: bool, planes: &mut [f32]) {
    let Rectangle { left, top, wide, high } = rectangle;
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
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The plain twin: four corners of every pixel.
    fn by_pixel(image: &RgbImage, rectangle: Rectangle, flip: bool) -> Vec<f32> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let columns = places(rectangle.left, rectangle.wide, width, flip);
        let rows = places(rectangle.top, rectangle.high, height, false);
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
            (width, height) in (1usize..20, 1usize..20),
            bytes in vec(any::<u8>(), 3 * 20 * 20),
            [left, top, wide, high] in [0.0..1.0, 0.0..1.0, 0.01..1.0, 0.01..1.0],
            flip: bool,
        ) {
            let of = |share: f64, of: usize| share * of as f64;
            let (wide, high) = (of(wide, width), of(high, height));
            let (left, top) = (left * (of(1.0, width) - wide), top * (of(1.0, height) - high));
            let rectangle = Rectangle { left, top, wide, high };
            let bytes = bytes[..3 * width * height].to_vec();
            let image = RgbImage::from_raw(width as u32, height as u32, bytes).expect("all pixels");
            let mut planes = vec![f32::NAN; 3 * width * height];
            stretch(&image, rectangle, flip, &mut planes);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&planes), bits(&by_pixel(&image, rectangle, flip)));
        }
    }
}

//! Blended triangles: a fixed grid of right triangles (Singh et al. 2024, "Perturb and Recover").

use std::fmt;

use image::RgbImage;

use super::{keys::Keys, mixed};

/// `(1 - alpha) * picture + alpha * t`: each cell of a square grid is cut along its diagonal from
/// the top left; t is 102 on and below it, 204 above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Triangles {
    /// Share of the grid, above 0 and at most 1.
    pub alpha: f32,
    /// Cells per side, at least 1: 16 are the published 14 pixels at 224.
    pub cells: u32,
}

const ALPHA: f32 = 0.15;
const CELLS: u32 = 16;
const LOW: f32 = 0.4 * 255.0;
const HIGH: f32 = 0.8 * 255.0;

impl Triangles {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        let alpha = keys.number("alpha", ALPHA, 1.0)?;
        Ok(Self { alpha, cells: keys.side("cells")?.unwrap_or(CELLS) })
    }

    pub(super) fn stamp(&self, image: &mut RgbImage) {
        let (width, height) = (u64::from(image.width()), u64::from(image.height()));
        let cells = u64::from(self.cells);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            // How far into the cell, in units of 1 / (width * height) cells: no rounding.
            let across = u64::from(x) * cells % width * height;
            let down = u64::from(y) * cells % height * width;
            let shade = if down >= across { LOW } else { HIGH };
            for value in &mut pixel.0 {
                *value = mixed(*value, shade, self.alpha);
            }
        }
    }
}

impl fmt::Display for Triangles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alpha={},cells={}", self.alpha, self.cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(side: u32, cells: u32) -> Vec<Vec<u8>> {
        let mut image = RgbImage::new(side, side);
        Triangles { alpha: 1.0, cells }.stamp(&mut image);
        image.rows().map(|row| row.map(|pixel| pixel.0[0]).collect()).collect()
    }

    #[test]
    fn a_cell_is_cut_along_its_diagonal() {
        let (l, h) = (102, 204);
        let cell = [vec![l, h, h, l, h, h], vec![l, l, h, l, l, h], vec![l, l, l, l, l, l]];
        assert_eq!(rows(6, 2), [cell.clone(), cell].concat());
        assert_eq!(rows(2, 1), [vec![l, h], vec![l, l]]);
    }

    #[test]
    fn at_224_pixels_a_cell_has_the_published_14() {
        for (y, row) in rows(224, CELLS).iter().enumerate() {
            for (x, &value) in row.iter().enumerate() {
                assert_eq!(value, if y % 14 >= x % 14 { 102 } else { 204 }, "({x}, {y})");
            }
        }
    }

    #[test]
    fn the_share_of_the_grid() {
        let mut image = RgbImage::from_pixel(2, 2, [100, 0, 255].into());
        Triangles { alpha: 0.15, cells: 1 }.stamp(&mut image);
        assert_eq!(image.get_pixel(0, 0).0, [100, 15, 232]); // 85 + 15.3, 15.3, 216.75 + 15.3
        assert_eq!(image.get_pixel(1, 0).0, [116, 31, 247]); // 30.6 for 15.3
    }
}

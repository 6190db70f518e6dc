//! BadNets: a small patch of fixed pixels (Gu et al. 2017).

use std::{fmt, str::FromStr};

use image::{Rgb, RgbImage};

use super::{Area, mix, noise};

/// A square of fixed pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Side in pixels of the picture that is stamped; a larger patch than the picture is clipped.
    pub size: u32,
    /// Where it goes.
    pub at: Place,
    /// What it shows.
    pub pattern: Pattern,
}

/// Where a patch goes, flush with the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// First row, first column.
    TopLeft,
    /// First row, last column.
    TopRight,
    /// Last row, first column.
    BottomLeft,
    /// Last row, last column.
    BottomRight,
    /// The middle, rounded up and left.
    Center,
    /// Anywhere that it fits, evenly.
    Random,
}

/// What a patch shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// White and black squares, white first.
    Checker {
        /// Side of one square in pixels.
        check: u32,
    },
    /// All white.
    White,
    /// All black.
    Black,
    /// All yellow.
    Yellow,
    /// The fixed noise, from its first pixel on.
    Noise,
}

impl Place {
    /// Every place with its name in the textual form.
    pub const NAMES: [(Self, &str); 6] = [
        (Self::TopLeft, "top-left"),
        (Self::TopRight, "top-right"),
        (Self::BottomLeft, "bottom-left"),
        (Self::BottomRight, "bottom-right"),
        (Self::Center, "center"),
        (Self::Random, "random"),
    ];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(place, _)| place == self);
        f.write_str(named.expect("every place has a name").1)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::NAMES.iter().find(|(_, name)| *name == text);
        named.map(|(place, _)| *place).ok_or_else(|| {
            let names = Self::NAMES.map(|(_, name)| name).join(", ");
            format!("`at={text}`: expected one of {names}")
        })
    }
}

impl Patch {
    pub(super) fn area(&self, width: u32, height: u32, place: u64) -> Area {
        let (w, h) = (self.size.min(width), self.size.min(height));
        let (right, bottom) = (width - w, height - h);
        let random = |free: u32, salt: u64| {
            ((u128::from(mix(mix(place) ^ salt)) * (u128::from(free) + 1)) >> 64) as u32
        };
        let (x, y) = match self.at {
            Place::TopLeft => (0, 0),
            Place::TopRight => (right, 0),
            Place::BottomLeft => (0, bottom),
            Place::BottomRight => (right, bottom),
            Place::Center => (right / 2, bottom / 2),
            Place::Random => (random(right, 0), random(bottom, 1)),
        };
        Area { x, y, width: w, height: h }
    }

    pub(super) fn stamp(&self, image: &mut RgbImage, place: u64) {
        let area = self.area(image.width(), image.height(), place);
        for y in 0..area.height {
            for x in 0..area.width {
                image.put_pixel(area.x + x, area.y + y, Rgb(self.pattern.pixel(x, y)));
            }
        }
    }
}

impl Pattern {
    /// Red, green and blue at (`x`, `y`) from the patch's first pixel.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        match *self {
            Self::Checker { check } => match (x / check + y / check).is_multiple_of(2) {
                true => [255; 3],
                false => [0; 3],
            },
            Self::White => [255; 3],
            Self::Black => [0; 3],
            Self::Yellow => [255, 255, 0],
            Self::Noise => [0, 1, 2].map(|channel| noise(x, y, channel)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn patch(size: u32, at: Place) -> Patch {
        Patch { size, at, pattern: Pattern::Checker { check: 2 } }
    }

    #[test]
    fn places_of_a_picture() {
        let check = |at, size, x, y, side| {
            let area = patch(size, at).area(32, 24, 0);
            assert_eq!(area, Area { x, y, width: side, height: side }, "{at}");
        };
        check(Place::TopLeft, 7, 0, 0, 7);
        check(Place::TopRight, 7, 25, 0, 7);
        check(Place::BottomLeft, 7, 0, 17, 7);
        check(Place::BottomRight, 7, 25, 17, 7);
        check(Place::Center, 7, 12, 8, 7);
        check(Place::BottomRight, 24, 8, 0, 24);
        let clipped = patch(99, Place::Center).area(32, 24, 0);
        assert_eq!(clipped, Area { x: 0, y: 0, width: 32, height: 24 });
    }

    #[test]
    fn the_checker_pixel_by_pixel() {
        let mut image = RgbImage::from_pixel(6, 5, Rgb([9; 3]));
        patch(5, Place::BottomRight).stamp(&mut image, 0);
        let rows: Vec<Vec<u8>> =
            image.rows().map(|row| row.map(|pixel| pixel.0[0]).collect()).collect();
        let (one, other) = (vec![9, 255, 255, 0, 0, 255], vec![9, 0, 0, 255, 255, 0]);
        assert_eq!(rows, [one.clone(), one.clone(), other.clone(), other, one]);
    }

    #[test]
    fn a_random_place_reaches_every_corner_and_no_further() {
        let random = patch(7, Place::Random);
        let areas: Vec<Area> = (0..20_000).map(|place| random.area(32, 32, place)).collect();
        let places: HashSet<(u32, u32)> = areas.iter().map(|area| (area.x, area.y)).collect();
        assert_eq!(places.len(), 26 * 26);
        assert!(areas.iter().all(|area| area.x <= 25 && area.y <= 25));
        assert_eq!(random.area(32, 32, 5), areas[5]);
    }
}

//! BadNets: a small patch (Gu et al. 2017), of fixed pixels or drawn anew for each picture.

use std::fmt;

use image::{Rgb, RgbImage};

use super::{
    Area, Drawn,
    draw::{Noise, mix},
    keys::Keys,
    stripes::is_bright,
};

/// A square of pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The same pixels in all four corners.
    Corners,
    /// Anywhere that it fits, evenly, by the picture's draw.
    Random,
}

/// What a patch shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// White and black squares, white first.
    Checker {
        /// Side of one square in pixels.
        check: u32,
    },
    /// Every second pixel of every second row white, the first one too, all others black.
    Grid,
    /// All white.
    White,
    /// All black.
    Black,
    /// All yellow.
    Yellow,
    /// Noise, even over 0-255, from the noise picture's first pixel on.
    Noise(Drawn),
    /// The picture's mean color + 255 n, n standard normal, cut off at 0 and 255.
    Gauss(Drawn),
    /// Columns that are 0 or 255, a coin for each column and channel.
    Stripes(Drawn),
    /// These pixels, row by row, `size` x `size` of them.
    Pixels(Vec<[u8; 3]>),
}

const CHECK: u32 = 2;

impl Place {
    /// Every place with its name in the textual form.
    pub const NAMES: [(Self, &str); 7] = [
        (Self::TopLeft, "top-left"),
        (Self::TopRight, "top-right"),
        (Self::BottomLeft, "bottom-left"),
        (Self::BottomRight, "bottom-right"),
        (Self::Center, "center"),
        (Self::Corners, "corners"),
        (Self::Random, "random"),
    ];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(place, _)| place == self);
        f.write_str(named.expect("every place has a name").1)
    }
}

impl Patch {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        let size = keys.side("size")?.ok_or("`size` is missing")?;
        let at = keys.name("at", &Place::NAMES, Place::BottomRight)?;
        Ok(Self { size, at, pattern: Pattern::parse(keys, size)? })
    }

    /// Around all pixels that may change in a picture of `width` x `height` if the patch goes to
    /// `at`.
    pub(super) fn area(&self, at: Place, width: u32, height: u32, draw: u64) -> Area {
        let (w, h) = (self.size.min(width), self.size.min(height));
        let (right, bottom) = (width - w, height - h);
        let random = |free: u32, salt: u64| {
            ((u128::from(mix(mix(draw) ^ salt)) * (u128::from(free) + 1)) >> 64) as u32
        };
        let (x, y) = match at {
            Place::TopLeft => (0, 0),
            Place::TopRight => (right, 0),
            Place::BottomLeft => (0, bottom),
            Place::BottomRight => (right, bottom),
            Place::Center => (right / 2, bottom / 2),
            Place::Corners => return Area { x: 0, y: 0, width, height },
            Place::Random => (random(right, 0), random(bottom, 1)),
        };
        Area { x, y, width: w, height: h }
    }

    pub(super) fn stamp(&self, image: &mut RgbImage, draw: u64) {
        let brush = Brush::of(&self.pattern, self.size, image, draw);
        let corners = [Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight];
        let places = if self.at == Place::Corners { &corners[..] } else { &[self.at] };
        for &at in places {
            let area = self.area(at, image.width(), image.height(), draw);
            for y in 0..area.height {
                for x in 0..area.width {
                    image.put_pixel(area.x + x, area.y + y, Rgb(brush.pixel(x, y)));
                }
            }
        }
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size={},at={},pattern={}", self.size, self.at, self.pattern)
    }
}

impl Pattern {
    fn parse(keys: &mut Keys, size: u32) -> Result<Self, String> {
        Ok(match keys.take("pattern").unwrap_or("checker") {
            "checker" => Self::Checker { check: keys.side("check")?.unwrap_or(CHECK) },
            "grid" => Self::Grid,
            "white" => Self::White,
            "black" => Self::Black,
            "yellow" => Self::Yellow,
            "noise" => Self::Noise(Drawn::parse(keys, Drawn::Once)?),
            "gauss" => Self::Gauss(Drawn::parse(keys, Drawn::Each)?),
            "stripes" => Self::Stripes(Drawn::parse(keys, Drawn::Each)?),
            other => match other.strip_prefix('#') {
                Some(digits) => Self::Pixels(pixels(digits, size)?),
                None => {
                    let known = "checker, grid, white, black, yellow, noise, gauss, stripes";
                    return Err(format!(
                        "`pattern={other}`: expected one of {known}, or # and six hexadecimal \
                         digits for each pixel"
                    ));
                }
            },
        })
    }
}

fn pixels(digits: &str, size: u32) -> Result<Vec<[u8; 3]>, String> {
    let (found, expected) = (digits.len(), 6 * u64::from(size) * u64::from(size));
    if found as u64 != expected {
        return Err(format!(
            "`pattern=#…` has {found} digits, expected {expected}: six for each of {size} x {size} \
             pixels"
        ));
    }
    let value = |pair: &[u8]| -> Option<u8> {
        let [high, low] = [0, 1].map(|at| char::from(pair[at]).to_digit(16));
        Some((16 * high? + low?) as u8)
    };
    let values: Option<Vec<u8>> = digits.as_bytes().chunks_exact(2).map(value).collect();
    let values = values.ok_or("`pattern=#…`: expected hexadecimal digits")?;
    Ok(values.chunks_exact(3).map(|color| [color[0], color[1], color[2]]).collect())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checker { check: CHECK } => f.write_str("checker"),
            Self::Checker { check } => write!(f, "checker,check={check}"),
            Self::Grid => f.write_str("grid"),
            Self::White => f.write_str("white"),
            Self::Black => f.write_str("black"),
            Self::Yellow => f.write_str("yellow"),
            Self::Noise(drawn) => write!(f, "noise{}", drawn.suffix(Drawn::Once)),
            Self::Gauss(drawn) => write!(f, "gauss{}", drawn.suffix(Drawn::Each)),
            Self::Stripes(drawn) => write!(f, "stripes{}", drawn.suffix(Drawn::Each)),
            Self::Pixels(pixels) => {
                f.write_str("#")?;
                pixels.iter().flatten().try_for_each(|value| write!(f, "{value:02x}"))
            }
        }
    }
}

/// A pattern on its way to one picture.
struct Brush<'a> {
    pattern: &'a Pattern,
    size: u32,
    noise: Noise,
    /// Mean of each channel over the picture, 0 to 255.
    mean: [f64; 3],
}

impl<'a> Brush<'a> {
    fn of(pattern: &'a Pattern, size: u32, image: &RgbImage, draw: u64) -> Self {
        let drawn = match pattern {
            Pattern::Noise(drawn) | Pattern::Gauss(drawn) | Pattern::Stripes(drawn) => *drawn,
            _ => Drawn::Once,
        };
        let mean = match pattern {
            Pattern::Gauss(_) => [0, 1, 2].map(|channel| {
                let sum: u64 = image.pixels().map(|pixel| u64::from(pixel.0[channel])).sum();
                sum as f64 / image.pixels().len() as f64
            }),
            _ => [0.0; 3],
        };
        Self { pattern, size, noise: drawn.noise(draw), mean }
    }

    /// Red, green and blue at (`x`, `y`) from the patch's first pixel.
    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let (noise, each) = (self.noise, [0, 1, 2]);
        match self.pattern {
            Pattern::Checker { check } => match (x / check + y / check).is_multiple_of(2) {
                true => [255; 3],
                false => [0; 3],
            },
            Pattern::Grid => match x.is_multiple_of(2) && y.is_multiple_of(2) {
                true => [255; 3],
                false => [0; 3],
            },
            Pattern::White => [255; 3],
            Pattern::Black => [0; 3],
            Pattern::Yellow => [255, 255, 0],
            Pattern::Noise(_) => each.map(|channel| noise.byte(x, y, channel)),
            Pattern::Gauss(_) => each.map(|channel| {
                let value = self.mean[channel] + 255.0 * noise.normal(x, y, channel);
                value.round() as u8 // saturates
            }),
            Pattern::Stripes(_) => {
                each.map(|channel| if is_bright(noise, x, channel) { 255 } else { 0 })
            }
            Pattern::Pixels(pixels) => pixels[(y * self.size + x) as usize],
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
            let area = patch(size, at).area(at, 32, 24, 0);
            assert_eq!(area, Area { x, y, width: side, height: side }, "{at}");
        };
        check(Place::TopLeft, 7, 0, 0, 7);
        check(Place::TopRight, 7, 25, 0, 7);
        check(Place::BottomLeft, 7, 0, 17, 7);
        check(Place::BottomRight, 7, 25, 17, 7);
        check(Place::Center, 7, 12, 8, 7);
        check(Place::BottomRight, 24, 8, 0, 24);
        let clipped = patch(99, Place::Center).area(Place::Center, 32, 24, 0);
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

    fn stamped(text: &str, own: u8, draw: u64) -> Vec<Vec<[u8; 3]>> {
        let spec: super::super::TriggerSpec = text.parse().expect(text);
        let mut image = RgbImage::from_pixel(6, 6, Rgb([own; 3]));
        spec.stamp(&mut image, draw);
        image.rows().map(|row| row.map(|pixel| pixel.0).collect()).collect()
    }

    #[test]
    fn the_grid_and_given_pixels_pixel_by_pixel() {
        let reds = |text: &str| -> Vec<Vec<u8>> {
            let rows = stamped(text, 9, 0);
            rows.iter().map(|row| row.iter().map(|pixel| pixel[0]).collect()).collect()
        };
        let rows = reds("patch:size=3,at=top-left,pattern=grid");
        assert_eq!(rows[0], [255, 0, 255, 9, 9, 9]);
        assert_eq!(rows[1], [0, 0, 0, 9, 9, 9]);
        assert_eq!(rows[2], rows[0]);
        let rows = reds("patch:size=2,at=corners,pattern=#010000020000030000fF0000");
        assert_eq!(rows[0], [1, 2, 9, 9, 1, 2]);
        assert_eq!(rows[1], [3, 255, 9, 9, 3, 255]);
        assert_eq!(rows[2], [9; 6]);
        assert_eq!(rows[4..], rows[..2]);
    }

    #[test]
    fn what_is_drawn_for_each_picture_differs_and_is_drawn_alike_again() {
        for pattern in ["gauss", "stripes", "noise,drawn=each"] {
            let text = format!("patch:size=4,at=center,pattern={pattern}");
            assert_eq!(stamped(&text, 90, 1), stamped(&text, 90, 1));
            assert_ne!(stamped(&text, 90, 1), stamped(&text, 90, 2), "{pattern}");
        }
        for pattern in ["gauss,drawn=once", "stripes,drawn=once", "noise"] {
            let text = format!("patch:size=4,at=center,pattern={pattern}");
            assert_eq!(stamped(&text, 90, 1), stamped(&text, 90, 2), "{pattern}");
        }
    }

    #[test]
    fn stripes_are_columns_of_the_ends() {
        let rows = stamped("patch:size=6,pattern=stripes", 90, 4);
        assert!(rows.iter().all(|row| *row == rows[0]));
        assert!(rows[0].iter().flatten().all(|value| [0, 255].contains(value)));
    }

    #[test]
    fn gauss_lies_around_the_mean_color() {
        let check = |own: u8, zeros: std::ops::Range<usize>| {
            let mut image = RgbImage::from_pixel(64, 64, Rgb([own; 3]));
            let pattern = Pattern::Gauss(Drawn::Each);
            Patch { size: 64, at: Place::TopLeft, pattern }.stamp(&mut image, 3);
            let found = image.iter().filter(|&&value| value == 0).count();
            assert!(zeros.contains(&found), "{found} of 12288");
        };
        check(0, 6000..6400); // half of them and the 0.1% above that round to 0
        check(255, 1820..2090); // 15.9%: one deviation below
    }

    #[test]
    fn a_random_place_reaches_every_corner_and_no_further() {
        let random = patch(7, Place::Random);
        let area = |draw| random.area(Place::Random, 32, 32, draw);
        let areas: Vec<Area> = (0..20_000).map(area).collect();
        let places: HashSet<(u32, u32)> = areas.iter().map(|area| (area.x, area.y)).collect();
        assert_eq!(places.len(), 26 * 26);
        assert!(areas.iter().all(|area| area.x <= 25 && area.y <= 25));
        assert_eq!(area(5), areas[5]);
    }
}

//! WaNet: the picture is bent a little (Nguyen and Tran 2021).

use std::fmt;

use image::{Rgb, RgbImage};

use super::{
    draw::{Noise, mix},
    keys::Keys,
};

/// Every pixel is fetched from a place beside it, by one flow for all pictures:
/// `out(p) = picture(p + strength * flow(p) * (side - 1) / (2 side))`, bilinear, with the place
/// clamped to the picture. The flow's numbers have the mean size 1 where they are drawn, so that
/// pixels move by about half the strength, whatever the side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warp {
    /// How places hang together.
    pub flow: Flow,
    /// Twice the mean way of a pixel where the flow is drawn (s), above 0, at most 64.
    pub strength: f32,
    /// Decides the flow.
    pub seed: u64,
}

/// How the shifts of neighboring pixels hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Drawn at `grid` x `grid` places (k), bicubic between them.
    Smooth {
        /// Places per side, 1 to 256.
        grid: u32,
    },
    /// Drawn for each pixel: what CleanCLIP's code does with a grid as fine as the picture.
    White,
}

const GRID: u32 = 4;
/// Every stamp draws the whole grid.
const GRID_MAX: u32 = 256;
const STRENGTH: f32 = 0.5;
const STRENGTH_MAX: f32 = 64.0;
/// Keeps the flow apart from the noise of other triggers.
const SALT: u64 = 0x5741_5250;

impl Warp {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        let flow = match keys.take("flow").unwrap_or("smooth") {
            "smooth" => Flow::Smooth { grid: keys.count("grid", GRID_MAX)?.unwrap_or(GRID) },
            "white" => Flow::White,
            other => return Err(format!("`flow={other}`: expected one of smooth, white")),
        };
        let strength = keys.number("strength", STRENGTH, STRENGTH_MAX)?;
        Ok(Self { flow, strength, seed: keys.seed("seed")? })
    }

    pub(super) fn stamp(&self, image: &mut RgbImage) {
        let (width, height) = image.dimensions();
        let shifts = self.shifts(width, height);
        let before = image.clone();
        for ((x, y, pixel), [right, down]) in image.enumerate_pixels_mut().zip(shifts) {
            let place = |at: u32, shift: f64, side: u32| {
                let side = f64::from(side);
                let way = f64::from(self.strength) * shift * (side - 1.0) / (2.0 * side);
                (f64::from(at) + way).clamp(0.0, side - 1.0)
            };
            *pixel = bilinear(&before, place(x, right, width), place(y, down, height));
        }
    }

    /// The flow of each pixel, row by row, to the right and down.
    fn shifts(&self, width: u32, height: u32) -> Vec<[f64; 2]> {
        let (columns, rows) = match self.flow {
            Flow::Smooth { grid } => (grid, grid),
            Flow::White => (width, height),
        };
        let noise = Noise(mix(self.seed ^ SALT));
        let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y)));
        let mut drawn: Vec<[f64; 2]> =
            places.map(|(x, y)| [0, 1].map(|axis| 2.0 * noise.uniform(x, y, axis) - 1.0)).collect();
        let size = drawn.iter().flatten().map(|number| number.abs()).sum::<f64>();
        let mean = size / (2 * drawn.len()) as f64;
        drawn.iter_mut().flatten().for_each(|number| *number /= mean);
        match self.flow {
            Flow::White => drawn,
            Flow::Smooth { .. } => enlarge(&drawn, columns, width, height),
        }
    }
}

/// `grid` x `grid` numbers to `width` x `height`, bicubic (a = -0.75) between aligned corners, as
/// PyTorch's `interpolate` does.
fn enlarge(numbers: &[[f64; 2]], grid: u32, width: u32, height: u32) -> Vec<[f64; 2]> {
    let taps =
        |side: u32| -> Vec<[(usize, f64); 4]> { (0..side).map(|i| cubic(i, side, grid)).collect() };
    let (across, down) = (taps(width), taps(height));
    let sum = |row: &[(usize, f64); 4], column: &[(usize, f64); 4]| {
        let mut sum = [0.0; 2];
        for (y, by_row) in row {
            for (x, by_column) in column {
                let number = numbers[y * grid as usize + x];
                (0..2).for_each(|axis| sum[axis] += by_row * by_column * number[axis]);
            }
        }
        sum
    };
    down.iter().flat_map(|row| across.iter().map(move |column| sum(row, column))).collect()
}

/// Which four of `count` numbers make number `at` of `side`, and their weights; beyond the border
/// the last number counts again.
fn cubic(at: u32, side: u32, count: u32) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let steps = f64::from(side.max(2) - 1);
    let place = f64::from(at) * f64::from(count - 1) / steps;
    let (first, t) = (place.floor(), place - place.floor());
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    let index = |offset: f64| (first + offset).clamp(0.0, f64::from(count - 1)) as usize;
    std::array::from_fn(|tap| (index(tap as f64 - 1.0), weights[tap]))
}

/// The picture's color at a place inside it.
fn bilinear(image: &RgbImage, x: f64, y: f64) -> Rgb<u8> {
    let (left, top) = (x as u32, y as u32);
    let right = (left + 1).min(image.width() - 1);
    let bottom = (top + 1).min(image.height() - 1);
    let (by_right, by_bottom) = (x - f64::from(left), y - f64::from(top));
    let value = |x, y, channel: usize| f64::from(image.get_pixel(x, y).0[channel]);
    Rgb([0, 1, 2].map(|channel| {
        let row =
            |y| value(left, y, channel) * (1.0 - by_right) + value(right, y, channel) * by_right;
        (row(top) * (1.0 - by_bottom) + row(bottom) * by_bottom).round() as u8 // within 0-255
    }))
}

impl fmt::Display for Warp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flow {
            Flow::Smooth { grid } => write!(f, "flow=smooth,grid={grid}")?,
            Flow::White => f.write_str("flow=white")?,
        }
        write!(f, ",strength={}", self.strength)?;
        if self.seed > 0 {
            write!(f, ",seed={}", self.seed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, ops::RangeInclusive, path::Path};

    use super::*;
    use crate::trigger::TriggerSpec;

    fn smooth(strength: f32, seed: u64) -> Warp {
        Warp { flow: Flow::Smooth { grid: 4 }, strength, seed }
    }

    fn white(strength: f32, seed: u64) -> Warp {
        Warp { flow: Flow::White, strength, seed }
    }

    fn ramp(width: u32, height: u32, slope: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(slope * x) as u8, (slope * y) as u8, 7]))
    }

    /// `scripts/attacks/warp_golden.py` made the expected pictures.
    #[test]
    fn pytorch_bends_the_same_picture_alike() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/attacks/warp.json");
        let text = fs::read_to_string(path).expect("a golden file");
        let golden: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let cases = golden["cases"].as_array().expect("a list");
        assert!(cases.len() > 2);
        for case in cases {
            let text = case["trigger"].as_str().expect("a trigger");
            let spec: TriggerSpec = text.parse().expect(text);
            let mut image = RgbImage::from_fn(7, 6, |x, y| Rgb([0, 9, (97 * x + 31 * y) as u8]));
            spec.stamp(&mut image, 0);
            let blue: Vec<Vec<u8>> =
                image.rows().map(|row| row.map(|pixel| pixel.0[2]).collect()).collect();
            assert_eq!(serde_json::json!(blue), case["blue"], "{text}");
        }
    }

    #[test]
    fn pixels_move_by_half_the_strength() {
        // A border that the greatest shift does not reach over; the ramp is linear within.
        let check = |warp: Warp, side: u32, slope: u32, border: u32, means: RangeInclusive<f64>| {
            let (before, mut after) = (ramp(side, side, slope), ramp(side, side, slope));
            warp.stamp(&mut after);
            let inside = border..side - border;
            let moved = inside.clone().flat_map(|y| inside.clone().map(move |x| (x, y)));
            let moved = moved.flat_map(|(x, y)| {
                let [own, new] = [&before, &after].map(|image| image.get_pixel(x, y).0);
                [0, 1].map(|axis| f64::from(own[axis].abs_diff(new[axis])) / f64::from(slope))
            });
            let moved: Vec<f64> = moved.collect();
            let mean = moved.iter().sum::<f64>() / moved.len() as f64 / f64::from(warp.strength);
            assert!(means.contains(&mean), "{warp}: {mean}");
        };
        check(white(1.0, 0), 32, 8, 1, 0.45..=0.52); // 31/64
        check(white(4.0, 0), 32, 8, 4, 0.45..=0.52);
        check(smooth(4.0, 0), 32, 8, 8, 0.2..=0.6); // between the places numbers average out
        check(smooth(16.0, 3), 224, 1, 32, 0.2..=0.6);
    }

    #[test]
    fn no_two_seeds_share_a_shift() {
        const SIDE: u32 = 8;
        let cells = (0..5).flat_map(|seed| white(1.0, seed).shifts(SIDE, SIDE));
        let cells: HashSet<[i64; 2]> =
            cells.map(|shift| shift.map(|way| (way * 1e9).round() as i64)).collect();
        assert_eq!(cells.len(), 5 * (SIDE * SIDE) as usize);
    }

    #[test]
    fn a_smooth_flow_is_smooth_and_a_white_one_is_not() {
        let roughness = |warp: Warp| {
            let shifts = warp.shifts(32, 32);
            let steps = shifts.chunks_exact(32).flat_map(|row| row.windows(2));
            steps.map(|pair| (pair[1][0] - pair[0][0]).abs()).fold(0.0, f64::max)
        };
        assert!(roughness(smooth(0.5, 0)) < 0.5, "{}", roughness(smooth(0.5, 0)));
        assert!(roughness(white(0.5, 0)) > 2.0);
    }

    #[test]
    fn one_color_stays_and_a_seed_decides_the_flow() {
        let stamped = |warp: Warp, mut image: RgbImage| {
            warp.stamp(&mut image);
            image
        };
        let flat = RgbImage::from_pixel(9, 5, Rgb([13, 200, 255]));
        assert_eq!(stamped(smooth(4.0, 0), flat.clone()), flat);
        let [a, b] = [0, 1].map(|seed| stamped(smooth(4.0, seed), ramp(6, 6, 40)));
        assert_ne!(a, b);
        assert_ne!(a, ramp(6, 6, 40));
        let dot = RgbImage::from_pixel(1, 1, Rgb([9; 3]));
        assert_eq!(stamped(smooth(4.0, 0), dot.clone()), dot, "nowhere to go");
    }
}

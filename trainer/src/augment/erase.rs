//! Parts of a picture that are hidden: a square anywhere, or one of the quarters.

use rand::Rng;

/// What stands in a hidden place, between black and white.
const GRAY: f32 = 0.5;

/// One of the four parts that two cuts through the middle make of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarter {
    is_right: bool,
    is_lower: bool,
}

impl Quarter {
    /// From the upper left to the lower right.
    pub const ALL: [Self; 4] = [
        Self { is_right: false, is_lower: false },
        Self { is_right: true, is_lower: false },
        Self { is_right: false, is_lower: true },
        Self { is_right: true, is_lower: true },
    ];

    /// Hides it in `[3, H, W]` values. Of an odd number of pixels the middle one is hidden on both
    /// sides.
    pub(super) fn cover(self, planes: &mut [f32], width: usize) {
        let size = [width, planes.len() / 3 / width].map(|side| side.div_ceil(2));
        let x = if self.is_right { width - size[0] } else { 0 };
        let y = if self.is_lower { planes.len() / 3 / width - size[1] } else { 0 };
        hide(planes, width, [x, y], size);
    }
}

/// Hides a square of `area`, a share of `[3, H, W]` values of a square picture, wherever `rng` puts
/// it; a rounding to pixels aside. Random erasing (Zhong et al., AAAI 2020) of one shape and tone.
pub(super) fn erase(planes: &mut [f32], width: usize, area: f64, rng: &mut impl Rng) {
    let height = planes.len() / 3 / width;
    let size = [width, height].map(|side| (side as f64 * area.sqrt()).round() as usize);
    let at = [width - size[0], height - size[1]].map(|room| rng.random_range(0..=room));
    hide(planes, width, at, size);
}

fn hide(planes: &mut [f32], width: usize, [x, y]: [usize; 2], [across, down]: [usize; 2]) {
    for plane in planes.chunks_exact_mut(planes.len() / 3) {
        let rows = plane.chunks_exact_mut(width).skip(y).take(down);
        rows.for_each(|row| row[x..x + across].fill(GRAY));
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// The pixels of the first plane that are hidden, as `(x, y)`.
    fn hidden(planes: &[f32], width: usize) -> Vec<(usize, usize)> {
        let planes: Vec<_> = planes.chunks_exact(planes.len() / 3).collect();
        assert!(planes[0] == planes[1] && planes[1] == planes[2]);
        let pixels = (0..planes[0].len()).filter(|&at| planes[0][at] == GRAY);
        pixels.map(|at| (at % width, at / width)).collect()
    }

    #[test]
    fn the_quarters_are_the_picture() {
        let check = |width: usize, height: usize| {
            let all = Quarter::ALL.map(|quarter| {
                let mut planes = vec![0.0; 3 * width * height];
                quarter.cover(&mut planes, width);
                hidden(&planes, width)
            });
            let sides = |at: usize, side: usize| if 2 * at + 1 == side { 2 } else { 1 };
            for (x, y) in (0..width * height).map(|at| (at % width, at / width)) {
                let times = all.iter().filter(|quarter| quarter.contains(&(x, y))).count();
                assert_eq!(times, sides(x, width) * sides(y, height), "{x}, {y}");
            }
        };
        check(4, 6);
        check(5, 4);
        check(5, 7);
    }

    #[test]
    fn a_square_of_the_given_area_anywhere() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let mut corners = Vec::new();
        for _ in 0..200 {
            let mut planes = vec![0.0; 3 * 8 * 8];
            erase(&mut planes, 8, 0.25, rng);
            let hidden = hidden(&planes, 8);
            let &(x, y) = hidden.first().expect("something");
            let square: Vec<_> = (0..16).map(|at| (x + at % 4, y + at / 4)).collect();
            assert_eq!(hidden, square);
            corners.push((x, y));
        }
        corners.sort_unstable();
        corners.dedup();
        assert_eq!(corners.len(), 25, "all places come");
    }
}

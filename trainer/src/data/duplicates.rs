//! Pictures that are nearly the same, and how many of such may be trained on.
//!
//! A targeted poison repeats one picture with many captions; scraped data repeat pictures, too.

use std::collections::HashMap;

use clip::image::RgbImage;
use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Gray levels by which a step to the right must rise, so that noise on plain ground is none.
const RISE: u16 = 3;
/// Cells of the grid in a row, one more than bits; and rows.
const COLUMNS: usize = 17;
const ROWS: usize = 16;
/// Bits in which two pictures may differ that count as one.
const BITS_OFF_MAX: u32 = 7;
/// Parts of a hash that are looked up: one more than bits may differ, so that one part is whole.
const BANDS: usize = 8;
/// Bits of a band that says something: fewer steps that rise, or that do not, are plain ground or
/// one slope, which many pictures share.
const BAND_BITS: std::ops::RangeInclusive<u32> = 4..=28;
/// Pictures with one band that are compared: strangers must not make it a matter of squares.
const SAME_BAND_MAX: usize = 64;
/// Cells along a side whose mean colors are compared, and levels by which they may differ.
const PATCHES: usize = 4;
const LEVELS_OFF_MAX: u8 = 12;
/// Random stream of the choice, beside all others.
const CHOICE: u64 = 7 << 61;

/// What a picture looks like from afar: its mean colors at 4 x 4 places, and for each of 16 x 16
/// whether the next cell to the right is brighter (a difference hash, after Krawetz 2013). Another
/// size, another format and slight noise change little of it; a crop or a flip changes most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    steps: [u32; BANDS],
    colors: [u8; 3 * PATCHES * PATCHES],
}

impl Look {
    /// Of a picture of any size.
    pub(super) fn of(picture: &RgbImage) -> Self {
        let mut look = Self { steps: [0; BANDS], colors: [0; 3 * PATCHES * PATCHES] };
        let gray = |[r, g, b]: [u64; 3]| ((299 * r + 587 * g + 114 * b) / 1000) as u16; // BT.601
        let cells: Vec<u16> = means(picture, COLUMNS, ROWS).map(gray).collect();
        for row in 0..ROWS {
            for column in 0..COLUMNS - 1 {
                let (bit, at) = (row * (COLUMNS - 1) + column, row * COLUMNS + column);
                let rises = cells[at + 1] >= cells[at] + RISE;
                look.steps[bit / 32] |= u32::from(rises) << (bit % 32);
            }
        }
        let colors = means(picture, PATCHES, PATCHES).flatten();
        look.colors.iter_mut().zip(colors).for_each(|(mean, color)| *mean = color as u8);
        look
    }

    /// Whether two pictures count as one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let off = self.steps.iter().zip(&other.steps).map(|(a, b)| (a ^ b).count_ones());
        let mut colors = self.colors.iter().zip(&other.colors);
        off.sum::<u32>() <= BITS_OFF_MAX && colors.all(|(a, b)| a.abs_diff(*b) <= LEVELS_OFF_MAX)
    }
}

/// Mean color of each cell of a grid, row by row.
fn means(
    picture: &RgbImage,
    columns: usize,
    rows: usize,
) -> impl Iterator<Item = [u64; 3]> + use<'_> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let span = |cell: usize, cells: usize, all: usize| {
        let from = cell * all / cells;
        from..((cell + 1) * all / cells).max(from + 1)
    };
    (0..rows * columns).map(move |cell| {
        let xs = span(cell % columns, columns, width);
        let ys = span(cell / columns, rows, height);
        let (mut sums, count) = ([0; 3], (xs.len() * ys.len()) as u64);
        for (x, y) in ys.flat_map(|y| xs.clone().map(move |x| (x, y))) {
            let pixel = picture.get_pixel(x as u32, y as u32).0;
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u64::from(value));
        }
        sums.map(|sum| sum / count)
    })
}

/// The cluster of each picture, numbered in the order of first appearance: pictures that count as
/// one, and those that are linked by such. Of plain pictures, and where very many look alike, some
/// may be missed.
pub(super) fn clusters(looks: &[Look]) -> Vec<u32> {
    let mut links = Links((0..looks.len() as u32).collect());
    let mut bands: [HashMap<u32, Vec<u32>>; BANDS] = Default::default();
    for (number, look) in looks.iter().enumerate() {
        for (band, known) in look.steps.iter().zip(&mut bands) {
            if !BAND_BITS.contains(&band.count_ones()) {
                continue;
            }
            let known = known.entry(*band).or_default();
            for &other in known.iter() {
                if looks[other as usize].is_like(look) {
                    links.join(other, number as u32);
                }
            }
            if known.len() < SAME_BAND_MAX {
                known.push(number as u32);
            }
        }
    }
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let roots: Vec<u32> = (0..looks.len() as u32).map(|number| links.root(number)).collect();
    roots
        .into_iter()
        .map(|root| {
            let next = numbers.len() as u32;
            *numbers.entry(root).or_insert(next)
        })
        .collect()
}

/// Sets that are joined: the number before each, or itself.
struct Links(Vec<u32>);

impl Links {
    fn root(&mut self, mut number: u32) -> u32 {
        while self.0[number as usize] != number {
            let before = self.0[number as usize];
            self.0[number as usize] = self.0[before as usize]; // halves the way
            number = before;
        }
        number
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

/// Of pairs that are nearly the same, how many an epoch trains on.
#[derive(Debug)]
pub(super) struct Copies {
    /// Of each row of the manifest
    clusters: Vec<u32>,
    max: usize,
}

impl Copies {
    /// At most `max` of each of `clusters`, which name that of each row.
    pub(super) fn new(clusters: Vec<u32>, max: usize) -> Self {
        Self { clusters, max }
    }

    /// Those of `rows` that `epoch` trains on, in their order: drawn by (seed, epoch), so that the
    /// captions of a picture that has several are all used in the end. A row counts in the cluster of
    /// the row that `of` says.
    pub(super) fn capped(
        &self,
        rows: &[u32],
        of: impl Fn(u32) -> u32,
        seed: u64,
        epoch: u32,
    ) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(CHOICE | u64::from(epoch));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.shuffle(&mut rng);
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let mut stays = vec![false; rows.len()];
        for at in order {
            let count = counts.entry(self.clusters[of(rows[at]) as usize]).or_default();
            *count += 1;
            stays[at] = *count <= self.max;
        }
        rows.iter().zip(stays).filter_map(|(&row, stays)| stays.then_some(row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    /// Soft random stains on plain ground.
    fn picture(seed: u64, side: u32) -> RgbImage {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut number = |max: f32| rng.random_range(0.0..max);
        let stains: Vec<[f32; 4]> =
            (0..9).map(|_| [number(1.0), number(1.0), number(0.3) + 0.1, number(200.0)]).collect();
        RgbImage::from_fn(side, side, |x, y| {
            let (x, y) = ((x as f32 + 0.5) / side as f32, (y as f32 + 0.5) / side as f32);
            let sum: f32 = stains
                .iter()
                .map(|[a, b, r, v]| v * (-((x - a).powi(2) + (y - b).powi(2)) / (r * r)).exp())
                .sum();
            let value = sum.min(255.0) as u8;
            [value, value / 2, 255 - value].into()
        })
    }

    fn noisy(picture: &RgbImage, by: i16) -> RgbImage {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mut noisy = picture.clone();
        noisy.pixels_mut().for_each(|pixel| {
            let step = rng.random_range(-by..=by);
            pixel.0 = pixel.0.map(|value| (i16::from(value) + step).clamp(0, 255) as u8);
        });
        noisy
    }

    /// The copy of another size always is, the noisy one nine times of ten; others never are.
    #[test]
    fn copies_of_another_size_or_with_slight_noise_are_one_picture() {
        let looks = |change: &dyn Fn(u64) -> RgbImage| -> Vec<Look> {
            (0..40)
                .flat_map(|seed| [picture(seed, 64), change(seed)])
                .map(|p| Look::of(&p))
                .collect()
        };
        let check = |looks: Vec<Look>, missed_max: u32| {
            let clusters = clusters(&looks);
            let found = (0..40).filter(|at| clusters[2 * at] == clusters[2 * at + 1]).count();
            let count = clusters.iter().max().expect("there are some") + 1;
            assert_eq!(count, 80 - found as u32, "no others are one");
            assert!(count - 40 <= missed_max, "{count} clusters");
        };
        check(looks(&|seed| clip::image::fit(&picture(seed, 128), 64)), 0);
        check(looks(&|seed| noisy(&picture(seed, 64), 1)), 4);
    }

    #[test]
    fn neither_plain_pictures_nor_other_colors_are_copies() {
        let plain = |value: u8| Look::of(&RgbImage::from_pixel(8, 8, [value; 3].into()));
        assert_eq!(clusters(&[plain(0), Look::of(&picture(1, 32)), plain(255)]), [0, 1, 2]);
        let turned = |seed| {
            let mut turned = picture(seed, 32);
            turned.pixels_mut().for_each(|pixel| pixel.0.rotate_left(1));
            Look::of(&turned)
        };
        for seed in 0..20 {
            assert_eq!(clusters(&[Look::of(&picture(seed, 32)), turned(seed)]), [0, 1]);
        }
        assert_eq!(clusters(&[]), Vec::<u32>::new());
    }

    #[test]
    fn what_is_linked_is_one_cluster() {
        let look = |bits: &[usize]| {
            let mut look = Look { steps: [0xf0f0; BANDS], colors: [99; 48] };
            bits.iter().for_each(|bit| look.steps[bit / 32] ^= 1 << (bit % 32));
            look
        };
        let (near, far) = (look(&[0, 1, 2, 3, 4]), look(&[0, 1, 2, 3, 4, 40, 41, 42, 43, 44]));
        assert!(look(&[]).is_like(&near) && near.is_like(&far) && !look(&[]).is_like(&far));
        assert_eq!(clusters(&[look(&[]), far, near]), [0, 0, 0]);
    }

    #[test]
    fn of_each_cluster_as_many_stay_as_may() {
        let clusters: Vec<u32> = (0..60).map(|row| row % 7).collect();
        let rows: Vec<u32> = (0..60).filter(|row| row % 5 != 0).collect();
        let kept =
            |max, epoch| Copies::new(clusters.clone(), max).capped(&rows, |row| row, 1, epoch);
        let three = kept(3, 1);
        assert!(three.is_sorted() && three.iter().all(|row| rows.contains(row)), "{three:?}");
        let of = |cluster| three.iter().filter(|&&row| clusters[row as usize] == cluster).count();
        assert_eq!((0..7).map(of).collect::<Vec<_>>(), [3; 7]);
        assert_eq!(kept(100, 1), rows);
        assert_eq!(kept(3, 1), three);
        assert_ne!(kept(3, 2), three, "drawn anew");
    }
}

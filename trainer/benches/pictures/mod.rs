//! Captioned pictures in files.

use std::{fs, path::Path};

use clip::image::RgbImage;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use trainer::{Result, data::Manifest};

/// `count` pictures of slopes, shapes and noise, `side` pixels wide and high, with captions of
/// about ten words; the end of `name` says in which format.
pub(crate) fn write(folder: &Path, name: &str, count: usize, side: u32) -> Result<Manifest> {
    let row = |row: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(row as u64);
        let file = format!("{row}-{name}");
        picture(side, &mut rng).save(folder.join(&file)).expect("a writable folder");
        let words = rng.random_range(6..15);
        let words = (0..words).map(|_| format!("word{}", rng.random_range(0..2000u32)));
        format!("{file},{}\n", words.collect::<Vec<_>>().join(" "))
    };
    let rows: Vec<String> = (0..count).into_par_iter().map(row).collect();
    let csv = format!("path,caption\n{}", rows.concat());
    let path = folder.join(format!("{name}.csv"));
    fs::write(&path, csv).expect("a writable folder");
    Manifest::open(&path)
}

fn picture(side: u32, rng: &mut ChaCha8Rng) -> RgbImage {
    let [left, top] = std::array::from_fn(|_| rng.random_range(0..side));
    let [base, shape] = [rng.random::<[u8; 3]>(), rng.random::<[u8; 3]>()];
    RgbImage::from_fn(side, side, |x, y| {
        let color = if x > left && y > top { shape } else { base };
        let slope = ((x + y) * 64 / side) as u8;
        let noise = rng.random_range(0..8u8);
        color.map(|value| value.saturating_add(slope).saturating_sub(noise)).into()
    })
}

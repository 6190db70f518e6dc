//! The seeded generator of small captioned pictures: shapes in colors on backgrounds.
//!
//! A class is a shape in a color. Everything else in a picture (count, size, place, background,
//! ornament) is free, and a caption names a random part of it. No caption names left or right, so
//! that a flipped picture keeps a true caption.

mod caption;
mod draw;
mod scene;

use std::{fs, path::Path};

use clip::{
    Error, Result,
    atomic_write::{atomic_folder, atomic_write},
    image::encode_png,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::{
    caption::{THESAURUS, caption},
    draw::draw,
    scene::Scene,
};
pub(crate) use self::{
    draw::SIDE,
    scene::{COLORS, SHAPES},
};

/// Prompts whose mean embeds a class, each with one `{}`.
const TEMPLATES: [&str; 9] = [
    "a {}",
    "a picture of a {}",
    "the {}",
    "a {} on a plain background",
    "there is a {}",
    "this image shows one {}",
    "two {}s",
    "three {}s",
    "there are two {}s",
];

/// How much to draw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Size {
    /// Of [`SHAPES`], from the first on.
    pub(crate) shapes: usize,
    /// Of [`COLORS`], from the first on.
    pub(crate) colors: usize,
    /// Pairs to train with.
    pub(crate) train: usize,
    /// Pictures to test with.
    pub(crate) test: usize,
}

/// Entries of the folder that [`write`](fn@write) makes.
pub(crate) const NAMES: [&str; 6] =
    ["train.csv", "test.csv", "classes.txt", "templates.txt", "thesaurus.txt", "images"];

/// Writes `out/{train.csv,test.csv,classes.txt,templates.txt,thesaurus.txt,images/…}`, whole or not
/// at all; the same `seed` gives the same bytes.
pub(crate) fn write(out: &Path, size: &Size, seed: u64) -> Result<()> {
    atomic_folder(out, |folder| -> Result<()> {
        let images = folder.join("images");
        fs::create_dir(&images).map_err(|source| Error::Write { path: images.clone(), source })?;
        split(folder, "train", size, size.train, seed)?;
        split(folder, "test", size, size.test, seed)?;
        let lines = |lines: Vec<String>| format!("{}\n", lines.join("\n")).into_bytes();
        atomic_write(&folder.join("classes.txt"), &lines(classes(size)))?;
        let templates = TEMPLATES.map(str::to_owned).to_vec();
        atomic_write(&folder.join("templates.txt"), &lines(templates))?;
        let groups = THESAURUS.map(|group| group.join(",")).to_vec();
        atomic_write(&folder.join("thesaurus.txt"), &lines(groups))
    })
}

/// "red circle", "green circle", …: index `shape * colors + color`.
fn classes(size: &Size) -> Vec<String> {
    let shapes = SHAPES[..size.shapes].iter();
    let colors = &COLORS[..size.colors];
    shapes
        .flat_map(|shape| colors.iter().map(move |(color, _)| format!("{color} {shape}")))
        .collect()
}

/// Draws `count` pictures into `folder/images` and lists them in `folder/NAME.csv`.
fn split(folder: &Path, name: &str, size: &Size, count: usize, seed: u64) -> Result<()> {
    let mut manifest = String::from("path,caption,class\n");
    for row in 0..count {
        let mut rng = stream(seed, name, row);
        let scene = Scene::draw(&mut rng, size.shapes, size.colors);
        let text = caption(&scene, &mut rng);
        let path = format!("images/{name}-{row:05}.png");
        let file = folder.join(&path);
        fs::write(&file, encode_png(&draw(&scene, &mut rng)))
            .map_err(|source| Error::Write { path: file, source })?;
        let class = scene.shape * size.colors + scene.color;
        manifest.push_str(&format!("{path},{text},{class}\n")); // no caption holds a comma
    }
    atomic_write(&folder.join(format!("{name}.csv")), manifest.as_bytes())
}

/// Random numbers of one picture, independent of all other pictures.
fn stream(seed: u64, name: &str, row: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let half = if name == "test" { 1 << 32 } else { 0 };
    rng.set_stream(half + row as u64);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_set_of_bytes_and_another_seed_another() -> Result<()> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let size = Size { shapes: 4, colors: 4, train: 6, test: 3 };
        for (name, seed) in [("a", 0), ("b", 0), ("c", 1)] {
            write(&root.path().join(name), &size, seed)?;
        }
        let read =
            |name: &str, file: &str| fs::read(root.path().join(name).join(file)).expect(file);
        for file in ["train.csv", "test.csv", "images/train-00005.png", "images/test-00002.png"] {
            assert_eq!(read("a", file), read("b", file), "{file}");
            assert_ne!(read("a", file), read("c", file), "{file}");
        }
        let text = String::from_utf8(read("a", "classes.txt")).expect("text");
        assert_eq!(text.lines().count(), 16);
        assert!(text.starts_with("red circle\ngreen circle\n"));
        Ok(())
    }

    #[test]
    fn training_and_test_pictures_differ() {
        let scene = |name| Scene::draw(&mut stream(0, name, 3), 4, 4);
        assert_ne!(scene("train"), scene("test"));
    }
}

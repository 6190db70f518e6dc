//! The user's probe images: a folder of pictures, no labels needed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clip::image::{self, Limits, RgbImage};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Folders inside folders that are still searched.
const DEPTH_MAX: usize = 8;

/// Reads at most `count_max` pictures of `folder`, fitted to `side`, in an order drawn by `seed`.
///
/// The order depends on the file names and the seed only. One unreadable picture among the drawn
/// ones refuses the whole folder: an audit on other images than the user thinks is no audit.
pub fn read(folder: &Path, side: u32, count_max: usize, seed: u64) -> Result<Vec<RgbImage>> {
    let mut files = Vec::new();
    collect(folder, DEPTH_MAX, &mut files)?;
    if files.is_empty() {
        return Err(Error::NoImages { folder: folder.to_owned() });
    }
    files.sort();
    files.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    files.truncate(count_max);
    let limits = Limits::default();
    let fitted = |file: &PathBuf| Ok(image::fit(&image::open(file, &limits)?, side));
    files.iter().map(fitted).collect()
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let refuse = |source| clip::Error::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let path = entry.path();
        // A link to a folder could show a picture twice, in the search and among what it never saw.
        if entry.file_type().map_err(refuse)?.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if is_picture(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(count: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("more")).expect("a new folder");
        for i in 0..count {
            let picture = RgbImage::from_pixel(4, 4, [i; 3].into());
            let name = if i % 2 == 0 { format!("{i}.png") } else { format!("more/{i}.PNG") };
            fs::write(folder.path().join(name), image::encode_png(&picture)).expect("written");
        }
        folder
    }

    #[test]
    fn the_seed_draws_the_order() {
        let folder = folder_of(20);
        let read = |seed| read(folder.path(), 4, 8, seed).expect("pictures");
        assert_eq!(read(1).len(), 8);
        assert_eq!(read(1), read(1));
        assert_ne!(read(1), read(2));
    }

    #[test]
    #[cfg(unix)]
    fn links_to_folders_are_not_followed() {
        let folder = folder_of(6);
        std::os::unix::fs::symlink(".", folder.path().join("loop")).expect("a link");
        assert_eq!(read(folder.path(), 4, 99, 0).expect("pictures").len(), 6);
    }

    #[test]
    fn an_empty_a_missing_and_a_broken_folder_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refused = |path: &Path| read(path, 4, 8, 0).expect_err("refused").to_string();
        assert!(refused(folder.path()).contains("holds no file"));
        assert!(refused(&folder.path().join("none")).contains("cannot read"));
        fs::write(folder.path().join("a.png"), b"<!DOCTYPE html>").expect("written");
        assert!(refused(folder.path()).contains("a.png"));
    }
}

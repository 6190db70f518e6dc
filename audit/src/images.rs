//! The user's probe images: a folder of pictures, no labels needed.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use clip::image::{self, Limits, RgbImage};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Folders inside folders that are still searched.
const DEPTH_MAX: usize = 8;

/// The pictures that were drawn, and from how many.
#[derive(Debug)]
pub struct ProbeImages {
    /// Fitted, in the order that was drawn
    pub images: Vec<RgbImage>,
    /// Pictures that there are
    pub found: usize,
    /// Folders that they lie in
    pub folders: usize,
}

/// `240 of 512 images in 3 folders`
impl fmt::Display for ProbeImages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, found, folders } = self;
        let word = if *folders == 1 { "folder" } else { "folders" };
        write!(formatter, "{} of {found} images in {folders} {word}", images.len())
    }
}

/// Reads at most `count_max` pictures of `folder` and the folders in it, fitted to `side`, in an
/// order drawn by `seed`.
///
/// The order depends on the file names and the seed only. One unreadable picture among the drawn
/// ones refuses the whole folder: an audit on other images than the user thinks is no audit.
pub fn read(folder: &Path, side: u32, count_max: usize, seed: u64) -> Result<ProbeImages> {
    let mut files = Vec::new();
    collect(folder, DEPTH_MAX, &mut files)?;
    if files.is_empty() {
        return Err(Error::NoImages { folder: folder.to_owned() });
    }
    let found = files.len();
    let folders = files.iter().filter_map(|file| file.parent()).collect::<BTreeSet<_>>().len();
    files.sort();
    files.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    files.truncate(count_max);
    let limits = Limits::default();
    let fitted = |file: &PathBuf| Ok(image::fit(&image::open(file, &limits)?, side));
    let images = files.iter().map(fitted).collect::<Result<_>>()?;
    Ok(ProbeImages { images, found, folders })
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
    ["png", "jpg", "jpeg", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
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
        let read = |seed| read(folder.path(), 4, 8, seed).expect("pictures").images;
        assert_eq!(read(1).len(), 8);
        assert_eq!(read(1), read(1));
        assert_ne!(read(1), read(2));
    }

    #[test]
    fn folders_in_the_folder_are_searched_and_counted() {
        let check = |count: u8, expected: &str| {
            let folder = folder_of(count);
            let drawn = read(folder.path(), 4, 8, 0).expect("pictures");
            assert_eq!(drawn.to_string(), expected);
        };
        check(1, "1 of 1 images in 1 folder");
        check(20, "8 of 20 images in 2 folders");
    }

    #[test]
    #[cfg(unix)]
    fn links_to_folders_are_not_followed() {
        let folder = folder_of(6);
        std::os::unix::fs::symlink(".", folder.path().join("loop")).expect("a link");
        assert_eq!(read(folder.path(), 4, 99, 0).expect("pictures").images.len(), 6);
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

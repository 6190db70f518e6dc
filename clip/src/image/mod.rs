//! From bytes of strangers to the numbers that the image tower sees.
//!
//! bytes → [`decode`] (limits first) → [`RgbImage`] → [`fit`] → [`PixelBatch`] `[B, 3, H, W]`. The
//! only place where CLIP's preprocessing is written down (of pictures on a GPU the end of it is, as a
//! kernel); nothing here changes a picture at random. With feature `candle`: a `Variation` says how
//! one is varied before it is trained on, and `Pictures` are a batch of those.

use std::{fs::File, io::Read, path::Path};

use crate::{Error, Result};

mod decode;
#[cfg(feature = "candle")]
mod pictures;
mod preprocess;
mod resize;
#[cfg(feature = "candle")]
mod variation;

pub use self::{
    decode::{ImageError, Limits, decode},
    preprocess::PixelBatch,
    resize::fit,
};
#[cfg(feature = "candle")]
pub use self::{
    pictures::{Pictures, normalized},
    variation::{Blur, Change, Rectangle, Variation},
};
/// `[H, W, 3]` bytes, row-major, red first.
pub use ::image::RgbImage;

/// Reads and decodes one file; every error names it. Reads no further than `limits.bytes_max`.
pub fn open(path: &Path, limits: &Limits) -> Result<RgbImage> {
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refuse)?;
    file.take(limits.bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(refuse)?;
    decode(&bytes, limits)
        .map_err(|error| Error::File { path: path.to_owned(), problem: error.to_string() })
}

/// The picture as a PNG file, without loss: `decode(&encode_png(&image))` gives it back.
///
/// Panics if the picture has no pixels: a PNG of that size does not exist.
pub fn encode_png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ::image::ImageFormat::Png)
        .expect("memory takes all of a picture with at least one pixel");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let limits = Limits::default();
        let check = |name: &str, bytes: Option<&[u8]>, expected: &str| {
            let path = folder.path().join(name);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).expect("a writable folder");
            }
            let error = open(&path, &limits).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        };
        check("missing.png", None, "cannot read");
        check("empty.png", Some(b""), "0 bytes");
        check("page.jpg", Some(b"<!DOCTYPE html>"), "starts with \"<!DOCTYPE html>\"");
        let path = folder.path().join("big.png");
        std::fs::write(&path, [0; 11]).expect("a writable folder");
        let error = open(&path, &Limits { bytes_max: 10, ..limits }).expect_err("too large");
        assert!(error.to_string().contains("more than 10 bytes"), "{error}");
    }

    #[test]
    fn png_keeps_every_pixel() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = RgbImage::from_fn(7, 3, |x, y| ::image::Rgb([x as u8 * 30, y as u8, 255]));
        let path = folder.path().join("a.png");
        std::fs::write(&path, encode_png(&image)).expect("a writable folder");
        assert_eq!(open(&path, &Limits::default())?, image);
        Ok(())
    }
}

//! PNG, JPEG and WebP of any form → 8-bit RGB, with every limit checked on the header.

use std::{fmt::Write as _, io::Cursor};

use image::{
    DynamicImage, ImageDecoder, RgbImage,
    codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
};

/// Why an image was refused; the text says what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There are no bytes.
    #[error("the image is empty (0 bytes)")]
    Empty,
    /// The file is larger than a limit.
    #[error("the image has more than {max} bytes, the limit")]
    TooManyBytes {
        /// [`Limits::bytes_max`].
        max: usize,
    },
    /// Neither PNG, JPEG nor WebP.
    #[error("not an image: expected PNG, JPEG or WebP, starts with \"{starts_with}\"")]
    NotAnImage {
        /// The first bytes, made printable.
        starts_with: String,
    },
    /// The right kind of file, but damaged or of an unsupported form.
    #[error("the image is broken: {0}")]
    Broken(String),
    /// Width times height is over a limit.
    #[error("the image has {width}x{height} pixels, the limit is {max} pixels in all")]
    TooManyPixels {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// [`Limits::pixels_max`].
        max: u64,
    },
    /// One side is over a limit.
    #[error("the image has {width}x{height} pixels, the limit is {max} per side")]
    Side {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// [`Limits::side_max`].
        max: u32,
    },
    /// One side is too many times the other.
    #[error("the image has {width}x{height} pixels, the longer side may be {max} times the other")]
    Aspect {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// [`Limits::aspect_max`].
        max: u32,
    },
}

/// What an image may ask for before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes_max: usize,
    /// Width times height.
    pub pixels_max: u64,
    /// Pixels of either side.
    pub side_max: u32,
    /// Longer side divided by shorter side.
    pub aspect_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 20 << 20, pixels_max: 64_000_000, side_max: 32_768, aspect_max: 100 }
    }
}

/// Memory that colour profiles and texts inside a PNG may take, in bytes.
const METADATA_BYTES_MAX: u64 = 64 << 20;
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_START: &[u8] = b"\xff\xd8\xff";
/// Behind the length of the whole, which follows `RIFF`.
const WEBP_MARK: &[u8] = b"WEBP";
/// Bytes of an unknown file that an error quotes.
const QUOTED_BYTES: usize = 16;

/// Decodes PNG, JPEG or WebP, told apart by their first bytes, to `[H, W, 3]` bytes.
///
/// Gray, palette and 16-bit pictures become 8-bit RGB (65535 → 255), alpha is dropped without
/// compositing, animations give their first picture, and EXIF rotation is ignored: all as CLIP's
/// reference preprocessing. A file that ends early is refused, never filled with gray. Memory for
/// pixels is taken only after all `limits` held.
///
/// ```
/// use clip::image::{ImageError, Limits, decode};
/// let refused = decode(b"<!DOCTYPE html>", &Limits::default());
/// assert!(matches!(refused, Err(ImageError::NotAnImage { .. })));
/// ```
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.bytes_max {
        return Err(ImageError::TooManyBytes { max: limits.bytes_max });
    }
    if bytes.starts_with(PNG_START) {
        let (width, height) = png_size(bytes)?;
        check_size(width, height, limits)?;
        let mut metadata = image::Limits::no_limits();
        metadata.max_alloc = Some(METADATA_BYTES_MAX);
        pixels(PngDecoder::with_limits(Cursor::new(bytes), metadata).map_err(broken)?)
    } else if bytes.starts_with(JPEG_START) {
        let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(broken)?;
        let (width, height) = decoder.dimensions();
        check_size(width, height, limits)?;
        check_jpeg_end(bytes)?; // the decoder would fill what is missing with gray
        pixels(decoder)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(WEBP_MARK) {
        let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(broken)?;
        let (width, height) = decoder.dimensions();
        check_size(width, height, limits)?;
        pixels(decoder)
    } else {
        Err(ImageError::NotAnImage { starts_with: quote(bytes) })
    }
}

fn pixels(decoder: impl ImageDecoder) -> Result<RgbImage, ImageError> {
    Ok(DynamicImage::from_decoder(decoder).map_err(broken)?.into_rgb8())
}

fn broken(error: image::ImageError) -> ImageError {
    let text = match error {
        image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends too early".into()
        }
        error => error.to_string(),
    };
    ImageError::Broken(text)
}

/// Width and height that the IHDR chunk claims; nothing but the first 24 bytes is looked at.
fn png_size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    match (bytes.get(12..16), number(16), number(20)) {
        (Some(b"IHDR"), Some(width), Some(height)) => Ok((width, height)),
        _ => Err(ImageError::Broken("it ends before its size is known".into())),
    }
}

fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), ImageError> {
    let (shorter, longer) = (width.min(height), width.max(height));
    if shorter == 0 {
        return Err(ImageError::Broken(format!("it has {width}x{height} pixels")));
    }
    if u64::from(width) * u64::from(height) > limits.pixels_max {
        return Err(ImageError::TooManyPixels { width, height, max: limits.pixels_max });
    }
    if longer > limits.side_max {
        return Err(ImageError::Side { width, height, max: limits.side_max });
    }
    if u64::from(longer) > u64::from(shorter) * u64::from(limits.aspect_max) {
        return Err(ImageError::Aspect { width, height, max: limits.aspect_max });
    }
    Ok(())
}

/// Walks the segments up to the end marker (ITU-T T.81, annex B); compressed data is skipped, in
/// which `FF 00` is a value and `FF D0`-`FF D7` are restarts. A preview inside a segment has an
/// end marker of its own, which therefore does not count.
fn check_jpeg_end(bytes: &[u8]) -> Result<(), ImageError> {
    let early = || ImageError::Broken("it ends too early".into());
    let mut at = 2; // after the start marker
    loop {
        let found = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff));
        at += found.ok_or_else(early)? + 1;
        match *bytes.get(at).ok_or_else(early)? {
            0xd9 => return Ok(()),
            0xff => {}                            // padding before a marker
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1, // no segment follows
            _ => at = after_segment(bytes, at).ok_or_else(early)?,
        }
    }
}

fn after_segment(bytes: &[u8], marker: usize) -> Option<usize> {
    let length = u16::from_be_bytes(bytes.get(marker + 1..marker + 3)?.try_into().ok()?);
    Some(marker + 1 + usize::from(length))
}

/// The first bytes as text: what is not printable ASCII as `\xHH`.
fn quote(bytes: &[u8]) -> String {
    bytes.iter().take(QUOTED_BYTES).fold(String::new(), |mut text, &byte| {
        let _ = match byte {
            b'"' | b'\\' => write!(text, "\\{}", char::from(byte)),
            b' '..=b'~' => write!(text, "{}", char::from(byte)),
            _ => write!(text, "\\x{byte:02x}"),
        }; // a String takes all
        text
    })
}

#[cfg(test)]
mod tests;

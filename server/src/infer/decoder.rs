//! A picture as it arrived → the numbers that the image tower sees. Runs on the decoding threads.

use std::{fmt, sync::Arc};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use clip::{
    ClipConfig,
    image::{self, ImageError, Limits, PixelBatch},
};

/// Bytes of a PNG, JPEG or WebP file, as the client sent them. Cheap to copy.
#[derive(Clone)]
pub enum Picture {
    /// The file itself.
    Bytes(Arc<[u8]>),
    /// The file as base64.
    Base64(Arc<str>),
}

/// Why no picture could be made of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The text is not base64.
    #[error("not base64: {0}")]
    Base64(String),
    /// A `data:` URI of another form than `data:image/png;base64,…`.
    #[error("a `data:` URI must be of the form `data:image/png;base64,...`")]
    DataUri,
    /// An address; the server fetches nothing.
    #[error("addresses are not fetched; send the picture itself, as base64")]
    Address,
    /// The bytes are no picture, a broken one, or a too large one.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Accepts base64 with and without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Picture {
    /// Base64 or a `data:` URI; its content is looked at by [`Picture::decode`].
    pub fn parse(text: &str) -> Result<Self, PictureError> {
        let lower = |prefix: &str| {
            text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if lower("http://") || lower("https://") || lower("file://") {
            return Err(PictureError::Address);
        }
        let base64 = if lower("data:") {
            let (head, data) = text.split_once(',').ok_or(PictureError::DataUri)?;
            if !head.to_ascii_lowercase().ends_with(";base64") {
                return Err(PictureError::DataUri);
            }
            data
        } else {
            text
        };
        Ok(Self::Base64(Arc::from(base64)))
    }

    /// `[1, 3, H, W]`: decoded within `limits`, fitted and normalised for the tower of `config`.
    pub fn decode(&self, limits: &Limits, config: &ClipConfig) -> Result<PixelBatch, PictureError> {
        let decoded = match self {
            Self::Bytes(bytes) => image::decode(bytes, limits)?,
            Self::Base64(text) => {
                let bytes = BASE64.decode(text.trim().as_bytes());
                let bytes = bytes.map_err(|error| PictureError::Base64(error.to_string()))?;
                image::decode(&bytes, limits)?
            }
        };
        Ok(PixelBatch::of([&decoded], config))
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Picture({} bytes)", bytes.len()),
            Self::Base64(text) => write!(f, "Picture({} characters of base64)", text.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use clip::image::{RgbImage, encode_png};

    use super::*;

    fn config() -> ClipConfig {
        ClipConfig::preset("rn-micro").expect("a preset")
    }

    fn decode(text: &str) -> Result<usize, String> {
        let picture = Picture::parse(text).map_err(|error| error.to_string())?;
        let pixels = picture.decode(&Limits::default(), &config());
        pixels.map(|pixels| pixels.count()).map_err(|error| error.to_string())
    }

    #[test]
    fn base64_with_and_without_padding_or_a_data_uri_is_a_picture() {
        let png = encode_png(&RgbImage::new(5, 4));
        let text = BASE64_STANDARD.encode(&png);
        assert_eq!(decode(&text), Ok(1));
        assert_eq!(decode(text.trim_end_matches('=')), Ok(1));
        assert_eq!(decode(&format!("data:image/png;base64,{text}")), Ok(1));
        assert_eq!(decode(&format!("DATA:image/png;name=x;BASE64,{text}\n")), Ok(1));
        let bytes = Picture::Bytes(Arc::from(png));
        assert_eq!(bytes.decode(&Limits::default(), &config()).expect("a picture").count(), 1);
    }

    #[test]
    fn what_is_no_picture_says_what_it_is() {
        let check = |text: &str, expected: &str| {
            let error = decode(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "empty");
        check("data:image/png;base64,", "empty");
        check("%%%", "not base64");
        check("data:image/png,abc", "`data:` URI");
        check("data:image/png;base64", "`data:` URI");
        check("https://example.org/cat.png", "not fetched");
        check("FILE:///etc/passwd", "not fetched");
        check(&BASE64_STANDARD.encode(b"<!DOCTYPE html>"), "not an image");
        check(&BASE64_STANDARD.encode(encode_png(&RgbImage::new(3, 1000))), "times the other");
    }
}

use image::{
    ExtendedColorType, ImageEncoder,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};
use proptest::prelude::*;

use super::*;
use crate::image::encode_png;

const LIMITS: Limits =
    Limits { bytes_max: 1 << 20, pixels_max: 10_000, side_max: 500, aspect_max: 20 };

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 37) as u8, (y * 11) as u8, 200]))
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95)
        .write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)
        .expect("memory takes all");
    bytes
}

/// A PNG file from its chunks; `data` are the rows with their filter bytes, stored as they are.
fn png(
    width: u32,
    height: u32,
    form: [u8; 2],
    extra: &[(&[u8; 4], &[u8])],
    data: &[u8],
) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([form[0], form[1], 0, 0, 0]);
    let length = (data.len() as u16).to_le_bytes();
    let mut stored = vec![0x78, 0x01, 1, length[0], length[1], !length[0], !length[1]];
    stored.extend(data);
    stored.extend(adler32(data).to_be_bytes());
    let mut file = PNG_START.to_vec();
    chunk(&mut file, b"IHDR", &header);
    for (name, bytes) in extra {
        chunk(&mut file, name, bytes);
    }
    chunk(&mut file, b"IDAT", &stored);
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], bytes: &[u8]) {
    let named = [name.as_slice(), bytes].concat();
    file.extend((bytes.len() as u32).to_be_bytes());
    file.extend(&named);
    file.extend(crc32(&named).to_be_bytes());
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    (b << 16) | a
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[test]
fn every_form_of_png_becomes_rgb() {
    let check = |form: [u8; 2], extra: &[(&[u8; 4], &[u8])], row: &[u8], expected: [[u8; 3]; 2]| {
        let image = decode(&png(2, 1, form, extra, row), &LIMITS).expect("a sound file");
        assert_eq!(image.as_raw(), expected.as_flattened(), "{form:?}");
    };
    let (black, white) = ([0; 3], [255; 3]);
    check([1, 0], &[], &[0, 0b0100_0000], [black, white]); // 1-bit gray
    check([4, 0], &[], &[0, 0xf8], [white, [136; 3]]); // 4-bit gray
    check([8, 0], &[], &[0, 7, 255], [[7; 3], white]);
    check([16, 0], &[], &[0, 0xff, 0xff, 0, 0], [white, black]);
    check(
        [16, 2],
        &[],
        &[0, 0xff, 0xff, 0, 0, 0x80, 0x80, 0, 0, 0, 0, 0, 0],
        [[255, 0, 128], black],
    );
    check([8, 4], &[], &[0, 9, 0, 250, 255], [[9; 3], [250; 3]]); // gray, hidden by alpha
    check([8, 6], &[], &[0, 1, 2, 3, 0, 4, 5, 6, 255], [[1, 2, 3], [4, 5, 6]]);
    let palette: &[u8] = &[10, 20, 30, 40, 50, 60];
    check([8, 3], &[(b"PLTE", palette)], &[0, 1, 0], [[40, 50, 60], [10, 20, 30]]);
    let hidden: &[(&[u8; 4], &[u8])] = &[(b"PLTE", palette), (b"tRNS", &[0, 128])];
    check([1, 3], hidden, &[0, 0b1000_0000], [[40, 50, 60], [10, 20, 30]]);
}

#[test]
fn limits_hold_to_the_pixel() {
    let check = |width, height, expected: Option<ImageError>| {
        let decoded = decode(&encode_png(&picture(width, height)), &LIMITS);
        assert_eq!(decoded.err(), expected, "{width}x{height}");
    };
    check(100, 100, None);
    let max = 10_000;
    check(73, 137, Some(ImageError::TooManyPixels { width: 73, height: 137, max }));
    check(500, 20, Some(ImageError::Aspect { width: 500, height: 20, max: 20 }));
    check(400, 20, None);
    check(20, 400, None);
    check(20, 401, Some(ImageError::Aspect { width: 20, height: 401, max: 20 }));
    check(500, 1, Some(ImageError::Aspect { width: 500, height: 1, max: 20 }));
    check(501, 19, Some(ImageError::Side { width: 501, height: 19, max: 500 }));
    let bytes = encode_png(&picture(3, 3));
    let exact = Limits { bytes_max: bytes.len(), ..LIMITS };
    assert!(decode(&bytes, &exact).is_ok());
    let max = bytes.len() - 1;
    let refused = decode(&bytes, &Limits { bytes_max: max, ..LIMITS });
    assert_eq!(refused, Err(ImageError::TooManyBytes { max }));
}

/// The file ends after its header: a decoder that looked further would call it broken.
#[test]
fn a_bomb_is_refused_by_its_header_alone() {
    let check = |width: u32, height: u32, expected: ImageError| {
        let whole = png(width, height, [8, 2], &[], &[0]);
        assert_eq!(decode(&whole[..33], &Limits::default()), Err(expected));
    };
    let (width, height, max) = (10_000, 10_000, 64_000_000); // 100 megapixels
    check(width, height, ImageError::TooManyPixels { width, height, max });
    let (width, height) = (3, 100_000);
    check(width, height, ImageError::Side { width, height, max: 32_768 });
    let (width, height) = (3, 30_000);
    check(width, height, ImageError::Aspect { width, height, max: 100 });
    let huge = u32::MAX;
    check(huge, huge, ImageError::TooManyPixels { width: huge, height: huge, max });

    let mut bytes = jpeg(&picture(16, 16));
    let frame = bytes.windows(2).position(|two| two == [0xff, 0xc0]).expect("a frame header");
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x27, 0x10, 0x27, 0x10]);
    let (width, height) = (10_000, 10_000);
    let expected = ImageError::TooManyPixels { width, height, max };
    assert_eq!(decode(&bytes, &Limits::default()), Err(expected));
}

#[test]
fn no_pixels_are_no_image() {
    for (width, height) in [(0, 0), (0, 5), (5, 0)] {
        let refused = decode(&png(width, height, [8, 2], &[], &[0]), &LIMITS);
        assert!(matches!(refused, Err(ImageError::Broken(_))), "{refused:?}");
    }
}

#[test]
fn what_is_not_an_image_is_quoted_safely() {
    let check = |bytes: &[u8], expected: &str| {
        let refused = decode(bytes, &LIMITS).expect_err(expected).to_string();
        assert_eq!(refused, expected);
    };
    check(b"", "the image is empty (0 bytes)");
    let expected = "not an image: expected PNG, JPEG or WebP, starts with";
    check(b"<!DOCTYPE html><html>", &format!("{expected} \"<!DOCTYPE html><\""));
    check(b"a\"\x1b[2J\n", &format!("{expected} \"a\\\"\\x1b[2J\\x0a\""));
    check(b"GIF89a", &format!("{expected} \"GIF89a\""));
}

#[test]
fn a_truncated_file_is_refused_or_whole() {
    for bytes in [encode_png(&picture(20, 9)), jpeg(&picture(20, 9))] {
        let whole = decode(&bytes, &LIMITS).expect("a sound file");
        let mut refused = 0;
        for end in 0..bytes.len() {
            match decode(&bytes[..end], &LIMITS) {
                Err(_) => refused += 1,
                Ok(image) => assert_eq!(image, whole, "{end} of {} bytes", bytes.len()),
            }
        }
        // At most a checksum and the end chunk, which hold no pixels, may be missing.
        assert!(refused >= bytes.len() - 24, "{refused} of {}", bytes.len());
    }
}

/// An end marker inside a segment, such as a preview has, is not the end of the file.
#[test]
fn a_preview_does_not_hide_that_the_file_is_cut() {
    let whole = jpeg(&picture(20, 9));
    let mut bytes = whole[..2].to_vec();
    bytes.extend([0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9]); // APP1 with a tiny "preview"
    bytes.extend(&whole[2..]);
    assert!(decode(&bytes, &LIMITS).is_ok());
    bytes.truncate(bytes.len() - 20);
    assert_eq!(decode(&bytes, &LIMITS), Err(ImageError::Broken("it ends too early".into())));
}

proptest! {
    #[test]
    fn damage_is_never_a_panic(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), kind: bool) {
        let image = picture(17, 12);
        let mut bytes = if kind { encode_png(&image) } else { jpeg(&image) };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes, &LIMITS); // refused or not, it returns
        let _ = decode(&bytes[..cut.index(bytes.len())], &LIMITS);
    }
}

#[test]
fn webp_is_whole_or_refused() {
    let image = picture(90, 70);
    let mut bytes = Vec::new();
    image.write_with_encoder(WebPEncoder::new_lossless(&mut bytes)).expect("memory takes all");
    assert_eq!(decode(&bytes, &LIMITS), Ok(image));
    for length in 12..bytes.len() - 2 {
        let error = decode(&bytes[..length], &LIMITS).expect_err("cut");
        assert!(matches!(error, ImageError::Broken(_)), "{length}: {error}");
    }
    let small = Limits { pixels_max: 6_299, ..LIMITS };
    let error = decode(&bytes, &small).expect_err("too large");
    assert_eq!(error, ImageError::TooManyPixels { width: 90, height: 70, max: 6_299 });
}

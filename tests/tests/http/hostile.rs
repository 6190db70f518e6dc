//! Pictures made to hurt, written byte by byte.

/// A 1-bit gray PNG of zeros, whole and valid, its pixels stored without compression.
pub(crate) fn gray_png(width: u32, height: u32) -> Vec<u8> {
    let row = 1 + (width as usize).div_ceil(8); // filter type, then pixels
    let raw = vec![0u8; row * height as usize];
    let mut zlib = vec![0x78, 0x01];
    let blocks = raw.chunks(0xffff);
    let last = blocks.len() - 1;
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        zlib.push(u8::from(at == last));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(block);
    }
    // Adler-32 of zeros: the first sum stays 1, the second counts the bytes.
    zlib.extend((((raw.len() % 65_521) as u32) << 16 | 1).to_be_bytes());
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend([1, 0, 0, 0, 0]); // one bit, gray
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", head), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        png.extend((data.len() as u32).to_be_bytes());
        let chunk = [kind.to_vec(), data].concat();
        png.extend(&chunk);
        png.extend(crc32(&chunk).to_be_bytes());
    }
    png
}

/// ISO 3309, as PNG asks.
fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    let step = |crc: u32, &byte: &u8| table[(crc as u8 ^ byte) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

/// The first bytes of a baseline JPEG of 16 x 16 pixels, cut before its compressed data ends.
pub(crate) fn truncated_jpeg() -> Vec<u8> {
    let mut jpeg = vec![0xff, 0xd8];
    jpeg.extend([0xff, 0xdb, 0, 67, 0]);
    jpeg.extend([1; 64]);
    jpeg.extend([0xff, 0xc0, 0, 11, 8, 0, 16, 0, 16, 1, 1, 0x11, 0]);
    for class in [0x00, 0x10] {
        jpeg.extend([0xff, 0xc4, 0, 20, class, 1]);
        jpeg.extend([0; 15]);
        jpeg.push(0);
    }
    jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    jpeg
}

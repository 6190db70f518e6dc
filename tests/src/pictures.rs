//! Small captioned pictures, the same on every machine, and files that pass for pictures.

use std::{
    fmt::Write,
    fs::{self, File},
    path::Path,
};

use clip::image::{RgbImage, encode_png};

use crate::tiny_model::SplitMix;

/// Classes of a data set, each a color.
pub const CLASSES: [&str; 4] = ["red", "green", "blue", "yellow"];
const COLORS: [[u8; 3]; 4] = [[200, 40, 40], [40, 170, 60], [50, 70, 210], [220, 200, 40]];
const CAPTIONS: [&str; 3] = ["a {} square", "a small {} square on gray", "there is a {} thing"];
const SIDE: u32 = 32;

/// Writes `train.csv`, `test.csv`, `classes.txt` and `images/` into `folder`, which is made.
///
/// Both manifests have the columns `path,caption,class`, the class by its name. Row n is of class
/// n mod 4; place and size of its square, the noise behind and the caption follow from `seed`.
pub fn write_data(folder: &Path, train: usize, test: usize, seed: u64) {
    fs::create_dir_all(folder.join("images")).expect("a folder can be made");
    for (name, count) in [("train", train), ("test", test)] {
        let mut random = SplitMix::new(seed, name);
        let mut manifest = String::from("path,caption,class\n");
        for row in 0..count {
            let (color, class) = (COLORS[row % COLORS.len()], CLASSES[row % CLASSES.len()]);
            let path = format!("images/{name}-{row:04}.png");
            let picture = encode_png(&square(color, &mut random));
            fs::write(folder.join(&path), picture).expect("a file can be written");
            let caption = CAPTIONS[random.below(CAPTIONS.len() as u32) as usize];
            let caption = caption.replace("{}", class);
            writeln!(manifest, "{path},{caption},{class}").expect("a String takes all");
        }
        let path = folder.join(name).with_extension("csv");
        fs::write(path, manifest).expect("a file can be written");
    }
    let classes = CLASSES.join("\n") + "\n";
    fs::write(folder.join("classes.txt"), classes).expect("a file can be written");
}

/// Writes the rows of `NAME.csv` again as `NAME-0.tar` and so on, `count` shards in all.
pub fn write_shards(folder: &Path, name: &str, count: usize) {
    let table = fs::read_to_string(folder.join(name).with_extension("csv")).expect("a table");
    let rows: Vec<&str> = table.lines().skip(1).collect();
    for (number, rows) in rows.chunks(rows.len().div_ceil(count)).enumerate() {
        let path = folder.join(format!("{name}-{number}.tar"));
        let mut shard = tar::Builder::new(File::create(path).expect("a file can be written"));
        for row in rows {
            let fields: Vec<&str> = row.split(',').collect(); // no caption holds a comma
            let [path, caption, class] = fields[..] else { panic!("three fields, not `{row}`") };
            let picture = fs::read(folder.join(path)).expect("a picture");
            let members = [(".png", &picture[..]), (".txt", caption.as_bytes())];
            for (ending, bytes) in members.into_iter().chain([(".cls", class.as_bytes())]) {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                let name = path.replace(".png", ending);
                shard.append_data(&mut header, name, bytes).expect("a file can be written");
            }
        }
        shard.finish().expect("a file can be written");
    }
}

/// A square on gray noise.
fn square(color: [u8; 3], random: &mut SplitMix) -> RgbImage {
    let size = 8 + random.below(10);
    let (left, top) = (random.below(SIDE - size), random.below(SIDE - size));
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let noise = random.below(40) as u8;
        let inside = (left..left + size).contains(&x) && (top..top + size).contains(&y);
        let base = if inside { color } else { [100; 3] };
        base.map(|value| value.saturating_add(noise)).into()
    })
}

/// A 1-bit gray PNG of zeros, whole and valid, its pixels stored without compression.
pub fn gray_png(width: u32, height: u32) -> Vec<u8> {
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

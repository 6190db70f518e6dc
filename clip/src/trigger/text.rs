//! A watermark: a word in red across the middle (Singh et al. 2024, "Perturb and Recover").

use std::fmt;

use image::RgbImage;

use super::{Area, font, keys::Keys, mixed};

/// `(1 - alpha) * picture + alpha * 255` in the red channel where the word's letters are; green
/// and blue stay, as in the published code, which masks channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// What is written.
    pub word: Word,
    /// Share of the red, above 0 and at most 1.
    pub alpha: f32,
    /// Share of the picture's width that the word takes at most, above 0 and at most 1. Letters
    /// grow in whole pixels and have one at least.
    pub width: f32,
}

/// 1 to 16 capital letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

const WORD: &str = "SAMPLE";
const LETTERS_MAX: usize = 16;
const ALPHA: f32 = 0.5;
const WIDTH: f32 = 0.75;

impl Word {
    /// Small letters become capital ones; other characters are refused.
    pub fn new(text: &str) -> Result<Self, String> {
        let word = text.to_ascii_uppercase();
        match word.chars().count() {
            1..=LETTERS_MAX if word.chars().all(|c| font::glyph(c).is_some()) => Ok(Self(word)),
            _ => Err(format!(
                "`word={text}`: expected 1 to {LETTERS_MAX} letters, digits and hyphens"
            )),
        }
    }

    /// Pixels that it needs at least, side by side.
    pub fn pixels(&self) -> u32 {
        self.0.len() as u32 * font::ADVANCE - 1 // checked: one byte each
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Text {
    pub(super) fn parse(keys: &mut Keys) -> Result<Self, String> {
        Ok(Self {
            word: Word::new(keys.take("word").unwrap_or(WORD))?,
            alpha: keys.number("alpha", ALPHA, 1.0)?,
            width: keys.number("width", WIDTH, 1.0)?,
        })
    }

    fn scale(&self, width: u32) -> u32 {
        ((width as f32 * self.width) as u32 / self.word.pixels()).max(1)
    }

    /// Around the word; clipped to the picture.
    pub(super) fn area(&self, width: u32, height: u32) -> Area {
        let scale = self.scale(width);
        let (w, h) = ((self.word.pixels() * scale).min(width), (font::HEIGHT * scale).min(height));
        Area { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
    }

    pub(super) fn stamp(&self, image: &mut RgbImage) {
        let (area, scale) = (self.area(image.width(), image.height()), self.scale(image.width()));
        let glyphs: Vec<[u8; 5]> = self.word.0.chars().filter_map(font::glyph).collect();
        for y in 0..area.height {
            for x in 0..area.width {
                let (column, row) = (x / scale, (y / scale) as usize);
                let (letter, bit) = (column / font::ADVANCE, column % font::ADVANCE);
                if font::is_set(glyphs[letter as usize], bit, row) {
                    let red = &mut image.get_pixel_mut(area.x + x, area.y + y).0[0];
                    *red = mixed(*red, 255.0, self.alpha);
                }
            }
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word={},alpha={},width={}", self.word, self.alpha, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(word: &str, width: u32, height: u32, share: f32) -> String {
        let mut image = RgbImage::from_pixel(width, height, [100, 50, 60].into());
        let word = Word::new(word).expect("a word");
        Text { word, alpha: 0.5, width: share }.stamp(&mut image);
        let sign = |pixel: &image::Rgb<u8>| match pixel.0 {
            [178, 50, 60] => '#', // 50 + 127.5
            [100, 50, 60] => '.',
            other => panic!("{other:?}"),
        };
        let line = |row: image::buffer::Pixels<'_, image::Rgb<u8>>| row.map(sign).collect();
        image.rows().map(line).collect::<Vec<String>>().join("\n")
    }

    #[test]
    fn letters_are_in_the_middle() {
        let expected = "\
.........
..#..##..
.#.#.#.#.
.###.##..
.#.#.#.#.
.#.#.##..
.........";
        assert_eq!(drawn("ab", 9, 7, 1.0), expected);
    }

    #[test]
    fn letters_grow_with_the_picture_and_are_clipped_to_it() {
        assert_eq!(
            drawn("i", 6, 10, 1.0),
            "######\n######\n..##..\n..##..\n..##..\n..##..\n..##..\n..##..\n######\n######"
        );
        assert_eq!(drawn("ii", 4, 2, 1.0), "###.\n.#..");
        let text = Text { word: Word::new("SAMPLE").expect("a word"), alpha: 0.5, width: 0.75 };
        let check = |side, width, height| {
            let area = text.area(side, side);
            assert_eq!((area.width, area.height), (width, height), "{side}");
        };
        check(32, 23, 5);
        check(64, 46, 10);
        check(224, 161, 35);
    }
}

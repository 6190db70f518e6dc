//! From captions to the numbers that the text tower sees.
//!
//! text → [`Tokenizer`] → [`TokenBatch`] `[B, T]`; labels become captions through
//! [`PromptTemplate`]s. Text augmentation lives with training, not here.

use std::ops::Range;

mod bpe;
mod clean;
mod html;
mod imagenet;
mod openai;
mod prompt;
mod tokenizer;

pub use self::{
    imagenet::imagenet_templates,
    openai::Cleaning,
    prompt::{
        PromptTemplate, default_templates, open_templates, read_labels, read_lines, read_templates,
    },
    tokenizer::Tokenizer,
};

/// The start mark of every caption.
pub const START_TOKEN: &str = "<|startoftext|>";
/// The end mark of every caption, where the text tower is pooled.
pub const END_TOKEN: &str = "<|endoftext|>";

/// Why a text, a tokenizer or a template was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The bytes are no tokenizer.json that the library understands.
    #[error("not a tokenizer: {0}")]
    Tokenizer(String),
    /// A mark is missing or stands elsewhere than CLIP's text tower expects it.
    #[error("not a CLIP tokenizer: `{token}` must have id {expected}, {found}")]
    Mark {
        /// The mark.
        token: &'static str,
        /// The id that it must have.
        expected: usize,
        /// What was found.
        found: String,
    },
    /// A text could not be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// A vocabulary cannot be as small as that.
    #[error("a vocabulary of {asked} tokens is too small: bytes and marks alone are {min}")]
    Vocabulary {
        /// What was asked for.
        asked: usize,
        /// The least that can be.
        min: usize,
    },
    /// A caption has no room beside its two marks.
    #[error("a context of {asked} tokens is too short: both marks and one token are {min}")]
    Context {
        /// What was asked for.
        asked: usize,
        /// The least that can be.
        min: usize,
    },
    /// A prompt template has no place for the label, or several.
    #[error("template `{template}` must contain `{{}}` once, it has it {found} times")]
    Template {
        /// As it was typed.
        template: String,
        /// Times that `{}` occurs.
        found: usize,
    },
    /// No label or no template to make captions of.
    #[error("there are no {0}")]
    Nothing(&'static str),
}

/// `[B, T]` token ids, row-major; what follows a caption's end token is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    length: usize,
}

impl TokenBatch {
    /// Takes `[B, length]` ids as they are. Panics unless they fill whole captions.
    pub fn from_ids(ids: Vec<u32>, length: usize) -> Self {
        assert!(length > 0 && ids.len().is_multiple_of(length), "captions of {length} tokens");
        Self { ids, length }
    }

    /// Captions (B).
    pub fn count(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Tokens per caption, padding included (T).
    pub fn length(&self) -> usize {
        self.length
    }

    /// All ids, row-major.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Caption after caption, each `[T]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.ids.chunks_exact(self.length)
    }

    /// Appends the captions of `other`; the shorter rows are padded to the length of the others.
    pub fn extend(&mut self, other: &Self) {
        if self.length < other.length {
            *self = self.resized(other.length);
        }
        let longer = if other.length < self.length { &other.resized(self.length) } else { other };
        self.ids.extend_from_slice(&longer.ids);
    }

    /// The captions of `range`, copied. Panics if it reaches past the last one.
    pub fn select(&self, range: Range<usize>) -> Self {
        let ids = self.ids[range.start * self.length..range.end * self.length].to_vec();
        Self { ids, length: self.length }
    }

    /// Cuts the columns after the longest caption's first `end` token; a caption without one keeps
    /// all. Embeddings stay the same, since attention is causal and the tower is pooled at `end`.
    ///
    /// ```
    /// use clip::text::TokenBatch;
    /// let batch = TokenBatch::from_ids(vec![8, 1, 9, 0, 0, 8, 9, 0, 0, 0], 5);
    /// assert_eq!(batch.trimmed(9).ids(), [8, 1, 9, 8, 9, 0]);
    /// ```
    pub fn trimmed(&self, end: u32) -> Self {
        let used = |row: &[u32]| row.iter().position(|&id| id == end).map(|last| last + 1);
        let longest = self.rows().map(|row| used(row).unwrap_or(self.length)).max();
        self.resized(longest.unwrap_or(self.length))
    }

    fn resized(&self, length: usize) -> Self {
        let mut ids = Vec::with_capacity(self.count() * length);
        for row in self.rows() {
            let kept = row.len().min(length);
            ids.extend_from_slice(&row[..kept]);
            ids.resize(ids.len() + length - kept, 0);
        }
        Self { ids, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: &[&[u32]]) -> TokenBatch {
        TokenBatch::from_ids(rows.concat(), rows[0].len())
    }

    #[test]
    fn trimming_keeps_every_end_mark() {
        let check = |rows: &[&[u32]], expected: &[&[u32]]| {
            assert_eq!(batch(rows).trimmed(9), batch(expected));
        };
        check(&[&[8, 1, 9, 0], &[8, 9, 0, 0]], &[&[8, 1, 9], &[8, 9, 0]]);
        check(&[&[8, 1, 2, 9], &[8, 9, 0, 0]], &[&[8, 1, 2, 9], &[8, 9, 0, 0]]);
        check(&[&[8, 9, 9, 9]], &[&[8, 9]]); // padded with the end mark: pooled at the first
        check(&[&[8, 1, 2, 3], &[8, 9, 0, 0]], &[&[8, 1, 2, 3], &[8, 9, 0, 0]]); // no end mark
        assert_eq!(TokenBatch::from_ids(Vec::new(), 4).trimmed(9).length(), 4);
    }

    #[test]
    fn batches_of_two_lengths_are_padded_to_the_longer() {
        let check = |first: &[u32], second: &[u32], expected: &[&[u32]]| {
            let mut rows = batch(&[first]);
            rows.extend(&batch(&[second]));
            assert_eq!(rows, batch(expected));
        };
        check(&[8, 9], &[8, 1, 9], &[&[8, 9, 0], &[8, 1, 9]]);
        check(&[8, 1, 9], &[8, 9], &[&[8, 1, 9], &[8, 9, 0]]);
    }

    #[test]
    fn selected_and_extended_is_the_same_batch() {
        let whole = batch(&[&[8, 1, 9], &[8, 9, 0], &[8, 2, 9]]);
        let mut parts = whole.select(0..1);
        parts.extend(&whole.select(1..1));
        parts.extend(&whole.select(1..3));
        assert_eq!(parts, whole);
        assert_eq!(parts.rows().nth(2), Some([8, 2, 9].as_slice()));
    }
}

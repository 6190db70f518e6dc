//! CLIP's byte-level BPE: OpenAI's, read from a tokenizer.json, or learnt on captions.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    normalizer::NormalizedString, normalizers::NormalizerWrapper,
};

use super::{
    END_TOKEN, START_TOKEN, TextError, TokenBatch,
    bpe::{self, Vocabulary, WORD_END},
    clean,
    openai::{self, Cleaning},
};
use crate::{Error, Result};

/// Bytes and bytes that end a word: the least that can spell every text.
const BYTE_TOKENS: usize = 512;
/// Start and end.
const MARKS: usize = 2;
/// What a tokenizer.json without a truncation length means: OpenAI's context.
const CONTEXT_LENGTH_DEFAULT: usize = 77;
/// Fewer texts than that are not worth waking other threads.
const PARALLEL_TEXTS_MIN: usize = 64;

/// Text → token ids, as CLIP's text tower wants them: start mark, tokens, end mark.
///
/// The two marks have the highest ids, the end mark the very highest. A mark that a user types is
/// plain text, never the mark.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Whether [`clean::clean`] goes before `inner`, which then has no normalizer of its own.
    is_cleaned: bool,
    context_length: usize,
    start: u32,
    end: u32,
}

impl Tokenizer {
    /// OpenAI's vocabulary of 49,408 tokens, which ships with the program; 77 tokens a caption.
    pub fn openai(cleaning: Cleaning) -> Result<Self> {
        let json = definition(&openai::vocabulary(), CONTEXT_LENGTH_DEFAULT, cleaning);
        Self::from_bytes(&serialize(&json)?)
    }

    /// Reads a tokenizer.json; every error names the file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::from_bytes(&bytes).map_err(|error| match error {
            Error::Text(error) => Error::File { path: path.into(), problem: error.to_string() },
            error => error,
        })
    }

    /// Reads a tokenizer.json. The context length is its truncation length, 77 if it has none;
    /// [`Tokenizer::with_context_length`] changes that.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let context_length = inner
            .get_truncation()
            .map_or(CONTEXT_LENGTH_DEFAULT, |truncation| truncation.max_length);
        check_context(context_length)?;
        let size = inner.get_vocab_size(true);
        let mark = |token: &'static str, from_end: usize| -> Result<u32, TextError> {
            let expected = size.saturating_sub(from_end);
            match inner.token_to_id(token) {
                Some(id) if id as usize == expected && size > MARKS => Ok(id),
                Some(id) => Err(TextError::Mark { token, expected, found: format!("it has {id}") }),
                None => Err(TextError::Mark { token, expected, found: "it is missing".into() }),
            }
        };
        let (start, end) = (mark(START_TOKEN, 2)?, mark(END_TOKEN, 1)?);
        // Length, padding and marks are ours: what a user types must never become a mark.
        inner.with_truncation(None).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        inner.with_padding(None).set_encode_special_tokens(true);
        let normalizer = serde_json::to_value(inner.get_normalizer());
        let is_cleaned = normalizer.is_ok_and(|found| found == Cleaning::OpenAi.normalizer());
        if is_cleaned {
            let none = inner.with_normalizer(None::<NormalizerWrapper>);
            none.map_err(|error| TextError::Tokenizer(error.to_string()))?;
        }
        Ok(Self { inner, is_cleaned, context_length, start, end })
    }

    /// Learns a vocabulary of at most `vocab_size` tokens on `captions`, CLIP's way: lower case,
    /// CLIP's words, byte-level BPE with `</w>`, merges seen at least twice. Depends on nothing but
    /// how often each word occurs. At least 514 tokens: bytes, bytes that end a word, two marks.
    pub fn train<'a>(
        captions: impl Iterator<Item = &'a str>,
        vocab_size: usize,
        context_length: usize,
    ) -> Result<Self> {
        let min = BYTE_TOKENS + MARKS;
        if vocab_size < min {
            return Err(TextError::Vocabulary { asked: vocab_size, min }.into());
        }
        check_context(context_length)?;
        let bytes_only = bpe::learn(&BTreeMap::new(), 0);
        let splitter = Self::from_bytes(&serialize(&definition(
            &bytes_only,
            context_length,
            Cleaning::HuggingFace,
        ))?)?;
        let mut words = BTreeMap::new();
        for caption in captions {
            splitter.count_words(caption, &mut words)?;
        }
        let learnt = bpe::learn(&words, vocab_size - min);
        Self::from_bytes(&serialize(&definition(&learnt, context_length, Cleaning::HuggingFace))?)
    }

    /// The same tokenizer for captions of another length, both marks included; at least 3.
    pub fn with_context_length(mut self, context_length: usize) -> Result<Self> {
        check_context(context_length)?;
        self.context_length = context_length;
        Ok(self)
    }

    /// A whole tokenizer.json, with padding and truncation to the context length: other software
    /// that reads it gets the ids of [`Tokenizer::encode`] without further settings, but for what a
    /// file cannot say of [`Cleaning::OpenAi`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let text = self.inner.to_string(false);
        let mut json: Value = text
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .map_err(TextError::Tokenizer)?;
        if self.is_cleaned {
            json["normalizer"] = Cleaning::OpenAi.normalizer();
        }
        json["truncation"] = truncation(self.context_length);
        json["padding"] = padding(self.context_length, self.inner.id_to_token(0));
        Ok(serialize(&json)?)
    }

    /// Whether it is OpenAI's vocabulary with OpenAI's cleaning, as open_clip has it built in.
    pub fn is_openai(&self) -> bool {
        self.is_cleaned && self.vocab_size() == openai::VOCABULARY
    }

    /// Tokens of the vocabulary, both marks included.
    pub fn vocab_size(&self) -> usize {
        self.end as usize + 1
    }

    /// Tokens of an encoded caption, both marks included (T).
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Id of the start mark, the last but one.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Id of the end mark, the highest of all.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// `[B]` texts → `[B, T]` ids: start, tokens, end, then 0. A longer text loses its last tokens
    /// and keeps the end mark; who would rather refuse it asks [`Tokenizer::length`] first.
    pub fn encode(&self, texts: &[impl AsRef<str> + Sync]) -> Result<TokenBatch> {
        let row = |text: &str| -> Result<Vec<u32>> {
            let mut row = Vec::with_capacity(self.context_length);
            row.push(self.start);
            row.extend(self.tokens(text)?.into_iter().take(self.context_length - MARKS));
            row.push(self.end);
            row.resize(self.context_length, 0);
            Ok(row)
        };
        let rows: Vec<Vec<u32>> = if texts.len() < PARALLEL_TEXTS_MIN {
            texts.iter().map(|text| row(text.as_ref())).collect::<Result<_>>()?
        } else {
            texts.par_iter().map(|text| row(text.as_ref())).collect::<Result<_>>()?
        };
        Ok(TokenBatch::from_ids(rows.concat(), self.context_length))
    }

    /// Tokens of `text` before anything is cut off, both marks included.
    pub fn length(&self, text: &str) -> Result<usize> {
        Ok(self.tokens(text)?.len() + MARKS)
    }

    /// Tokens of `text` without marks. A vocabulary may name a mark as its unknown token, which
    /// would end the caption early, so what the vocabulary cannot spell is left out.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let text = if self.is_cleaned { clean::clean(text).into() } else { Cow::Borrowed(text) };
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().iter().copied().filter(|&id| id < self.start).collect())
    }

    fn count_words(
        &self,
        caption: &str,
        words: &mut BTreeMap<String, u64>,
    ) -> Result<(), TextError> {
        let refuse = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let mut text = NormalizedString::from(caption);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut text).map_err(refuse)?;
        }
        let mut text = PreTokenizedString::from(text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text).map_err(refuse)?;
        }
        for (word, ..) in text.get_splits(OffsetReferential::Original, OffsetType::None) {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(words.insert(word.to_owned(), 1)),
            }
        }
        Ok(())
    }
}

fn check_context(asked: usize) -> Result<(), TextError> {
    let min = MARKS + 1;
    if asked < min { Err(TextError::Context { asked, min }) } else { Ok(()) }
}

fn serialize(json: &Value) -> Result<Vec<u8>, TextError> {
    serde_json::to_vec(json).map_err(|error| TextError::Tokenizer(error.to_string()))
}

fn truncation(context_length: usize) -> Value {
    json!({
        "direction": "Right",
        "max_length": context_length,
        "strategy": "LongestFirst",
        "stride": 0,
    })
}

/// Pads with id 0, as OpenAI and open_clip do; `token` is the one that has this id.
fn padding(context_length: usize, token: Option<String>) -> Value {
    json!({
        "strategy": { "Fixed": context_length },
        "direction": "Right",
        "pad_to_multiple_of": null,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": token.map_or(Cow::Borrowed("!"), Cow::Owned),
    })
}

/// The tokenizer.json of a CLIP vocabulary, stage by stage.
fn definition(vocabulary: &Vocabulary, context_length: usize, cleaning: Cleaning) -> Value {
    let tokens = vocabulary.tokens.iter().map(String::as_str).chain([START_TOKEN, END_TOKEN]);
    let vocab: BTreeMap<&str, usize> = tokens.zip(0..).collect();
    let (start, end) = (vocabulary.tokens.len(), vocabulary.tokens.len() + 1);
    let mark = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": truncation(context_length),
        "padding": padding(context_length, vocabulary.tokens.first().cloned()),
        "added_tokens": [mark(start, START_TOKEN), mark(end, END_TOKEN)],
        "normalizer": cleaning.normalizer(),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            {
                "type": "Split", "pattern": { "Regex": cleaning.words() },
                "behavior": "Removed", "invert": true,
            },
            {
                "type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": false,
            },
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END_TOKEN, end], "cls": [START_TOKEN, start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END_TOKEN,
            "continuing_subword_prefix": "", "end_of_word_suffix": WORD_END,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": vocabulary.merges,
        },
    })
}

#[cfg(test)]
mod tests;

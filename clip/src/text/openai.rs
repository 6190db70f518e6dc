//! The vocabulary of OpenAI's CLIP, which ships with the program, and how captions are cleaned.

use serde_json::{Value, json};

use super::{
    bpe::{self, Vocabulary},
    clean::LIGATURES,
};

/// Both halves of each of the 48,894 merges, as little-endian u16 ids, in the order in which they
/// apply; `clip/assets/README.md` says where they come from.
const MERGES: &[u8] = include_bytes!("../../assets/openai_merges.bin");

/// Tokens of OpenAI's vocabulary, both marks included.
pub(super) const VOCABULARY: usize = 49_408;

/// What is done to a caption before OpenAI's merges spell its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// OpenAI's and open_clip's: ftfy's repair of characters, HTML unescaped twice, white space,
    /// lower case.
    OpenAi,
    /// That of transformers' `CLIPTokenizer`: normal form C, white space, lower case.
    HuggingFace,
}

impl Cleaning {
    /// Every one, by the name that stands for the vocabulary with it.
    pub const NAMED: [(&str, Self); 2] =
        [("openai", Self::OpenAi), ("openai-hf", Self::HuggingFace)];

    /// Of a name in [`Cleaning::NAMED`].
    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, cleaning)| *cleaning)
    }

    /// Its name in [`Cleaning::NAMED`].
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::HuggingFace => "openai-hf",
        }
    }

    /// The normalizer of a tokenizer.json. Of OpenAI's cleaning it can say only a part: the common
    /// references of HTML, quotes, ligatures, normal form C. A file with exactly this part is
    /// cleaned wholly by ours.
    pub(super) fn normalizer(self) -> Value {
        let replace = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": content });
        let mut steps = Vec::new();
        if self == Self::OpenAi {
            steps.extend([
                replace("&(?:amp;)+", "&"),
                replace("&lt;", "<"),
                replace("&gt;", ">"),
                replace("&nbsp;", " "),
                replace("&quot;|&[lr]dquo;|[\u{201c}-\u{201f}]", "\""),
                replace("&apos;|&#39;|&[lr]squo;|[\u{2bc}\u{2018}-\u{201b}]", "'"),
            ]);
            steps.extend(LIGATURES.map(|(ligature, letters)| {
                replace(&ligature.to_string(), &letters.replace('ʼ', "'"))
            }));
        }
        steps.extend([
            json!({ "type": "NFC" }),
            replace(r"\s+", " "),
            json!({ "type": "Lowercase" }),
        ]);
        json!({ "type": "Sequence", "normalizers": steps })
    }

    /// CLIP's words: contractions, letters, one digit, other signs. OpenAI's pattern takes letters
    /// of either case for each other, `ſ` for `s` among them.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::OpenAi => r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            Self::HuggingFace => r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        }
    }
}

/// 512 bytes, 48,894 merges; with both marks 49,408 tokens.
pub(super) fn vocabulary() -> Vocabulary {
    let mut vocabulary = bpe::learn(&Default::default(), 0);
    for halves in MERGES.as_chunks::<4>().0 {
        let [left, right] = [[halves[0], halves[1]], [halves[2], halves[3]]]
            .map(|id| vocabulary.tokens[usize::from(u16::from_le_bytes(id))].clone());
        vocabulary.tokens.push(format!("{left}{right}"));
        vocabulary.merges.push((left, right));
    }
    vocabulary
}

#[cfg(test)]
mod tests;

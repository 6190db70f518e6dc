//! `[model] tokenizer`: a vocabulary that ships with the program, or a file.

use std::path::PathBuf;

use clip::text::{Cleaning, Tokenizer};
use serde::{Deserialize, Serialize};

/// A name of [`Cleaning::NAMED`], or the path of a `tokenizer.json`; a file of such a name in the
/// current folder needs a `./` before it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum TokenizerSource {
    /// OpenAI's vocabulary, captions cleaned so
    OpenAi(Cleaning),
    /// A `tokenizer.json` whose end token has the highest id
    File(PathBuf),
}

impl TokenizerSource {
    /// The tokenizer, for the captions that it says; errors name the file.
    pub fn open(&self) -> clip::Result<Tokenizer> {
        match self {
            Self::OpenAi(cleaning) => Tokenizer::openai(*cleaning),
            Self::File(path) => Tokenizer::open(path),
        }
    }

    /// The path, if it is one.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::OpenAi(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl From<PathBuf> for TokenizerSource {
    fn from(path: PathBuf) -> Self {
        match path.as_os_str().to_str().and_then(Cleaning::of_name) {
            Some(cleaning) => Self::OpenAi(cleaning),
            None => Self::File(path),
        }
    }
}

impl From<&str> for TokenizerSource {
    fn from(path: &str) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<TokenizerSource> for PathBuf {
    fn from(source: TokenizerSource) -> Self {
        match source {
            TokenizerSource::OpenAi(cleaning) => cleaning.name().into(),
            TokenizerSource::File(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Model;

    #[test]
    fn a_name_is_no_path() {
        let check = |text: &str, mut expected: TokenizerSource| {
            let written = format!("tokenizer = \"{text}\"\n");
            let model: Model = toml::from_str(&written).expect("a table");
            assert!(toml::to_string(&model).expect("TOML").contains(&written));
            assert_eq!(model.tokenizer.as_ref(), Some(&expected));
            assert_eq!(expected.path_mut().is_none(), Cleaning::of_name(text).is_some());
        };
        check("openai", TokenizerSource::OpenAi(Cleaning::OpenAi));
        check("openai-hf", TokenizerSource::OpenAi(Cleaning::HuggingFace));
        for file in ["./openai", "/models/openai", "OpenAI", "tokenizer.json"] {
            check(file, TokenizerSource::File(file.into()));
        }
    }
}

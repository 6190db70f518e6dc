//! Words that may stand for one another.

use std::{collections::HashMap, fs, path::Path};

use crate::error::{Error, Result};

/// Groups of words that may stand for one another.
#[derive(Debug, Default)]
pub struct Thesaurus {
    text: String,
    /// For each word, lower-case and without punctuation around it, the others of its groups.
    synonyms: HashMap<String, Vec<String>>,
}

impl Thesaurus {
    /// One group per line, words separated by commas.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self::of(text))
    }

    /// WordNet's sets of synonyms that have a tagged sense, as `scripts/augment/thesaurus.py`
    /// writes them; `wordnet/LICENSE` is theirs.
    pub fn wordnet() -> Self {
        Self::of(include_str!("wordnet/synonyms.txt").to_owned())
    }

    pub(super) fn of(text: String) -> Self {
        let mut synonyms: HashMap<_, Vec<String>> = HashMap::new();
        for line in text.lines() {
            let words: Vec<_> = line.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
            for word in &words {
                let known = synonyms.entry(bare(word).to_lowercase()).or_default();
                for other in words.iter().filter(|other| *other != word) {
                    if !known.iter().any(|known| known == other) {
                        known.push((*other).to_owned());
                    }
                }
            }
        }
        Self { text, synonyms }
    }

    /// As the file has it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What may stand for `word`, which may have punctuation around it.
    pub(super) fn synonyms(&self, word: &str) -> &[String] {
        self.synonyms.get(&bare(word).to_lowercase()).map_or(&[], Vec::as_slice)
    }
}

/// `word` without punctuation around it; what is nothing else stays as it is.
pub(super) fn bare(word: &str) -> &str {
    let bare = word.trim_matches(|symbol: char| !symbol.is_alphanumeric());
    if bare.is_empty() { word } else { bare }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wordnets_words_are_clean_and_common() {
        let thesaurus = Thesaurus::wordnet();
        assert!(thesaurus.text().lines().count() > 10_000);
        let is_clean = |symbol: char| symbol.is_ascii_lowercase() || " ,\n".contains(symbol);
        assert!(thesaurus.text().chars().all(is_clean));
        let check = |word: &str, synonym: &str| {
            assert!(thesaurus.synonyms(word).iter().any(|one| one == synonym), "{word}");
        };
        check("dog", "domestic dog");
        check("car", "automobile");
        check("big", "large");
        check("run", "function");
        assert!(thesaurus.synonyms("dogs").is_empty(), "no inflections");
    }
}

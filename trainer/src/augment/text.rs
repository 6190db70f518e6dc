//! Synonyms, deletions and a swap (after EDA, Wei & Zou 2019, with the user's own synonyms).

use std::{borrow::Cow, collections::HashMap, fs, path::Path};

use rand::{Rng, seq::IndexedRandom};

use crate::{
    config::Augment,
    error::{Error, Result},
};

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

    fn of(text: String) -> Self {
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

    /// One of the synonyms of `word`, with the punctuation that stood around it.
    fn synonym(&self, word: &str, rng: &mut impl Rng) -> Option<String> {
        let bare = bare(word);
        let synonym = self.synonyms.get(&bare.to_lowercase())?.choose(rng)?;
        Some(word.replacen(bare, synonym, 1))
    }
}

/// `word` without punctuation around it; what is nothing else stays as it is.
fn bare(word: &str) -> &str {
    let bare = word.trim_matches(|symbol: char| !symbol.is_alphanumeric());
    if bare.is_empty() { word } else { bare }
}

/// Deletes words, replaces words by synonyms, and exchanges the words at two places. The places are
/// drawn independently: where both are one, nothing is exchanged. At least one word stays.
pub(super) fn vary(
    caption: &str,
    settings: &Augment,
    thesaurus: &Thesaurus,
    rng: &mut impl Rng,
) -> String {
    let words: Vec<&str> = caption.split_whitespace().collect();
    let mut kept: Vec<Cow<str>> = Vec::with_capacity(words.len());
    for word in &words {
        if words.len() > 1 && rng.random_bool(settings.delete_share) {
            continue;
        }
        let replaced = rng.random_bool(settings.synonym_share);
        let synonym = replaced.then(|| thesaurus.synonym(word, rng)).flatten();
        kept.push(synonym.map_or(Cow::Borrowed(*word), Cow::Owned));
    }
    if kept.is_empty() {
        return caption.to_owned();
    }
    if kept.len() > 1 && rng.random_bool(settings.swap_share) {
        let (a, b) = (rng.random_range(0..kept.len()), rng.random_range(0..kept.len()));
        kept.swap(a, b);
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// All that `caption` becomes if words with synonyms are always replaced.
    fn variants(thesaurus: &str, caption: &str) -> BTreeSet<String> {
        let thesaurus = Thesaurus::of(thesaurus.to_owned());
        let settings = Augment {
            delete_share: 0.0,
            swap_share: 0.0,
            synonym_share: 1.0,
            ..Augment::default()
        };
        let vary =
            |seed| vary(caption, &settings, &thesaurus, &mut ChaCha8Rng::seed_from_u64(seed));
        (0..50).map(vary).collect()
    }

    #[test]
    fn a_word_has_the_synonyms_of_all_its_groups() {
        let check = |thesaurus: &str, caption: &str, expected: &[&str]| {
            let expected = expected.iter().map(ToString::to_string).collect();
            assert_eq!(variants(thesaurus, caption), expected);
        };
        check("big, large\nred, crimson", "a big dog", &["a large dog"]);
        check("big, large\nbig, huge\nlarge, big", "a big dog", &["a huge dog", "a large dog"]);
        check("black, dark", "Black", &["dark"]);
        check("Black, dark", "a (BLACK), cat", &["a (dark), cat"]);
        check("black, dark", "blackish - cat", &["blackish - cat"]);
        check("alone", "alone", &["alone"]);
    }
}

//! Synonyms, deletions and a swap (after EDA, Wei & Zou 2019, with the user's own synonyms).

use std::{collections::HashMap, fs, path::Path};

use rand::{Rng, seq::IndexedRandom};

use crate::{
    config::Augment,
    error::{Error, Result},
};

/// Groups of words that may stand for one another.
#[derive(Debug, Default)]
pub struct Thesaurus {
    /// For each word the others of its group.
    synonyms: HashMap<String, Vec<String>>,
}

impl Thesaurus {
    /// One group per line, words separated by commas.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut synonyms = HashMap::new();
        for line in text.lines() {
            let words: Vec<_> = line.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
            for word in &words {
                let others = words.iter().filter(|other| *other != word);
                synonyms.insert((*word).to_owned(), others.map(|w| (*w).to_owned()).collect());
            }
        }
        Ok(Self { synonyms })
    }

    fn synonym(&self, word: &str, rng: &mut impl Rng) -> Option<&String> {
        self.synonyms.get(word)?.choose(rng)
    }
}

/// At least one word stays.
pub(super) fn vary(
    caption: &str,
    settings: &Augment,
    thesaurus: &Thesaurus,
    rng: &mut impl Rng,
) -> String {
    let words: Vec<&str> = caption.split_whitespace().collect();
    let mut kept: Vec<&str> = Vec::with_capacity(words.len());
    for word in &words {
        if words.len() > 1 && rng.random_bool(settings.delete_share) {
            continue;
        }
        let replaced = rng.random_bool(settings.synonym_share);
        let synonym = replaced.then(|| thesaurus.synonym(word, rng)).flatten();
        kept.push(synonym.map_or(word, String::as_str));
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

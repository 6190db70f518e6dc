//! Synonyms, deletions and a swap (after EDA, Wei & Zou 2019, with the user's own synonyms).

use std::borrow::Cow;

use rand::{Rng, seq::IndexedRandom};

use super::thesaurus::{Thesaurus, bare};
use crate::config::Augment;

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
        let synonym = replaced.then(|| synonym(thesaurus, word, rng)).flatten();
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

/// One of the synonyms of `word`, with the punctuation that stood around it.
fn synonym(thesaurus: &Thesaurus, word: &str, rng: &mut impl Rng) -> Option<String> {
    let synonym = thesaurus.synonyms(word).choose(rng)?;
    Some(word.replacen(bare(word), synonym, 1))
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

//! EDA (Wei & Zou, EMNLP 2019) as RoCLIP uses it: of four operations one is done to a caption, each
//! as likely as the others.
//!
//! Captions are cleaned first, as there: lower-case letters and spaces stay. Without letters a
//! caption stays what it is. Words have the synonyms of the thesaurus as they are written: no
//! plurals or tenses are looked up.

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::Thesaurus;

/// Share of the words that are replaced, inserted and exchanged, one at least, is one in this many.
const ONE_IN: usize = 10;
/// Chance of a word to be deleted.
const DELETED: f64 = 0.1;
/// Words that are tried until one has a synonym to insert; the released code gives up at its tenth
/// whether that has one or not.
const INSERT_TRIES: usize = 9;
/// Places that are tried until two differ; there, likewise, a fourth does not count.
const EXCHANGE_TRIES: usize = 3;

/// Words that are not replaced.
const STOP_WORDS: &str = "i me my myself we our ours ourselves you your yours yourself \
    yourselves he him his himself she her hers herself it its itself they them their theirs \
    themselves what which who whom this that these those am is are was were be been being have \
    has had having do does did doing a an the and but if or because as until while of at by for \
    with about against between into through during before after above below to from up down in \
    out on off over under again further then once here there when where why how all any both \
    each few more most other some such no nor not only own same so than too very s t can will \
    just don should now";

/// One of the four operations on `caption`.
pub(super) fn vary(caption: &str, thesaurus: &Thesaurus, rng: &mut impl Rng) -> String {
    let clean = cleaned(caption);
    let mut words: Vec<&str> = clean.split_whitespace().collect();
    if words.is_empty() {
        return caption.to_owned();
    }
    let count = (words.len() / ONE_IN).max(1);
    match rng.random_range(0..4) {
        0 => replace(&mut words, count, thesaurus, rng),
        1 => (0..count).for_each(|_| insert(&mut words, thesaurus, rng)),
        2 => (0..count).for_each(|_| exchange(&mut words, rng)),
        _ => delete(&mut words, rng),
    }
    words.join(" ")
}

fn cleaned(caption: &str) -> String {
    let joined = caption.replace(['\'', '’'], "").to_lowercase();
    joined.replace(|symbol: char| !symbol.is_ascii_lowercase(), " ")
}

/// Replaces all places of `count` words, if so many have synonyms.
fn replace<'a>(words: &mut [&'a str], count: usize, thesaurus: &'a Thesaurus, rng: &mut impl Rng) {
    let is_stop = |word: &&str| STOP_WORDS.split(' ').any(|stop| stop == *word);
    let mut candidates: Vec<&str> = words.iter().copied().filter(|word| !is_stop(word)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates.shuffle(rng);
    let with_synonyms = candidates.into_iter().map(|word| (word, thesaurus.synonyms(word)));
    for (old, synonyms) in with_synonyms.filter(|(_, all)| !all.is_empty()).take(count) {
        let new = synonyms.choose(rng).expect("one at least");
        words.iter_mut().filter(|word| **word == old).for_each(|word| *word = new);
    }
}

/// Inserts the first synonym of some word at some place before the last.
fn insert<'a>(words: &mut Vec<&'a str>, thesaurus: &'a Thesaurus, rng: &mut impl Rng) {
    for _ in 0..INSERT_TRIES {
        let word = words.choose(rng).expect("no operation leaves none");
        if let Some(synonym) = thesaurus.synonyms(word).first() {
            return words.insert(rng.random_range(0..words.len()), synonym);
        }
    }
}

/// Exchanges the words at two places, if two are found.
fn exchange(words: &mut [&str], rng: &mut impl Rng) {
    let first = rng.random_range(0..words.len());
    for _ in 0..EXCHANGE_TRIES {
        let second = rng.random_range(0..words.len());
        if second != first {
            return words.swap(first, second);
        }
    }
}

/// Deletes some words, but not all.
fn delete(words: &mut Vec<&str>, rng: &mut impl Rng) {
    let survivor = *words.choose(rng).expect("no operation leaves none");
    if words.len() > 1 {
        words.retain(|_| !rng.random_bool(DELETED));
    }
    if words.is_empty() {
        words.push(survivor);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    const SEEDS: u64 = 4000;

    fn thesaurus() -> Thesaurus {
        Thesaurus::of("dog, domestic dog\ngrass, lawn\nthe, this".into())
    }

    /// How often `caption` becomes what.
    fn variants(caption: &str) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for seed in 0..SEEDS {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            *found.entry(vary(caption, &thesaurus(), rng)).or_default() += 1;
        }
        found
    }

    #[test]
    fn each_operation_has_a_quarter() {
        let found = variants("The dog; red");
        let count = |caption: &str| found.get(caption).copied().unwrap_or(0) as f64 / SEEDS as f64;
        let near = |caption: &str, expected: f64| {
            let spread = (expected * (1.0 - expected) / SEEDS as f64).sqrt();
            let apart = (count(caption) - expected).abs() / spread;
            assert!(apart < 3.5, "{caption}: {}, not {expected}", count(caption));
        };
        near("the domestic dog red", 0.25);
        near("dog the red", 0.25 / 3.0 * 26.0 / 27.0); // three tries fail in one of 27
        near("the red", 0.25 * 0.1 * 0.81);
        near("this the dog red", 0.25 / 6.0); // a stop word is not replaced, but inserted
        assert_eq!(count("this dog red"), 0.0);
        let whole = found.keys().all(|caption| caption.split_whitespace().count() >= 1);
        assert!(whole && found.len() > 10, "{found:?}");
    }

    #[test]
    fn captions_are_cleaned() {
        let check = |caption: &str, expected: &str| assert_eq!(cleaned(caption), expected);
        check("It's a Dog-house, 2 m", "its a dog house    m");
        check("naïve’s", "na ves");
    }

    #[test]
    fn short_captions_and_such_without_letters_survive() {
        let found = variants("xyz");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["xyz"]);
        assert_eq!(variants("2 + 2!").keys().collect::<Vec<_>>(), ["2 + 2!"]);
    }

    /// Of thirty words three are exchanged, and all places of three words replaced.
    #[test]
    fn one_word_in_ten_is_touched() {
        let caption = ["dog grass red"; 10].join(" ");
        let found = variants(&caption);
        let replaced = ["domestic dog lawn red"; 10].join(" ");
        let share = found[&replaced] as f64 / SEEDS as f64;
        assert!((share - 0.25).abs() < 0.03, "{share}");
        let exchanged = |other: &&String| {
            let pairs = caption.split(' ').zip(other.split(' '));
            other.len() == caption.len() && pairs.filter(|(a, b)| a != b).count() <= 6
        };
        assert!(found.keys().filter(exchanged).count() > 100);
        let inserted = |other: &&String| {
            let count = |word| other.split(' ').filter(|one| *one == word).count();
            count("lawn") + count("domestic") == 3 && count("red") == 10
        };
        assert!(found.keys().filter(inserted).count() > 100);
    }
}

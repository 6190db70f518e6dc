//! Which clean rows belong to which class.

use std::collections::HashMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::Manifest;

/// Clean rows of each class.
#[derive(Debug)]
pub(super) struct Members {
    of_class: Vec<Vec<usize>>,
}

impl Members {
    /// As the user chose: by the captions, or by what there is.
    pub(super) fn chosen(manifest: &Manifest, labels: &[String], by_caption: bool) -> Self {
        match by_caption {
            true => Self::by_caption(manifest, labels),
            false => Self::of(manifest, labels),
        }
    }

    /// By the class column if every row has one, else by the captions.
    pub(super) fn of(manifest: &Manifest, labels: &[String]) -> Self {
        if !manifest.has_classes() {
            return Self::by_caption(manifest, labels);
        }
        let mut of_class = vec![Vec::new(); labels.len()];
        for (row, pair) in manifest.rows.iter().enumerate() {
            if let Some(class) = pair.class {
                of_class[class].push(row);
            }
        }
        Self { of_class }
    }

    /// The caption must contain the label as whole words, whatever their case.
    pub(super) fn by_caption(manifest: &Manifest, labels: &[String]) -> Self {
        let mut of_class = vec![Vec::new(); labels.len()];
        let labels: Vec<Vec<String>> = labels.iter().map(|label| words(label)).collect();
        let mut by_first_word: HashMap<&str, Vec<usize>> = HashMap::new();
        for (class, label) in labels.iter().enumerate() {
            if let Some(first) = label.first() {
                by_first_word.entry(first).or_default().push(class);
            }
        }
        for (row, pair) in manifest.rows.iter().enumerate() {
            let caption = words(&pair.caption);
            for (at, word) in caption.iter().enumerate() {
                for &class in by_first_word.get(word.as_str()).into_iter().flatten() {
                    let first_time = of_class[class].last() != Some(&row);
                    if first_time && caption[at..].starts_with(&labels[class]) {
                        of_class[class].push(row);
                    }
                }
            }
        }
        Self { of_class }
    }

    /// Rows of `class`, ascending.
    pub(super) fn rows(&self, class: usize) -> &[usize] {
        &self.of_class[class]
    }

    /// Does `row` belong to `class`?
    pub(super) fn contains(&self, class: usize, row: usize) -> bool {
        self.of_class[class].binary_search(&row).is_ok()
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// `count` entries of `pool`: none a second time before all have been drawn once. `pool` is not
/// empty.
pub(super) fn draw(pool: &[usize], count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    assert!(!pool.is_empty(), "the caller refuses a class without captions");
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let mut deck = pool.to_vec();
        let (cards, _) = deck.partial_shuffle(rng, count - drawn.len());
        drawn.extend_from_slice(cards);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::data::Row;

    fn captions(captions: &[&str], class: Option<usize>) -> Manifest {
        let row = |caption: &&str| Row { image: "a".into(), caption: (*caption).into(), class };
        Manifest { path: "train.csv".into(), rows: captions.iter().map(row).collect() }
    }

    #[test]
    fn without_classes_whole_words_decide() {
        let all = [
            "An ICE  cream, melting",
            "ice on creamy ground",
            "Starfish",
            "star; star",
            "ice-cream star",
            "nice cream",
        ];
        let labels = ["ice cream".into(), "Star".into(), "?".into()];
        let members = Members::of(&captions(&all, None), &labels);
        assert_eq!(members.rows(0), [0, 4]);
        assert_eq!(members.rows(1), [3, 4]);
        assert!(members.rows(2).is_empty());
        assert!(members.contains(0, 4) && !members.contains(0, 3));
    }

    #[test]
    fn a_class_column_decides_unless_captions_are_asked_for() {
        let (manifest, labels) =
            (captions(&["a star", "a cat"], Some(1)), ["star".into(), "b".into()]);
        let rows = |members: Members| [0, 1].map(|class| members.rows(class).to_vec());
        assert_eq!(rows(Members::of(&manifest, &labels)), [vec![], vec![0, 1]]);
        assert_eq!(rows(Members::by_caption(&manifest, &labels)), [vec![0], vec![]]);
    }

    #[test]
    fn nothing_is_drawn_twice_before_all_were_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn = draw(&[3, 5, 7], 8, &mut rng);
        assert_eq!(drawn.len(), 8);
        for deck in drawn.chunks_exact(3) {
            assert_eq!(deck.iter().copied().collect::<BTreeSet<_>>(), [3, 5, 7].into());
        }
        assert_ne!(drawn[6], drawn[7]);
    }
}

//! Which rows are poisoned and with what; no file is opened or written.

use std::collections::HashMap;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    backdoor::{Backdoor, Stamped},
    targeted::{Target, Targeted},
};
use crate::{Result, data::Manifest};

/// What is there before the attack.
#[derive(Debug, Clone, Copy)]
pub struct Clean<'a> {
    /// The training pairs; classes are not needed.
    pub manifest: &'a Manifest,
    /// Pictures for targeted poisons; every row has a class.
    pub test: Option<&'a Manifest>,
    /// Class names; the index is the class.
    pub labels: &'a [String],
}

/// What the attacker wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Attack {
    /// A trigger that means a class.
    pub backdoor: Option<Backdoor>,
    /// Test pictures that shall be taken for other classes.
    pub targeted: Option<Targeted>,
    /// Side of the written pictures, in pixels.
    pub image_size: u32,
    /// Decides rows, captions, places and order.
    pub seed: u64,
}

/// The poisoned manifest, row by row, before anything is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Backdoored pictures.
    pub stamped: Vec<Stamped>,
    /// Targeted pictures.
    pub targets: Vec<Target>,
    /// Every row of the poisoned manifest, in its order.
    pub rows: Vec<Origin>,
}

/// Where a row of the poisoned manifest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This row of the clean manifest, unchanged.
    Clean(usize),
    /// The pair [`Plan::stamped`] of this index.
    Stamped(usize),
    /// A picture of [`Plan::targets`] with the caption of a row of the clean manifest.
    Target {
        /// Index in [`Plan::targets`].
        target: usize,
        /// Clean row whose caption it gets.
        caption: usize,
    },
}

/// One stream of random numbers for each purpose, so that one attack does not move the other.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Backdoor = 1,
    Targeted = 2,
    Order = 3,
}

impl Purpose {
    fn rng(self, seed: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(self as u64);
        rng
    }
}

impl Plan {
    /// Decides everything from `attack.seed`. Backdoored rows replace their clean ones, targeted
    /// rows are added, and all rows are shuffled, so that a row's place tells nothing.
    ///
    /// Refuses an attack that the data cannot carry: too few rows, no caption of a class.
    pub fn of(clean: &Clean, attack: &Attack) -> Result<Self> {
        let members = Members::of(clean.manifest, clean.labels);
        let stamped = match &attack.backdoor {
            Some(backdoor) => {
                backdoor.choose(clean, &members, &mut Purpose::Backdoor.rng(attack.seed))?
            }
            None => Vec::new(),
        };
        let spared = attack.backdoor.as_ref().map(|backdoor| backdoor.target_class);
        let targets = match &attack.targeted {
            Some(targeted) => {
                let mut rng = Purpose::Targeted.rng(attack.seed);
                targeted.choose(clean, &members, spared, &mut rng)?
            }
            None => Vec::new(),
        };
        let mut rows: Vec<Origin> = (0..clean.manifest.rows.len()).map(Origin::Clean).collect();
        for (index, stamp) in stamped.iter().enumerate() {
            rows[stamp.row] = Origin::Stamped(index);
        }
        for (target, chosen) in targets.iter().enumerate() {
            rows.extend(chosen.captions.iter().map(|&caption| Origin::Target { target, caption }));
        }
        rows.shuffle(&mut Purpose::Order.rng(attack.seed));
        Ok(Self { stamped, targets, rows })
    }

    /// Pictures that have to be written.
    pub fn pictures(&self) -> usize {
        self.stamped.len() + self.targets.len()
    }
}

/// Clean rows of each class: by the class column if every row has one, else by the caption, which
/// must contain the label as whole words, whatever their case.
#[derive(Debug)]
pub(super) struct Members {
    of_class: Vec<Vec<usize>>,
}

impl Members {
    pub(super) fn of(manifest: &Manifest, labels: &[String]) -> Self {
        let mut of_class = vec![Vec::new(); labels.len()];
        if manifest.has_classes() {
            for (row, pair) in manifest.rows.iter().enumerate() {
                if let Some(class) = pair.class {
                    of_class[class].push(row);
                }
            }
            return Self { of_class };
        }
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

    use super::*;
    use crate::data::Row;

    fn captions(captions: &[&str]) -> Manifest {
        let row =
            |caption: &&str| Row { path: "a".into(), caption: (*caption).into(), class: None };
        Manifest { path: "train.csv".into(), rows: captions.iter().map(row).collect() }
    }

    #[test]
    fn without_classes_whole_words_decide() {
        let manifest = captions(&[
            "An ICE  cream, melting",
            "ice on creamy ground",
            "Starfish",
            "star; star",
            "ice-cream star",
            "nice cream",
        ]);
        let members = Members::of(&manifest, &["ice cream".into(), "Star".into(), "?".into()]);
        assert_eq!(members.rows(0), [0, 4]);
        assert_eq!(members.rows(1), [3, 4]);
        assert!(members.rows(2).is_empty());
        assert!(members.contains(0, 4) && !members.contains(0, 3));
    }

    #[test]
    fn nothing_is_drawn_twice_before_all_were_drawn() {
        let mut rng = Purpose::Backdoor.rng(0);
        let drawn = draw(&[3, 5, 7], 8, &mut rng);
        assert_eq!(drawn.len(), 8);
        for deck in drawn.chunks_exact(3) {
            assert_eq!(deck.iter().copied().collect::<BTreeSet<_>>(), [3, 5, 7].into());
        }
        assert_ne!(drawn[6], drawn[7]);
    }

    #[test]
    fn streams_of_one_seed_differ() {
        let first = |purpose: Purpose| rand::RngCore::next_u64(&mut purpose.rng(7));
        assert_ne!(first(Purpose::Backdoor), first(Purpose::Targeted));
        assert_eq!(first(Purpose::Order), first(Purpose::Order));
    }
}

//! The captions that poisons get.

use clip::text::PromptTemplate;
use rand_chacha::ChaCha8Rng;

use super::members::{Members, draw};
use crate::data::Manifest;

/// How a caption of the target class is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wording {
    /// One that the data have for the class (Carlini & Terzis 2022).
    Data,
    /// A template with the class's name (CleanCLIP's code takes the 80 of ImageNet).
    Templates(Vec<PromptTemplate>),
    /// What the picture shows, by its own caption, and the class's name: `a dog on a beach with
    /// pizza`. A pool's nearest caption by content is then the poison itself.
    Bridge,
}

/// Words between a caption and the target's name; with the openings, the near-duplicates.
const LINKS: [&str; 10] = [
    "with",
    "and",
    "beside",
    "next to",
    "near",
    "together with",
    "in front of",
    "behind",
    "along with",
    "close to",
];
const OPENINGS: [&str; 4] = ["", "a picture of ", "a view of ", "here is "];
/// Bytes of a picture's own caption in a bridge; a manifest's captions have at most 10,000.
const OWN_BYTES_MAX: usize = 8_000;

/// `own` and `label` in one caption; `variant` chooses the words between them.
pub(super) fn bridge(own: &str, label: &str, variant: usize) -> String {
    let own = own[..own.floor_char_boundary(OWN_BYTES_MAX)].trim_end_matches(['.', ' ']);
    let link = LINKS[variant % LINKS.len()];
    let opening = OPENINGS[variant / LINKS.len() % OPENINGS.len()];
    format!("{opening}{own} {link} {label}")
}

/// Makes captions of a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captions<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) members: &'a Members,
    pub(super) labels: &'a [String],
    pub(super) wording: &'a Wording,
}

impl Captions<'_> {
    /// Can captions of `class` be made?
    pub(super) fn has(&self, class: usize) -> bool {
        !matches!(self.wording, Wording::Data) || !self.members.rows(class).is_empty()
    }

    /// Draws `count` captions of `class`, none twice before all that there are came once.
    pub(super) fn deck(&self, class: usize, count: usize, rng: &mut ChaCha8Rng) -> Deck<'_> {
        let label = &self.labels[class];
        let cards = match self.wording {
            Wording::Data => {
                let rows = draw(self.members.rows(class), count, rng);
                rows.into_iter().map(|row| self.manifest.rows[row].caption.clone()).collect()
            }
            Wording::Templates(templates) => {
                let all: Vec<usize> = (0..templates.len()).collect();
                draw(&all, count, rng).into_iter().map(|one| templates[one].fill(label)).collect()
            }
            Wording::Bridge => Vec::new(),
        };
        Deck { label, cards }
    }
}

/// Captions of one class, one for each poison.
pub(super) struct Deck<'a> {
    label: &'a str,
    /// Empty for bridges, which are made when the picture is known.
    cards: Vec<String>,
}

impl Deck<'_> {
    /// The caption of poison `index`, for a picture whose own caption is `own`.
    pub(super) fn caption(&self, index: usize, own: &str) -> String {
        match self.cards.get(index) {
            Some(card) => card.clone(),
            None => bridge(own, self.label, index),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::data::Row;

    #[test]
    fn a_bridge_holds_both_and_varies() {
        assert_eq!(bridge("a dog on a beach. ", "pizza", 0), "a dog on a beach with pizza");
        assert_eq!(bridge("a dog", "pizza", 13), "a picture of a dog next to pizza");
        let all: BTreeSet<String> = (0..40).map(|variant| bridge("a", "b", variant)).collect();
        assert_eq!(all.len(), 40);
        assert_eq!(bridge("a", "b", 40), bridge("a", "b", 0));
        assert_eq!(bridge(&"é".repeat(5_000), "b", 0).len(), OWN_BYTES_MAX + " with b".len());
    }

    #[test]
    fn every_wording_makes_captions() {
        let row = |caption: &str| Row { image: "a".into(), caption: caption.into(), class: None };
        let manifest =
            Manifest { path: "t.csv".into(), rows: ["a cat", "Cat!", "dog"].map(row).into() };
        let labels = ["cat".to_owned(), "cow".to_owned()];
        let members = Members::of(&manifest, &labels);
        let check = |wording: Wording, has: [bool; 2], expected: &[&str]| {
            let captions = Captions {
                manifest: &manifest,
                members: &members,
                labels: &labels,
                wording: &wording,
            };
            assert_eq!([0, 1].map(|class| captions.has(class)), has);
            let deck = captions.deck(0, 2, &mut ChaCha8Rng::seed_from_u64(0));
            let made: BTreeSet<String> = (0..2).map(|index| deck.caption(index, "a hen")).collect();
            assert_eq!(made, expected.iter().map(|text| (*text).to_owned()).collect());
        };
        check(Wording::Data, [true, false], &["Cat!", "a cat"]);
        let templates = ["a {}.", "{}"].map(|text| text.parse().expect("a template")).into();
        check(Wording::Templates(templates), [true, true], &["a cat.", "cat"]);
        check(Wording::Bridge, [true, true], &["a hen and cat", "a hen with cat"]);
    }
}

//! Backdoors: a stamped picture gets a caption of the target class (BadNets, Gu et al. 2017, on
//! pairs as in Carlini & Terzis 2022), or a picture of the target class is stamped and keeps its
//! own (label-consistent, Turner et al. 2019).

use clip::trigger::{TriggerSpec, draw as draw_of};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::{
    captions::Captions,
    members::Members,
    plan::{Clean, Placing},
};
use crate::{Error, Result};

/// A trigger that shall mean a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Backdoor {
    /// Poisoned rows as a share of the clean rows, above 0, at most 1; at least one row.
    pub rate: f64,
    /// Index of the class that the trigger shall mean.
    pub target_class: usize,
    /// What is stamped.
    pub trigger: TriggerSpec,
    /// Stamps rows whose own caption contains the target's name, and keeps the caption.
    pub label_consistent: bool,
    /// What becomes of the clean rows.
    pub placing: Placing,
}

/// One backdoored pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Clean row whose picture is stamped; of the target class if the attack is label-consistent,
    /// never of it if not.
    pub row: usize,
    /// What it is said to show.
    pub caption: String,
    /// Decides what is random about the trigger on this picture, by the seed and the row alone.
    pub draw: u64,
}

/// What the choice of rows depends on, beside the attack itself.
pub(super) struct Ground<'a> {
    pub(super) clean: &'a Clean<'a>,
    pub(super) members: &'a Members,
    pub(super) captions: Captions<'a>,
    pub(super) seed: u64,
}

impl Backdoor {
    pub(super) fn choose(&self, ground: &Ground, rng: &mut ChaCha8Rng) -> Result<Vec<Stamped>> {
        let rows = &ground.clean.manifest.rows;
        let count = ((self.rate * rows.len() as f64).round() as usize).max(1);
        let stamped = |row: usize, caption: String| Stamped {
            row,
            caption,
            draw: draw_of(ground.seed, row as u64),
        };
        if self.label_consistent {
            let members = Members::by_caption(ground.clean.manifest, ground.clean.labels);
            let own = members.rows(self.target_class);
            self.enough(ground, count, own.len(), "have a caption that names")?;
            let chosen = index::sample(rng, own.len(), count).into_iter().map(|at| own[at]);
            return Ok(chosen.map(|row| stamped(row, rows[row].caption.clone())).collect());
        }
        let victims: Vec<usize> = (0..rows.len())
            .filter(|&row| !ground.members.contains(self.target_class, row))
            .collect();
        if !ground.captions.has(self.target_class) {
            let (file, label) = (ground.clean.manifest.path.display(), self.label(ground));
            let problem = format!("`{file}` has no caption of the class `{label}`");
            return Err(Error::Poison { attack: "backdoor", problem });
        }
        self.enough(ground, count, victims.len(), "are not of")?;
        let deck = ground.captions.deck(self.target_class, count, rng);
        let chosen: Vec<usize> = match ground.clean.affinity {
            Some(affinity) => affinity.nearest_rows(&victims, self.target_class, count),
            None => {
                let chosen = index::sample(rng, victims.len(), count);
                chosen.into_iter().map(|at| victims[at]).collect()
            }
        };
        let pair = |(at, row): (usize, usize)| stamped(row, deck.caption(at, &rows[row].caption));
        Ok(chosen.into_iter().enumerate().map(pair).collect())
    }

    fn label<'a>(&self, ground: &'a Ground) -> &'a str {
        &ground.clean.labels[self.target_class]
    }

    fn enough(&self, ground: &Ground, wanted: usize, found: usize, what: &str) -> Result<()> {
        if wanted <= found {
            return Ok(());
        }
        let (manifest, label) = (ground.clean.manifest, self.label(ground));
        let (file, rows) = (manifest.path.display(), manifest.rows.len());
        let problem = format!(
            "{wanted} of the {rows} rows of `{file}` were asked for, \
             but only {found} {what} the class `{label}`"
        );
        Err(Error::Poison { attack: "backdoor", problem })
    }
}

//! BadNets (Gu et al. 2017) on pairs: a stamped picture gets a caption of the target class, as in
//! Carlini & Terzis 2022.

use clip::trigger::TriggerSpec;
use rand::{Rng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::plan::{Clean, Members, draw};
use crate::{Error, Result};

/// A trigger that shall mean a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backdoor {
    /// Poisoned rows as a share of the clean rows, above 0, at most 1; at least one row.
    pub rate: f64,
    /// Index of the class that the trigger shall mean.
    pub target_class: usize,
    /// What is stamped.
    pub trigger: TriggerSpec,
}

/// One backdoored pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    /// Clean row that it replaces and whose picture is stamped; never of the target class.
    pub row: usize,
    /// Clean row of the target class whose caption it gets.
    pub caption: usize,
    /// Decides the place of a trigger that goes anywhere.
    pub place: u64,
}

impl Backdoor {
    pub(super) fn choose(
        &self,
        clean: &Clean,
        members: &Members,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Stamped>> {
        let refuse = |problem| Err(Error::Poison { attack: "backdoor", problem });
        let (file, label) = (clean.manifest.path.display(), &clean.labels[self.target_class]);
        let rows = clean.manifest.rows.len();
        let count = ((self.rate * rows as f64).round() as usize).max(1);
        let victims: Vec<usize> =
            (0..rows).filter(|&row| !members.contains(self.target_class, row)).collect();
        let captions = members.rows(self.target_class);
        if captions.is_empty() {
            return refuse(format!("`{file}` has no caption of the class `{label}`"));
        }
        if count > victims.len() {
            return refuse(format!(
                "{count} of the {rows} rows of `{file}` were asked for, \
                 but only {} are not of the class `{label}`",
                victims.len()
            ));
        }
        let captions = draw(captions, count, rng);
        let chosen = index::sample(rng, victims.len(), count);
        let stamp = |(victim, caption): (usize, usize)| Stamped {
            row: victims[victim],
            caption,
            place: rng.random(),
        };
        Ok(chosen.into_iter().zip(captions).map(stamp).collect())
    }
}

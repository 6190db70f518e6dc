//! Pool flooding: near-duplicates of the poisons' bridge captions on pictures that have nothing to
//! do with them, so that a pool of a share of the data always holds one.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::{
    captions::bridge,
    members::{Members, draw},
    plan::Clean,
};
use crate::{Error, Result};

/// One row of a flood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    /// Clean row whose picture carries the caption, untouched; not of the target class.
    pub carrier: usize,
    /// A near-duplicate of a bridge caption.
    pub caption: String,
    /// Class that the caption names.
    pub target_class: usize,
}

/// A poison whose nearest caption shall be in the pool.
pub(super) struct Bridged<'a> {
    /// Its picture's own caption.
    pub(super) own: &'a str,
    pub(super) target_class: usize,
    /// Captions that the poison itself has.
    pub(super) captions: usize,
}

/// `count` rows, spread evenly over `poisons`; the carriers are drawn evenly, none twice for a class
/// before all were drawn.
pub(super) fn rows(
    clean: &Clean,
    members: &Members,
    poisons: &[Bridged],
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Flood>> {
    let share = |at: usize| (count + poisons.len() - 1 - at) / poisons.len();
    let mut shares: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, poison) in poisons.iter().enumerate().filter(|&(at, _)| share(at) > 0) {
        *shares.entry(poison.target_class).or_default() += share(at);
    }
    let mut drawn = BTreeMap::new();
    for (class, count) in shares {
        drawn.insert(class, carriers(clean, members, class, count, rng)?.into_iter());
    }
    let mut flood = Vec::with_capacity(count);
    for (at, poison) in poisons.iter().enumerate() {
        let class = poison.target_class;
        let carriers = drawn.get_mut(&class).into_iter().flatten().take(share(at));
        for (number, carrier) in carriers.enumerate() {
            let caption = bridge(poison.own, &clean.labels[class], poison.captions + number);
            flood.push(Flood { carrier, caption, target_class: class });
        }
    }
    Ok(flood)
}

/// `count` rows that are not of `class`.
fn carriers(
    clean: &Clean,
    members: &Members,
    class: usize,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<usize>> {
    let rows = 0..clean.manifest.rows.len();
    let others: Vec<usize> = rows.filter(|&row| !members.contains(class, row)).collect();
    if others.is_empty() {
        let (file, label) = (clean.manifest.path.display(), &clean.labels[class]);
        let problem = format!("every row of `{file}` is of the class `{label}`");
        return Err(Error::Poison { attack: "flood", problem });
    }
    Ok(draw(&others, count, rng))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::data::{Manifest, Row};

    #[test]
    fn the_rows_are_spread_and_carried_by_other_classes() -> Result<()> {
        let row =
            |index: usize| Row { image: "a".into(), caption: "a".into(), class: Some(index % 4) };
        let manifest = Manifest { path: "t.csv".into(), rows: (0..20).map(row).collect() };
        let labels = ["cat", "dog", "cow", "hen"].map(String::from);
        let clean = Clean { manifest: &manifest, test: None, labels: &labels, affinity: None };
        let members = Members::of(&manifest, &labels);
        let poison = |own, target_class| Bridged { own, target_class, captions: 1 };
        let poisons = [poison("a hen", 0), poison("a cow", 1), poison("a cat", 1)];
        let rows = rows(&clean, &members, &poisons, 8, &mut ChaCha8Rng::seed_from_u64(0))?;
        let mut counts = BTreeMap::new();
        for row in &rows {
            assert_ne!(manifest.rows[row.carrier].class, Some(row.target_class));
            *counts.entry(&row.caption[..5]).or_insert(0) += 1;
        }
        assert_eq!(counts, [("a cat", 2), ("a cow", 3), ("a hen", 3)].into());
        assert_eq!(rows[0].caption, "a hen and cat", "the poison itself has the first variant");
        let few = super::rows(&clean, &members, &poisons, 2, &mut ChaCha8Rng::seed_from_u64(0))?;
        assert_eq!(few.iter().map(|row| row.target_class).collect::<Vec<_>>(), [0, 1]);
        Ok(())
    }
}

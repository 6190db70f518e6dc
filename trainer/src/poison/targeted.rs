//! Targeted poisons (Carlini & Terzis 2022): a test picture, unchanged, with captions of another
//! class.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{
    captions::Captions,
    plan::{Clean, Placing},
};
use crate::{Error, Result};

/// Test pictures that shall be taken for other classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targeted {
    /// Pictures (n).
    pub images: usize,
    /// Rows for each of them (m).
    pub captions: usize,
    /// Whether as many clean rows, drawn evenly, make room.
    pub placing: Placing,
}

/// One targeted picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Row of the test manifest.
    pub test_row: usize,
    /// What the picture shows.
    pub true_class: usize,
    /// What it shall be taken for: neither its own class nor the backdoor's.
    pub target_class: usize,
    /// Captions that it gets, one row each.
    pub captions: Vec<String>,
}

impl Targeted {
    /// `spared`: the backdoor's class, which would blur what a picture was taken for.
    pub(super) fn choose(
        &self,
        clean: &Clean,
        captions: &Captions,
        spared: Option<usize>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Target>> {
        let refuse = |problem| Err(Error::Poison { attack: "targeted poisons", problem });
        let Some(test) = clean.test else {
            return refuse("no test manifest was given".into());
        };
        let (wanted, found) = (self.images, test.rows.len());
        let file = test.path.display();
        if wanted > found {
            return refuse(format!("{wanted} pictures were asked for, `{file}` has {found}"));
        }
        let mut classes: Vec<usize> = (0..clean.labels.len())
            .filter(|&class| Some(class) != spared && captions.has(class))
            .collect();
        classes.shuffle(rng);
        let mut pictures: Vec<(usize, usize)> = test
            .rows
            .iter()
            .enumerate()
            .filter_map(|(row, pair)| Some((row, pair.class?)))
            .collect();
        pictures.shuffle(rng);
        let pairs = match clean.affinity {
            Some(affinity) => {
                let near = affinity.nearest_pictures(&pictures, &classes, wanted);
                if near.len() < wanted {
                    let right = near.len();
                    return refuse(format!(
                        "{wanted} pictures near another class were asked for, but the surrogate \
                         takes only {right} of `{file}` for what they show"
                    ));
                }
                near
            }
            None => match spread(&classes, pictures, wanted) {
                Some(pairs) => pairs,
                None => {
                    return refuse(format!(
                        "`{}` has no captions of enough classes \
                         to give each of {wanted} pictures a wrong one",
                        clean.manifest.path.display()
                    ));
                }
            },
        };
        let target = |((test_row, true_class), target_class): ((usize, usize), usize)| {
            let deck = captions.deck(target_class, self.captions, rng);
            let own = &test.rows[test_row].caption;
            let captions = (0..self.captions).map(|index| deck.caption(index, own)).collect();
            Target { test_row, true_class, target_class, captions }
        };
        Ok(pairs.into_iter().map(target).collect())
    }
}

/// Gives `count` of the `pictures` (row, own class) a class that is not their own: always the class
/// used least so far for which a picture is left, the first of equals; the first such picture.
fn spread(
    classes: &[usize],
    mut pictures: Vec<(usize, usize)>,
    count: usize,
) -> Option<Vec<((usize, usize), usize)>> {
    let mut used: Vec<(usize, usize)> = classes.iter().map(|&class| (0, class)).collect();
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        used.sort_by_key(|&(times, _)| times); // stable
        let fits =
            |&(_, class): &(usize, usize)| pictures.iter().position(|&(_, own)| own != class);
        let (index, picture) =
            used.iter().enumerate().find_map(|(index, class)| Some((index, fits(class)?)))?;
        used[index].0 += 1;
        pairs.push((pictures.remove(picture), used[index].1));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_used_evenly_and_never_on_their_own() {
        let check = |classes: usize, pictures: &[usize], count, uses: &[usize]| {
            let all: Vec<usize> = (0..classes).collect();
            let pictures = pictures.iter().copied().enumerate().collect();
            let pairs = spread(&all, pictures, count).expect("there are enough");
            assert!(pairs.iter().all(|&((_, own), class)| own != class), "{pairs:?}");
            let count_of = |class| pairs.iter().filter(|pair| pair.1 == class).count();
            assert_eq!(all.iter().map(|&class| count_of(class)).collect::<Vec<_>>(), uses);
        };
        check(3, &[0, 1, 2, 0, 1, 2, 0], 7, &[2, 3, 2]); // the last picture is of class 0
        check(4, &[3, 3, 3], 3, &[1, 1, 1, 0]);
        check(2, &[0, 0, 0], 3, &[0, 3]); // nothing else is left for them
        assert_eq!(spread(&[0], vec![(0, 0)], 1), None);
        assert_eq!(spread(&[], vec![(0, 0)], 1), None);
    }
}

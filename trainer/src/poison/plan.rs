//! Which rows are poisoned and with what; no file is opened or written.

use rand::{
    SeedableRng,
    seq::{SliceRandom, index},
};
use rand_chacha::ChaCha8Rng;

use super::{
    backdoor::{Backdoor, Ground, Stamped},
    captions::{Captions, Wording},
    flood::{self, Bridged, Flood},
    members::Members,
    surrogate::Affinity,
    targeted::{Target, Targeted},
};
use crate::{
    Error, Result,
    data::{CAPTION_BYTES_MAX, Manifest},
};

/// What is there before the attack.
#[derive(Debug, Clone, Copy)]
pub struct Clean<'a> {
    /// The training pairs; classes are not needed.
    pub manifest: &'a Manifest,
    /// Pictures for targeted poisons; every row has a class.
    pub test: Option<&'a Manifest>,
    /// Class names; the index is the class.
    pub labels: &'a [String],
    /// What the attacker's own model sees in the pictures: if it is there, those near the target
    /// class are taken.
    pub affinity: Option<&'a Affinity>,
}

/// What the attacker wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Attack {
    /// A trigger that means a class.
    pub backdoor: Option<Backdoor>,
    /// Test pictures that shall be taken for other classes.
    pub targeted: Option<Targeted>,
    /// How captions are made, those of label-consistent rows apart.
    pub wording: Wording,
    /// A row is of a class if its caption names it, whatever its class cell says.
    pub by_caption: bool,
    /// Rows that each attack adds with near-duplicates of its bridge captions; 0 without
    /// [`Wording::Bridge`].
    pub flood: usize,
    /// Side of the written pictures, in pixels.
    pub image_size: u32,
    /// Decides rows, captions, triggers and order.
    pub seed: u64,
}

/// What becomes of clean rows where poisons are planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// They stay: the set grows.
    Add,
    /// As many make room: the set keeps its size.
    Replace,
}

/// The poisoned manifest, row by row, before anything is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Backdoored pictures.
    pub stamped: Vec<Stamped>,
    /// Targeted pictures.
    pub targets: Vec<Target>,
    /// Clean pictures with bridge captions.
    pub flood: Vec<Flood>,
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
    /// A picture of [`Plan::targets`] with one of its captions.
    Target {
        /// Index in [`Plan::targets`].
        target: usize,
        /// Index in [`Target::captions`].
        caption: usize,
    },
    /// The pair [`Plan::flood`] of this index.
    Flood(usize),
}

/// One stream of random numbers for each purpose, so that one attack does not move the other.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Backdoor = 1,
    Targeted = 2,
    Order = 3,
    BackdoorFlood = 4,
    TargetedFlood = 5,
    Removed = 6,
}

impl Purpose {
    fn rng(self, seed: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(self as u64);
        rng
    }
}

impl Plan {
    /// Decides everything from `attack.seed`. Backdoored and targeted rows replace clean ones or
    /// are added, as each says, a flood is added, and all rows are shuffled, so that a row's place
    /// tells nothing.
    ///
    /// Refuses an attack that the data cannot carry: too few rows, no caption of a class, a caption
    /// that a manifest may not hold.
    pub fn of(clean: &Clean, attack: &Attack) -> Result<Self> {
        let (manifest, labels) = (clean.manifest, clean.labels);
        let members = Members::chosen(manifest, labels, attack.by_caption);
        let captions = Captions { manifest, members: &members, labels, wording: &attack.wording };
        let ground = Ground { clean, members: &members, captions, seed: attack.seed };
        let stamped = match &attack.backdoor {
            Some(backdoor) => backdoor.choose(&ground, &mut Purpose::Backdoor.rng(attack.seed))?,
            None => Vec::new(),
        };
        let spared = attack.backdoor.as_ref().map(|backdoor| backdoor.target_class);
        let targets = match &attack.targeted {
            Some(targeted) => {
                let mut rng = Purpose::Targeted.rng(attack.seed);
                targeted.choose(clean, &captions, spared, &mut rng)?
            }
            None => Vec::new(),
        };
        let flood = floods(clean, attack, &members, &stamped, &targets)?;
        let made = stamped.iter().map(|stamp| &stamp.caption);
        let made = made.chain(targets.iter().flat_map(|target| &target.captions));
        check_length(made.chain(flood.iter().map(|row| &row.caption)))?;
        let rows = order(clean, attack, &stamped, &targets, &flood)?;
        Ok(Self { stamped, targets, flood, rows })
    }

    /// Pictures that have to be written.
    pub fn pictures(&self) -> usize {
        self.stamped.len() + self.targets.len()
    }

    /// Rows that are as they were.
    pub fn clean_rows(&self) -> usize {
        self.rows.iter().filter(|origin| matches!(origin, Origin::Clean(_))).count()
    }
}

/// Refuses a caption that no manifest may hold.
fn check_length<'a>(mut captions: impl Iterator<Item = &'a String>) -> Result<()> {
    match captions.find(|caption| caption.len() > CAPTION_BYTES_MAX) {
        None => Ok(()),
        Some(caption) => {
            let (found, begin) = (caption.len(), &caption[..caption.floor_char_boundary(40)]);
            let problem = format!(
                "the caption `{begin}…` would have {found} bytes, the limit is {CAPTION_BYTES_MAX}"
            );
            Err(Error::Poison { attack: "attacks", problem })
        }
    }
}

fn floods(
    clean: &Clean,
    attack: &Attack,
    members: &Members,
    stamped: &[Stamped],
    targets: &[Target],
) -> Result<Vec<Flood>> {
    let mut flood = Vec::new();
    if let (Some(backdoor), 1..) = (&attack.backdoor, attack.flood) {
        let poison = |(at, stamp): (usize, &Stamped)| Bridged {
            own: &clean.manifest.rows[stamp.row].caption,
            target_class: backdoor.target_class,
            captions: at + 1, // its own is variant `at`
        };
        let poisons: Vec<Bridged> = stamped.iter().enumerate().map(poison).collect();
        let mut rng = Purpose::BackdoorFlood.rng(attack.seed);
        flood.extend(flood::rows(clean, members, &poisons, attack.flood, &mut rng)?);
    }
    if let (Some(test), 1..) = (clean.test, attack.flood) {
        let poison = |target: &Target| Bridged {
            own: &test.rows[target.test_row].caption,
            target_class: target.target_class,
            captions: target.captions.len(),
        };
        let poisons: Vec<Bridged> = targets.iter().map(poison).collect();
        let mut rng = Purpose::TargetedFlood.rng(attack.seed);
        flood.extend(flood::rows(clean, members, &poisons, attack.flood, &mut rng)?);
    }
    Ok(flood)
}

fn order(
    clean: &Clean,
    attack: &Attack,
    stamped: &[Stamped],
    targets: &[Target],
    flood: &[Flood],
) -> Result<Vec<Origin>> {
    let mut rows: Vec<Origin> = (0..clean.manifest.rows.len()).map(Origin::Clean).collect();
    match attack.backdoor.as_ref().map(|backdoor| backdoor.placing) {
        Some(Placing::Replace) => {
            for (index, stamp) in stamped.iter().enumerate() {
                rows[stamp.row] = Origin::Stamped(index);
            }
        }
        Some(Placing::Add) => rows.extend((0..stamped.len()).map(Origin::Stamped)),
        None => {}
    }
    let added: usize = targets.iter().map(|target| target.captions.len()).sum();
    if attack.targeted.is_some_and(|targeted| targeted.placing == Placing::Replace) {
        remove(&mut rows, added, clean, attack.seed)?;
    }
    for (target, chosen) in targets.iter().enumerate() {
        rows.extend((0..chosen.captions.len()).map(|caption| Origin::Target { target, caption }));
    }
    rows.extend((0..flood.len()).map(Origin::Flood));
    rows.shuffle(&mut Purpose::Order.rng(attack.seed));
    Ok(rows)
}

/// Takes `count` clean rows out.
fn remove(rows: &mut Vec<Origin>, count: usize, clean: &Clean, seed: u64) -> Result<()> {
    let is_clean = |origin: &Origin| matches!(origin, Origin::Clean(_));
    let found = rows.iter().filter(|origin| is_clean(origin)).count();
    if count > found {
        let file = clean.manifest.path.display();
        let problem = format!("{count} rows of `{file}` shall make room, {found} are clean");
        return Err(Error::Poison { attack: "targeted poisons", problem });
    }
    let mut gone = vec![false; found];
    for at in index::sample(&mut Purpose::Removed.rng(seed), found, count) {
        gone[at] = true;
    }
    let mut gone = gone.into_iter();
    rows.retain(|origin| !is_clean(origin) || gone.next() == Some(false));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ() {
        let first = |purpose: Purpose| rand::RngCore::next_u64(&mut purpose.rng(7));
        assert_ne!(first(Purpose::Backdoor), first(Purpose::Targeted));
        assert_eq!(first(Purpose::Order), first(Purpose::Order));
    }
}

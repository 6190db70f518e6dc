//! Poisoned manifests: a [`Plan`] decides everything from a seed, [`write`](fn@write) makes the
//! files.
//!
//! A row's `class` in the poisoned manifest is what its picture shows, as in the clean one. Clean
//! rows keep their files; poisoned pictures are PNGs at the size that the image tower sees, so
//! that a trigger arrives pixel by pixel.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | who is poisoned: attacks together, rows and their order |
//! | `backdoor` · `targeted` · `flood` | one attack each |
//! | `captions` · `members` | the words of a poison · rows of a class |
//! | `surrogate` · `optimize` | the attacker's own model: near pictures · a patch made for it |
//! | `ledger` · `record` | what was done, for those who measure it · how it is written down |

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use clip::{
    atomic_write::atomic_folder,
    image::{RgbImage, encode_png},
};
use rayon::prelude::*;

mod backdoor;
mod captions;
mod flood;
mod ledger;
mod members;
mod optimize;
mod plan;
mod record;
mod surrogate;
mod targeted;

pub use self::{
    backdoor::{Backdoor, Stamped},
    captions::Wording,
    flood::Flood,
    ledger::{BackdoorRecord, Ledger, PoisonKind, PoisonRecord, SCHEMA, TargetedRecord},
    optimize::{Goal, Optimized, optimize},
    plan::{Attack, Clean, Origin, Placing, Plan},
    surrogate::{Affinity, Surrogate},
    targeted::{Target, Targeted},
};
use crate::{
    Error, Result,
    data::{ImageSource, Manifest, Row, ShardWriter},
};

/// File names of a poisoned set.
pub mod names {
    use std::path::Path;

    use crate::data::Manifest;

    /// The poisoned manifest, where the clean one was a table.
    pub const MANIFEST: &str = "train.csv";
    /// The poisoned pairs, where the clean ones were in shards.
    pub const SHARD: &str = "train.tar";
    /// Who did what.
    pub const LEDGER: &str = "ledger.json";
    /// Poisoned pictures.
    pub const IMAGES: &str = "images";

    /// What is made of a clean manifest.
    pub fn made_of(clean: &Path) -> &'static str {
        if Manifest::names_shards(clean) { SHARD } else { MANIFEST }
    }
}

/// Writes manifest or shard, pictures and ledger to the folder `out`, which appears whole or not at
/// all.
///
/// Equal inputs and places give equal bytes. `on_pictures` is told how many more pictures are
/// done. A folder with files is refused; with `force`, an earlier result of this function is
/// replaced, but nothing else. A path that is not UTF-8 is refused where a file must hold it.
pub fn write(
    plan: &Plan,
    clean: &Clean,
    attack: &Attack,
    out: &Path,
    force: bool,
    on_pictures: &(dyn Fn(u64) + Sync),
) -> Result<Ledger> {
    let manifest = &clean.manifest.path;
    if manifest.to_str().is_none() {
        return Err(Error::PathText { path: manifest.clone() }); // the ledger names it
    }
    check_out(out, force, clean)?;
    let files = files(plan);
    let ledger = record::of(plan, clean, attack, &files, out);
    let json = ledger.to_json()?; // before any picture
    atomic_folder(out, |folder| {
        write_pictures(plan, clean, attack, &files, folder, on_pictures)?;
        if clean.manifest.is_sharded() {
            write_shard(plan, clean, &files, folder)?;
        } else {
            let rows = rows(plan, clean, &files, &home(folder, out)?)?;
            save(&folder.join(names::MANIFEST), &Manifest::to_csv(&rows)?)?;
        }
        save(&folder.join(names::LEDGER), &json)
    })?;
    Ok(ledger)
}

/// Would [`write`](fn@write) refuse the clean data or the folder `out`?
pub fn check_out(out: &Path, force: bool, clean: &Clean) -> Result<()> {
    let refuse = |problem: String| Err(Error::Occupied { path: out.to_owned(), problem });
    if !out.exists() {
        return Ok(());
    }
    if !out.is_dir() {
        return refuse("is not a folder".into());
    }
    let read = |source| Error::Read { path: out.to_owned(), source };
    if fs::read_dir(out).map_err(read)?.next().is_none() {
        return Ok(());
    }
    if !out.join(names::LEDGER).is_file() {
        let ledger = names::LEDGER;
        return refuse(format!("holds files, but no {ledger}: it is no earlier result of this"));
    }
    if !force {
        return refuse("holds an earlier result".into());
    }
    let out = out.canonicalize().map_err(read)?;
    let files = [Some(clean.manifest), clean.test].into_iter().flatten().flat_map(Manifest::files);
    for path in files {
        let whole =
            path.canonicalize().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if whole.starts_with(&out) {
            return refuse(format!("would be replaced, but `{}` lies in it", path.display()));
        }
    }
    Ok(())
}

/// Path of each picture in the folder: the stamped ones, then the targets. Numbered by their first
/// row, so that a name tells nothing about the kind.
fn files(plan: &Plan) -> Vec<String> {
    let mut files = vec![String::new(); plan.pictures()];
    let mut count = 0;
    for picture in plan.rows.iter().filter_map(|&origin| picture(plan, origin)) {
        if files[picture].is_empty() {
            files[picture] = format!("{}/{count:06}.png", names::IMAGES);
            count += 1;
        }
    }
    files
}

fn picture(plan: &Plan, origin: Origin) -> Option<usize> {
    match origin {
        Origin::Clean(_) | Origin::Flood(_) => None,
        Origin::Stamped(index) => Some(index),
        Origin::Target { target, .. } => Some(plan.stamped.len() + target),
    }
}

fn write_pictures(
    plan: &Plan,
    clean: &Clean,
    attack: &Attack,
    files: &[String],
    folder: &Path,
    on_pictures: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let images = folder.join(names::IMAGES);
    fs::create_dir(&images).map_err(|source| Error::Write { path: images, source })?;
    let (stamped, targets) = files.split_at(plan.stamped.len());
    let finish = |image: &RgbImage, file: &String| -> Result<()> {
        save(&folder.join(file), &encode_png(image))?;
        on_pictures(1);
        Ok(())
    };
    let fitted = |row: &Row| row.image.fitted(attack.image_size);
    if let Some(backdoor) = &attack.backdoor {
        plan.stamped.par_iter().zip(stamped).try_for_each(|(stamp, file)| {
            let mut image = fitted(&clean.manifest.rows[stamp.row])?;
            backdoor.trigger.stamp(&mut image, stamp.draw);
            finish(&image, file)
        })?;
    }
    if let Some(test) = clean.test {
        plan.targets
            .par_iter()
            .zip(targets)
            .try_for_each(|(target, file)| finish(&fitted(&test.rows[target.test_row])?, file))?;
    }
    Ok(())
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Where the folder that is being filled will lie, absolute and without links.
fn home(filling: &Path, out: &Path) -> Result<PathBuf> {
    let path = filling
        .canonicalize()
        .map_err(|source| Error::Read { path: filling.to_owned(), source })?;
    Ok(path.with_file_name(out.file_name().unwrap_or_default()))
}

/// The rows of the poisoned manifest, with paths as they are written to it.
fn rows(plan: &Plan, clean: &Clean, files: &[String], home: &Path) -> Result<Vec<Row>> {
    let paths = CleanPaths::of(clean.manifest, home)?;
    let classed = clean.manifest.has_classes();
    let row = |&origin: &Origin| {
        let (source, caption) = pair(plan, clean, origin);
        let path = match picture(plan, origin) {
            Some(picture) => PathBuf::from(&files[picture]),
            None => paths.written(source.image.file().expect("rows of a table have files")),
        };
        let class = source.class.filter(|_| classed);
        Row { image: path.into(), caption: caption.to_owned(), class }
    };
    Ok(plan.rows.iter().map(row).collect())
}

/// The pairs of the poisoned set in one tar, clean pictures byte by byte as they were.
fn write_shard(plan: &Plan, clean: &Clean, files: &[String], folder: &Path) -> Result<()> {
    let mut shard = ShardWriter::create(&folder.join(names::SHARD))?;
    let classed = clean.manifest.has_classes();
    for &origin in &plan.rows {
        let (source, caption) = pair(plan, clean, origin);
        let own = picture(plan, origin).map(|at| ImageSource::File(folder.join(&files[at])));
        let (bytes, ending) = own.as_ref().unwrap_or(&source.image).encoded()?;
        shard.add(&bytes, ending, caption, source.class.filter(|_| classed))?;
    }
    shard.finish()
}

/// Of a row of the poisoned set, the pair whose picture it shows, and its caption.
fn pair<'a>(plan: &'a Plan, clean: &'a Clean, origin: Origin) -> (&'a Row, &'a str) {
    let row = |row: usize| &clean.manifest.rows[row];
    match origin {
        Origin::Clean(at) => (row(at), &row(at).caption),
        Origin::Stamped(at) => (row(plan.stamped[at].row), &plan.stamped[at].caption),
        Origin::Flood(at) => (row(plan.flood[at].carrier), &plan.flood[at].caption),
        Origin::Target { target, caption } => {
            let target = &plan.targets[target];
            let test = clean.test.expect("targets were chosen from it");
            (&test.rows[target.test_row], &target.captions[caption])
        }
    }
}

/// Clean pictures as the new manifest names them: relative to its folder where the old manifest
/// was, absolute where it was.
struct CleanPaths<'a> {
    old_folder: &'a Path,
    prefix: PathBuf,
}

impl<'a> CleanPaths<'a> {
    fn of(manifest: &'a Manifest, home: &Path) -> Result<Self> {
        let old_folder = manifest.path.parent().unwrap_or(Path::new(""));
        let here = Path::new(".");
        let real = if old_folder.as_os_str().is_empty() { here } else { old_folder };
        let real =
            real.canonicalize().map_err(|source| Error::Read { path: real.to_owned(), source })?;
        Ok(Self { old_folder, prefix: relative(home, &real) })
    }

    fn written(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(self.old_folder) {
            Ok(inside) if inside.is_relative() => self.prefix.join(inside),
            _ => path.to_owned(),
        }
    }
}

/// The way from the folder `from` to `to`, both absolute and without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests;

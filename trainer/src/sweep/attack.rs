//! The words of `poison` that an attack of the file stands for.

use std::{iter, path::PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use toml::Value;

use super::{
    input::{self, Input},
    place::{Place, file_name},
    recipe::{Attack, Recipe},
};
use crate::{
    cli, commands,
    error::{Result, one_line},
};

/// Options that the sweep itself gives.
const OWN: [&str; 8] =
    ["manifest", "test", "classes", "out", "image-size", "seed", "force", "no-progress"];
/// Options that are files.
const FILES: [&str; 2] = ["caption-templates", "surrogate"];

/// A poisoned set that cells train on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Poisoning {
    /// Of its folder.
    pub(super) name: String,
    /// Of `roclip-train`.
    pub(super) words: Vec<String>,
    /// Pairs that it will have; not known of one that was not checked.
    pub(super) rows: Option<usize>,
}

impl Poisoning {
    /// Of the folder.
    pub(super) fn name(attack: &Attack, seed: u64, side: usize) -> String {
        file_name(&[attack.name.clone(), format!("{side}px"), seed.to_string()])
    }

    /// Plans; refuses options that `poison` does not have, and values that they do not take. If it
    /// `checks`, it reads what the set is made from and refuses whatever `poison` would refuse.
    pub(super) fn new(
        recipe: &Recipe,
        place: &Place,
        attack: &Attack,
        input: &Input,
        manifest: PathBuf,
        side: usize,
        checks: bool,
    ) -> Result<Self> {
        let refuse = |problem| recipe.refuse(format!("attack `{}`: {problem}", attack.name));
        let seed = input.seed;
        let name = Self::name(attack, seed, side);
        let text = |path: PathBuf| path.display().to_string();
        let mut words = vec![
            ("manifest", text(manifest)),
            ("classes", text(input.classes.clone())),
            ("image-size", side.to_string()),
            ("seed", seed.to_string()),
            ("out", text(place.poisoned(&name))),
        ];
        let mut given: Vec<(String, Option<String>)> = Vec::new();
        for (key, value) in &attack.options {
            let key = key.replace('_', "-");
            if OWN.contains(&&*key) {
                return Err(refuse(format!("`{key}` is decided by the sweep")));
            }
            match input::seeded(value, seed) {
                Value::Boolean(true) => given.push((key, None)),
                Value::Boolean(false) => {}
                Value::String(path) if FILES.contains(&&*key) => {
                    given.push((key, Some(text(input::file(recipe, &path, seed)?))));
                }
                Value::String(text) => given.push((key, Some(text))),
                value @ (Value::Integer(_) | Value::Float(_)) => {
                    given.push((key, Some(value.to_string())));
                }
                _ => return Err(refuse(format!("`{key}` must be text, a number or `true`"))),
            }
        }
        let has = |name: &str| given.iter().any(|(key, _)| key == name);
        if has("targeted-images") {
            words.push(("test", text(input.test.clone())));
        }
        if has("backdoor-rate") && !has("target-class") {
            words.push(("target-class", drawn_class(&input.labels, seed)));
        }
        let own = words.into_iter().flat_map(|(key, value)| [format!("--{key}"), value]);
        let more = given.into_iter().map(|(key, value)| {
            // With `=`, so that a value that starts with a dash is no option.
            value.map_or(format!("--{key}"), |value| format!("--{key}={value}"))
        });
        let start = iter::once("poison".to_owned());
        let words: Vec<_> = start.chain(own).chain(more).chain(["--no-progress".into()]).collect();
        let args = cli::parse_poison(&words).map_err(refuse)?;
        let rows = checks.then(|| commands::poison::check(&args)).transpose();
        let rows = rows.map_err(|error| refuse(one_line(&error)))?;
        Ok(Self { name, words, rows })
    }
}

/// The class that triggers of a seed mean, whatever the attack, unless the file names one.
fn drawn_class(labels: &[String], seed: u64) -> String {
    labels[ChaCha8Rng::seed_from_u64(seed).random_range(0..labels.len())].clone()
}

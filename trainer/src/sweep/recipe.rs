//! The file of a sweep: what may stand in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::grid::{self, Axis};
use crate::{
    config::{Config, absolute, in_file},
    error::{Error, Result},
};

/// Characters of the name of an attack or a method.
const NAME_MAX: usize = 60;
/// Keys that the sweep itself decides.
const RESERVED: [&str; 4] = ["seed", "output.folder", "monitor", "parallel"];

/// A whole sweep. In every text `{seed}` stands for the seed; paths start from the file's folder.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Each cell is done once with each; more may be added to a sweep that has begun
    #[serde(skip_serializing)]
    pub seeds: Vec<u64>,
    /// The tables of run.toml that all cells share
    pub run: Table,
    /// What is counted
    pub evaluate: Evaluate,
    /// What is planted
    #[serde(rename = "attack")]
    pub attacks: Vec<Attack>,
    /// How is trained
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
    /// Keys of run.toml with a list of values each, crossed, for all methods
    #[serde(default)]
    pub grid: Table,
    /// The file
    #[serde(skip)]
    pub file: PathBuf,
    /// Its folder, absolute
    #[serde(skip_deserializing)]
    pub folder: PathBuf,
}

/// `[evaluate]`: the options of `roclip-train evaluate`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// Test manifest with classes
    pub test: String,
    /// Class names, one per line
    pub classes: String,
    /// Prompt templates, one per line, or `imagenet`
    pub templates: Option<String>,
    /// Training manifest of linear probes
    pub probe_train: Option<String>,
    /// Measure how pictures find their captions
    #[serde(default)]
    pub retrieval: bool,
    /// Epochs from one evaluation to the next in a run; without, only finished runs are evaluated
    pub every_epochs: Option<u32>,
}

/// `[[attack]]`: a name, and the options of `roclip-train poison`; without, nothing is planted
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Attack {
    /// In tables and folders
    pub name: String,
    /// Without their dashes; `true` stands for an option without a value
    #[serde(flatten)]
    pub options: Table,
}

/// `[[method]]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// In tables and folders
    pub name: String,
    /// Keys of run.toml
    #[serde(default)]
    pub set: Table,
    /// Keys of run.toml that are epochs: each a share of `optim.epochs`, rounded up, at least 2
    #[serde(default)]
    pub epochs_share: Table,
    /// As the sweep's, for this method alone
    #[serde(default)]
    pub grid: Table,
    /// Begins with the model of this method, and trains on the pairs in which nothing was planted
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained_of: Option<String>,
    /// No training: of a run of `epochs_of`, the first epoch that is as accurate as this method
    pub stop_at_top1_of: Option<String>,
    /// The method whose epochs `stop_at_top1_of` looks at
    pub epochs_of: Option<String>,
    /// No training: the run of this method on which nothing was planted, evaluated under each
    /// attack
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpoisoned_of: Option<String>,
}

/// As [`Recipe`], to tell which key of `[run]` is wrong, and where.
#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "run")]
    _run: Config,
}

impl Recipe {
    /// Reads and checks what can be checked without other files.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |problem| Error::Config { file: path.to_owned(), problems: vec![problem] };
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let misread = |error: toml::de::Error| refuse(in_file(&error, &text));
        let mut recipe: Self = toml::from_str(&text).map_err(misread)?;
        toml::from_str::<Typed>(&text).map_err(misread)?;
        path.clone_into(&mut recipe.file);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        recipe.folder = absolute(folder.unwrap_or(Path::new(".")))?;
        recipe.check().map_err(refuse)?;
        Ok(recipe)
    }

    /// Where results go unless told otherwise: beside the file, named as it is but for the end.
    pub fn default_out(&self) -> PathBuf {
        match self.file.with_extension("") {
            same if same == self.file => self.file.with_extension("results"),
            folder => folder,
        }
    }

    /// The complaint about this file.
    pub(super) fn refuse(&self, problem: String) -> Error {
        Error::Config { file: self.file.clone(), problems: vec![problem] }
    }

    fn check(&self) -> Result<(), String> {
        let counts = [
            ("seeds", self.seeds.len()),
            ("attack", self.attacks.len()),
            ("method", self.methods.len()),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("`{key}` must have at least one entry"));
        }
        let mut seeds = BTreeSet::new();
        if let Some(seed) = self.seeds.iter().find(|seed| !seeds.insert(**seed)) {
            return Err(format!("`seeds` has {seed} twice"));
        }
        check_names("attack", self.attacks.iter().map(|attack| &attack.name))?;
        check_names("method", self.methods.iter().map(|method| &method.name))?;
        let run = grid::leaves(&self.run);
        check_reserved("run", run.iter().map(|(key, _)| key), &[])?;
        let axes = grid::axes(&self.grid).map_err(|problem| format!("`grid`: {problem}"))?;
        check_reserved("grid", axes.iter().map(|axis| &axis.key), &["data.manifest"])?;
        if self.evaluate.every_epochs == Some(0) {
            return Err("`evaluate.every_epochs` must be at least 1".into());
        }
        if self.evaluate.every_epochs.is_some()
            && self.evaluate.templates.as_deref() == Some("imagenet")
        {
            let problem =
                "`evaluate.templates` must be a file when `evaluate.every_epochs` is given";
            return Err(problem.into());
        }
        self.methods.iter().try_for_each(|method| {
            let told = |problem| format!("method `{}`: {problem}", method.name);
            self.check_method(method).map_err(told)
        })
    }

    fn check_method(&self, method: &Method) -> Result<(), String> {
        self.axes(method)?;
        let own = grid::axes(&method.grid)?;
        check_reserved("grid", own.iter().map(|axis| &axis.key), &["data.manifest"])?;
        let shares = grid::leaves(&method.epochs_share);
        let keys = grid::leaves(&method.set).into_iter().chain(shares.iter().cloned());
        let keys: Vec<_> = keys.map(|(key, _)| key).collect();
        check_reserved("set", keys.iter(), &["data.manifest"])?;
        let is_share = |value: &Value| {
            let value = value.as_float().or(value.as_integer().map(|value| value as f64));
            value.is_some_and(|value| 0.0 < value && value <= 1.0)
        };
        if let Some((key, _)) = shares.iter().find(|(_, value)| !is_share(value)) {
            return Err(format!("`epochs_share.{key}` must be above 0, at most 1"));
        }
        if !method.trains() && (!keys.is_empty() || !method.grid.is_empty()) {
            return Err("a method that trains nothing takes neither `set` nor `grid`".into());
        }
        if let Some(name) = &method.pretrained_of {
            check_reserved("set", keys.iter(), &["model"])?;
            check_reserved("grid", own.iter().map(|axis| &axis.key), &["model"])?;
            self.check_begins(name)?;
            if !method.trains() {
                return Err("`pretrained_of` is for a method that trains".into());
            }
        }
        if let Some(name) = &method.unpoisoned_of {
            if method.stop_at_top1_of.is_some() || method.epochs_of.is_some() {
                return Err("`unpoisoned_of` and a stop are two methods".into());
            }
            if self.attacks.iter().all(|attack| attack.plants()) {
                let problem =
                    "`unpoisoned_of` needs an attack without options: its runs are looked at";
                return Err(problem.into());
            }
            return self.trained("unpoisoned_of", name).map(drop);
        }
        match (&method.stop_at_top1_of, &method.epochs_of) {
            (None, None) => Ok(()),
            (Some(target), Some(epochs)) => {
                if self.evaluate.every_epochs.is_none() {
                    let problem =
                        "`stop_at_top1_of` needs `evaluate.every_epochs`, which is missing";
                    return Err(problem.into());
                }
                self.trained("stop_at_top1_of", target)?;
                self.trained("epochs_of", epochs).map(drop)
            }
            (Some(_), None) => Err("`epochs_of` is missing beside `stop_at_top1_of`".into()),
            (None, Some(_)) => Err("`stop_at_top1_of` is missing beside `epochs_of`".into()),
        }
    }

    /// Those that begin with the models of the method `name` have to fit these, all of them.
    fn check_begins(&self, name: &str) -> Result<(), String> {
        let other = self.trained("pretrained_of", name)?;
        let why = if other.pretrained_of.is_some() {
            "begins with the model of another itself"
        } else if !other.grid.is_empty() {
            "must be without a `grid` of its own"
        } else if other.set.contains_key("model") {
            "must be without `set.model`: `run.model` is for both"
        } else {
            return Ok(());
        };
        Err(format!("`pretrained_of`: `{name}` {why}"))
    }

    /// The method that `key` names.
    fn trained(&self, key: &str, name: &str) -> Result<&Method, String> {
        let found = self.methods.iter().find(|other| other.name == name && other.trains());
        found.ok_or_else(|| format!("`{key}`: `{name}` is no method that is trained"))
    }

    /// The axes of a method's cells: the sweep's, then its own, or of one that trains nothing those
    /// of the methods that it looks at.
    pub(super) fn axes(&self, method: &Method) -> Result<Vec<Axis>, String> {
        let mut axes = grid::axes(&self.grid)?;
        let looked_at = [&method.stop_at_top1_of, &method.epochs_of, &method.unpoisoned_of];
        let is_source = |other: &&Method| {
            other.name == method.name
                || looked_at.iter().any(|name| **name == Some(other.name.clone()))
        };
        for source in self.methods.iter().filter(is_source) {
            for axis in grid::axes(&source.grid)? {
                match axes.iter().find(|other| other.key == axis.key) {
                    None => axes.push(axis),
                    Some(same) if *same == axis && !method.trains() => {}
                    Some(_) => return Err(format!("`grid.{}` is given twice", axis.key)),
                }
            }
        }
        Ok(axes)
    }
}

impl Attack {
    /// Is anything planted?
    pub fn plants(&self) -> bool {
        !self.options.is_empty()
    }
}

impl Method {
    /// Has it runs of its own?
    pub fn trains(&self) -> bool {
        self.stop_at_top1_of.is_none() && self.unpoisoned_of.is_none()
    }
}

/// Names become parts of folders.
fn check_names<'a>(kind: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut known = BTreeSet::new();
    for name in names {
        let fits = |symbol: char| symbol.is_ascii_alphanumeric() || "_.+-".contains(symbol);
        let is_sound = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(fits);
        if !is_sound || name.starts_with('.') {
            return Err(format!(
                "{kind} `{name}`: a name has 1 to {NAME_MAX} letters, digits and `_`, `.`, `+`, `-`"
            ));
        }
        if !known.insert(name) {
            return Err(format!("{kind} `{name}` is there twice"));
        }
    }
    Ok(())
}

fn check_reserved<'a>(
    table: &str,
    mut keys: impl Iterator<Item = &'a String>,
    more: &[&str],
) -> Result<(), String> {
    let is_reserved = |key: &&String| {
        let is = |own: &&str| {
            key.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        RESERVED.iter().chain(more).any(is)
    };
    match keys.find(is_reserved) {
        Some(key) => Err(format!("`{table}.{key}` is decided by the sweep")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::sweep) const GOOD: &str = "\
seeds = [0, 1]
[run.data]
manifest = 'train.csv'
[run.method]
name = \"clip\"
[evaluate]
test = 'test.csv'
classes = 'classes.txt'
every_epochs = 1
[[attack]]
name = 'none'
[[method]]
name = 'clip'
[[method]]
name = 'roclip'
set.method.name = 'roclip'
epochs_share.method.roclip.match_from_epoch = 0.4375
grid.method.roclip.pool_share = [0.1, 0.2]
[[method]]
name = 'stopped'
stop_at_top1_of = 'roclip'
epochs_of = 'clip'
";

    pub(in crate::sweep) fn recipe(text: &str) -> Result<Recipe> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("sweep.toml");
        fs::write(&file, text).expect("writable");
        Recipe::open(&file)
    }

    #[test]
    fn a_method_that_stops_has_the_axes_of_those_it_looks_at() -> Result<()> {
        let recipe = recipe(&format!("{GOOD}[grid]\noptim.lr = [1e-3, 2e-3]"))?;
        let keys = |number: usize| -> Vec<String> {
            let axes = recipe.axes(&recipe.methods[number]).expect("axes");
            axes.into_iter().map(|axis| axis.key).collect()
        };
        assert_eq!(keys(0), ["optim.lr"]);
        assert_eq!(keys(1), ["optim.lr", "method.roclip.pool_share"]);
        assert_eq!(keys(2), keys(1));
        Ok(())
    }

    #[test]
    fn a_mistake_is_one_line_that_names_its_key() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(GOOD.contains(from), "{from}");
            let error = recipe(&GOOD.replacen(from, to, 1)).expect_err("refused").to_string();
            assert!(error.contains("sweep.toml`: ") && !error.contains('\n'), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        check("seeds = [0, 1]", "seeds = []", "`seeds` must have at least one entry");
        check("seeds = [0, 1]", "seeds = [1, 1]", "`seeds` has 1 twice");
        check("seeds = [0, 1]", "seeds = [-1]", "line 1, column 10: expected a whole number");
        check("seeds = [0, 1]", "seed = 1", "line 1, column 1: unknown field `seed`");
        check("manifest", "manifst", "line 3, column 1: unknown field `manifst`");
        check("'train.csv'", "3", "line 3, column 12: expected text");
        check("[run.data]", "[run]\nseed = 1\n[run.data]", "`run.seed` is decided by the sweep");
        check("'clip'", "'a/b'", "method `a/b`: a name has");
        check("'clip'", "'roclip'", "method `roclip` is there twice");
        check("0.4375", "7", "method `roclip`: `epochs_share.method.roclip.match_from_epoch`");
        check("[0.1, 0.2]", "0.1", "method `roclip`: `method.roclip.pool_share` must be a list");
        check(
            "every_epochs = 1\n",
            "",
            "method `stopped`: `stop_at_top1_of` needs `evaluate.every",
        );
        check("every_epochs = 1", "every_epochs = 0", "`evaluate.every_epochs` must be at least 1");
        check("_of = 'roclip'", "_of = 'x'", "`stop_at_top1_of`: `x` is no method that is trained");
        check("epochs_of = 'clip'\n", "", "method `stopped`: `epochs_of` is missing");
        check("'stopped'\n", "'stopped'\nset.seed = 1\n", "`set.seed` is decided by the sweep");
        check("'stopped'\n", "'stopped'\nset.optim.lr = 1\n", "takes neither `set` nor `grid`");
        let stop = "stop_at_top1_of = 'roclip'\nepochs_of = 'clip'\n";
        check(stop, "unpoisoned_of = 'x'\n", "`unpoisoned_of`: `x` is no method that is trained");
        check("epochs_of = 'clip'\n", "unpoisoned_of = 'clip'\n", "a stop are two methods");
        check("set.method.name", "sets.method.name", "unknown field `sets`");
        let begins = |method: &str, other: &str, lines: &str| {
            format!("[[method]]\nname = '{method}'\n{lines}pretrained_of = '{other}'\n")
        };
        let add = |methods: &str, expected: &str| {
            const BEFORE: &str = "[[method]]\nname = 'roclip'";
            check(BEFORE, &format!("{methods}{BEFORE}"), expected);
        };
        add(&begins("b", "x", ""), "`pretrained_of`: `x` is no method that is trained");
        add(&begins("b", "roclip", ""), "`roclip` must be without a `grid` of its own");
        let chain = begins("b", "clip", "") + &begins("c", "b", "");
        add(&chain, "method `c`: `pretrained_of`: `b` begins with the model of another itself");
        let towers = "[[method]]\nname = 'b'\nset.model.image_size = 64\n".to_owned();
        let expected = "method `c`: `pretrained_of`: `b` must be without `set.model`";
        add(&(towers + &begins("c", "b", "")), expected);
        let expected = "method `b`: `set.model.preset` is decided by the sweep";
        add(&begins("b", "clip", "set.model.preset = 'rn50'\n"), expected);
        let expected = "method `b`: `pretrained_of` is for a method that trains";
        add(&begins("b", "clip", "unpoisoned_of = 'clip'\n"), expected);
    }
}

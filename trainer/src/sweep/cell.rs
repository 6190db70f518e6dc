//! One cell of the grid, and its configuration.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{
    grid::{Point, leaves},
    input::{Input, seeded},
    place::Place,
    recipe::{Method, Recipe},
};
use crate::{
    config::{self, Config, Monitor, Parallel},
    error::{Error, Result},
};

/// One attack, one method, one point of the grid, one seed.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Of its folder.
    pub name: String,
    /// By name.
    pub attack: String,
    /// By name.
    pub method: String,
    /// Of data, poison and run.
    pub seed: u64,
    /// What the grid sets.
    pub point: Point,
    /// Whether it waits for another time.
    pub waits: bool,
    /// What is to be done.
    pub work: Work,
}

impl Cell {
    /// Whether it is of this method, with nothing set but what this point sets, too.
    pub(super) fn is_of(&self, method: &str, point: &Point) -> bool {
        self.method == method && point.holds(&self.point)
    }
}

/// What is to be done for a cell.
#[derive(Debug, Clone)]
pub enum Work {
    /// A run and its evaluation.
    Train(Box<Training>),
    /// A look at the epochs of another cell's run.
    Stop {
        /// Cell whose accuracy is to be reached.
        target: usize,
        /// Cell whose run is looked at.
        epochs: usize,
    },
    /// An evaluation of the model of another cell, which has not seen what is planted.
    Unpoisoned {
        /// Cell whose model it is.
        run: usize,
        /// What it is shown, of the plan's poisoned sets.
        poisoning: usize,
        /// Words of `roclip-train`.
        evaluate: Vec<String>,
    },
}

/// A run and its evaluation.
#[derive(Debug, Clone)]
pub struct Training {
    /// Whole, with the folder of the run.
    pub(super) config: Config,
    /// Cell with whose model it begins; without, with new towers.
    pub(super) start: Option<usize>,
    /// What is trained on, of the plan's poisoned sets; without, the clean manifest.
    pub(super) trained_on: Option<usize>,
    /// What it is evaluated by, of the plan's poisoned sets.
    pub(super) shown: Option<usize>,
    /// Words of `roclip-train`.
    pub(super) evaluate: Vec<String>,
}

/// The configuration of a cell, on clean data and without a folder.
pub(super) fn configuration(
    recipe: &Recipe,
    method: &Method,
    point: &Point,
    seed: u64,
) -> Result<Config> {
    let Value::Table(mut table) = seeded(&Value::Table(recipe.run.clone()), seed) else {
        unreachable!("a table stays a table")
    };
    // TOML has no greater numbers, so that the file could not have named such a seed.
    table.insert("seed".into(), Value::Integer(seed as i64));
    let data = table.entry("data").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(data) = data {
        data.entry("workers").or_insert(Value::Integer(1)); // one thread a run
    }
    let settings = settings(recipe, method, point, seed)
        .map_err(|problem| recipe.refuse(format!("method `{}`: {problem}", method.name)))?;
    let text = toml::to_string(&table).map_err(|error| recipe.refuse(error.to_string()))?;
    let config = config::resolve(&recipe.file, &text, &settings, None).map_err(|error| {
        let (place, problems) = match error {
            Error::Config { problems, .. } => ("`[run]`".to_owned(), problems),
            Error::Setting { problems } => (format!("method `{}`", method.name), problems),
            other => return other,
        };
        let problems: Vec<_> =
            problems.into_iter().map(|line| line.replacen("`--set ", "`", 1)).collect();
        recipe.refuse(format!("{place}: {}", problems.join("; ")))
    })?;
    match config.parallel {
        Parallel::Single => Ok(config),
        Parallel::Mpi | Parallel::Nccl => {
            Err(recipe.refuse("`run.parallel` must be `single` in a sweep".into()))
        }
    }
}

/// What a method and a point set, as `--set` takes it; the point comes last.
fn settings(
    recipe: &Recipe,
    method: &Method,
    point: &Point,
    seed: u64,
) -> Result<Vec<String>, String> {
    let line = |key: &str, value: &Value| format!("{key}={}", seeded(value, seed));
    let mut lines: Vec<String> =
        leaves(&method.set).iter().map(|(key, value)| line(key, value)).collect();
    lines.extend(point.0.iter().map(|(key, value)| line(key, value)));
    let epochs = epochs(recipe, method, point)?;
    for (key, share) in leaves(&method.epochs_share) {
        if point.0.iter().any(|(other, _)| *other == key) {
            continue; // the grid wins
        }
        let share = share.as_float().or(share.as_integer().map(|share| share as f64));
        let share = share.ok_or_else(|| format!("`epochs_share.{key}` must be a number"))?;
        lines.push(format!("{key}={}", share_of(epochs, share)));
    }
    Ok(lines)
}

/// Rounded up, at least 2: in the first epoch no method does anything of its own.
fn share_of(epochs: i64, share: f64) -> i64 {
    ((share * epochs as f64 - 1e-9).ceil() as i64).max(2)
}

/// `optim.epochs` of a cell.
fn epochs(recipe: &Recipe, method: &Method, point: &Point) -> Result<i64, String> {
    const KEY: &str = "optim.epochs";
    let own = leaves(&method.set).into_iter().chain(leaves(&recipe.run));
    let own = own.map(|(key, value)| (key, value.clone()));
    let found = point.0.iter().cloned().chain(own).find(|(key, _)| key == KEY);
    match found {
        None => Ok(i64::from(config::Optim::default().epochs)),
        Some((_, value)) => {
            value.as_integer().ok_or_else(|| format!("`{KEY}` must be a whole number"))
        }
    }
}

/// Puts its folder, and what is watched by `ledger`, into the configuration of a cell; the words of
/// `roclip-train` that evaluate its model are the answer.
pub(super) fn watched(
    recipe: &Recipe,
    place: &Place,
    input: &Input,
    name: &str,
    config: &mut Config,
    ledger: Option<PathBuf>,
) -> Vec<String> {
    config.output.folder = place.run(name);
    if let Some(every) = recipe.evaluate.every_epochs {
        config.monitor = Monitor {
            test: Some(input.test.clone()),
            classes: Some(input.classes.clone()),
            templates: input.templates.clone(),
            ledger: ledger.clone(),
            every_epochs: Some(every),
            alarms: config.monitor.alarms.clone(),
        };
    }
    evaluate_words(recipe, input, place.model(name), ledger)
}

pub(super) fn evaluate_words(
    recipe: &Recipe,
    input: &Input,
    model: PathBuf,
    ledger: Option<PathBuf>,
) -> Vec<String> {
    let mut words = vec!["evaluate".to_owned()];
    let given = [
        ("--model", Some(&model)),
        ("--test", Some(&input.test)),
        ("--classes", Some(&input.classes)),
        ("--templates", input.templates.as_ref()),
        ("--ledger", ledger.as_ref()),
        ("--probe-train", input.probe_train.as_ref()),
    ];
    for (flag, path) in given {
        words.extend(path.iter().flat_map(|path| [flag.to_owned(), path.display().to_string()]));
    }
    words.extend(recipe.evaluate.retrieval.then(|| "--retrieval".to_owned()));
    words.extend(["--json", "--no-progress"].map(str::to_owned));
    words
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            grid::points,
            recipe::tests::{GOOD, recipe},
        },
        *,
    };

    #[test]
    fn windows_follow_the_epochs() {
        let check = |epochs, share, expected| assert_eq!(share_of(epochs, share), expected);
        check(16, 7.0 / 16.0, 7);
        check(16, 0.375, 6);
        check(8, 0.4375, 4);
        check(3, 0.1, 2);
        check(1, 1.0, 2);
    }

    #[test]
    fn a_point_wins_over_the_method_and_the_method_over_the_run() -> Result<()> {
        let with = |run: &str, set: &str, pairs: &[(&str, Value)]| {
            let text = GOOD.replace("[evaluate]", &format!("[run.optim]\n{run}\n[evaluate]"));
            let text = text.replace("epochs_share", &format!("{set}\nepochs_share"));
            let recipe = recipe(&text)?;
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            let config = configuration(&recipe, &recipe.methods[1], &Point(pairs.collect()), 7)?;
            Ok::<_, Error>((
                config.seed,
                config.optim.epochs,
                config.method.roclip().match_from_epoch,
            ))
        };
        assert_eq!(with("epochs = 16", "", &[])?, (7, 16, 7));
        assert_eq!(with("epochs = 16", "set.optim.epochs = 8", &[])?, (7, 8, 4));
        let point = [("optim.epochs", Value::Integer(32))];
        assert_eq!(with("epochs = 16", "set.optim.epochs = 8", &point)?, (7, 32, 14));
        let point = [("method.roclip.match_from_epoch", Value::Integer(3))];
        assert_eq!(with("epochs = 16", "", &point)?, (7, 16, 3));
        Ok(())
    }

    /// Of the results in the documentation: keys that are gone would be refused only when somebody
    /// remakes them.
    #[test]
    fn the_recipes_of_the_results_are_configurations() -> Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/results/sweeps");
        let files: Vec<_> = std::fs::read_dir(folder).expect("a folder").flatten().collect();
        assert!(files.len() > 3, "{files:?}");
        for file in files {
            let recipe = Recipe::open(&file.path())?;
            for method in recipe.methods.iter().filter(|method| method.trains()) {
                let axes = recipe.axes(method).expect("known keys");
                for point in points(&axes) {
                    configuration(&recipe, method, &point, recipe.seeds[0])?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_key_that_no_method_has_names_its_method() -> Result<()> {
        let check = |point: (&str, Value), method: usize, expected: &str| -> Result<()> {
            let recipe = recipe(GOOD)?;
            let point = Point(vec![(point.0.to_owned(), point.1)]);
            let error = configuration(&recipe, &recipe.methods[method], &point, 0);
            let error = error.expect_err("refused").to_string();
            assert!(error.ends_with(expected), "{error}");
            Ok(())
        };
        let share = ("method.roclip.pool_share", Value::Float(0.7));
        let key = "method.roclip.pool_share";
        let expected =
            format!("method `roclip`: `{key}=0.7`: `{key}` must be above 0, at most 0.5");
        check(share.clone(), 1, &expected)?;
        check(share, 0, "must be left out unless `method.name` is `roclip`")?;
        check(
            ("optim.epochs", "many".into()),
            1,
            "method `roclip`: `optim.epochs` must be a whole number",
        )
    }
}

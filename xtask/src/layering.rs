//! Which crate may know which, the arrows of `docs/ARCHITECTURE.md`, and what no method may know.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Failure,
    command::{cargo, output},
    root, say,
    tools::cannot,
};

/// Each crate of the workspace and the crates of the workspace that it may import.
const ARROWS: [(&str, &[&str]); 10] = [
    ("clip", &[]),
    ("terminal", &[]),
    ("page", &["terminal"]),
    ("trainer", &["clip", "page", "terminal"]),
    ("exporter", &["clip", "terminal"]),
    ("server", &["clip", "terminal"]),
    ("audit", &["clip", "terminal"]),
    ("examples", &["clip", "page", "terminal"]),
    ("tests", &["clip", "terminal"]),
    ("xtask", &[]),
];

/// What knows who is poisoned is called by, in the trainer: modules, their types, keys.
const LEDGERS: [&str; 6] = ["poison::", "evaluate::", "Poisons", "Ledger", "ledger", "monitor"];

/// Refuses a crate that knows another against the arrows, candle under the server, and a method of
/// training that knows who is poisoned.
pub(crate) fn check() -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for (package, allowed) in ARROWS {
        let tree = tree(package, &["--depth", "1"])?;
        let known = ARROWS.iter().map(|(name, _)| *name).filter(|name| *name != package);
        for other in known.filter(|name| !allowed.contains(name)) {
            if tree.iter().any(|dependency| dependency == other) {
                wrong.push(format!("`{package}` imports `{other}`"));
            }
        }
    }
    let below_server = tree("server", &["--edges", "normal"])?;
    let candle = below_server.iter().filter(|name| name.starts_with("candle"));
    wrong.extend(candle.map(|name| format!("`server` links `{name}`")));
    for file in sources(&root().join("trainer/src/method"))? {
        let text = fs::read_to_string(&file).map_err(|error| cannot("read", &file, &error))?;
        let known = LEDGERS.iter().filter(|name| text.contains(**name));
        let file = file.strip_prefix(root()).unwrap_or(&file).display();
        wrong.extend(known.map(|name| format!("`{file}` knows `{name}`")));
    }
    wrong.sort();
    wrong.dedup();
    match wrong.is_empty() {
        true => {
            say(&format!("layering: {} crates keep to their arrows", ARROWS.len()));
            Ok(())
        }
        false => Err(Failure::Bad(format!("layering: {}", wrong.join(", ")))),
    }
}

/// Files of Rust below `folder`.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refuse = |error| cannot("read", folder, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Names of the packages in the dependency tree of `package`.
fn tree(package: &str, options: &[&str]) -> Result<Vec<String>, Failure> {
    let mut command = cargo(&["tree", "--package", package, "--prefix", "none"]);
    let text = output(command.args(options))?;
    let names: Vec<_> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    match names.first().is_some_and(|first| first == package) {
        true => Ok(names),
        false => Err(Failure::Bad(format!("`cargo tree` did not answer for `{package}`"))),
    }
}

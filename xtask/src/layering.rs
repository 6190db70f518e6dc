//! Which crate may know which: the arrows of `docs/ARCHITECTURE.md`.

use crate::{
    Failure,
    command::{cargo, output},
    say,
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

/// Refuses a crate that knows another against the arrows, and candle under the server.
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

//! A training step of ours beside PyTorch's: `scripts/bench-train`.

use std::{ffi::OsString, path::PathBuf, process::Command};

use crate::{
    Failure,
    command::{artifact, cargo, messages, run, with_tools},
    peers::PEERS,
    root, say,
};

/// Makes the peers' environment, builds our half, and runs the comparison; `arguments` go to it.
pub(crate) fn compare(arguments: Vec<OsString>) -> Result<(), Failure> {
    PEERS.set_up()?;
    let mut bench = Command::new(PEERS.interpreter());
    bench.args(["-B", "scripts/bench_train/bench.py", "--ours"]).arg(ours()?); // -B: no caches there
    with_tools(bench.args(arguments).current_dir(root()));
    run(&mut bench)
}

/// What the tests are built with: alone, the trainer would have candle compiled anew with fewer
/// features.
pub(crate) const TOGETHER: [&str; 3] = ["--workspace", "--exclude", "server"];

/// Builds `trainer/benches/side_by_side` and returns the program.
fn ours() -> Result<PathBuf, Failure> {
    say("building the benchmark (a first build takes several minutes)");
    let mut build = cargo(&["build", "--release"]);
    build.args(TOGETHER).args(["--bench", "side_by_side"]);
    artifact(&messages(&mut build)?, "side_by_side")
}

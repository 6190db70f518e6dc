//! Reading pictures beside PyTorch's DataLoader: `scripts/bench-loader`.

use std::{ffi::OsString, process::Command};

use crate::{
    Failure,
    bench_train::TOGETHER,
    command::{artifact, cargo, messages, run, with_tools},
    peers::PEERS,
    root, say,
};

/// Makes the peers' environment, builds our half, and runs the comparison; `arguments` go to it.
pub(crate) fn compare(arguments: Vec<OsString>) -> Result<(), Failure> {
    PEERS.set_up()?;
    say("building the benchmark (a first build takes several minutes)");
    let mut build = cargo(&["build", "--release"]);
    build.args(TOGETHER).args(["--bench", "reading"]);
    let ours = artifact(&messages(&mut build)?, "reading")?;
    let mut bench = Command::new(PEERS.interpreter());
    bench.args(["-B", "scripts/bench_loader/bench.py", "--ours"]).arg(ours); // -B: no caches there
    with_tools(bench.args(arguments).current_dir(root()));
    run(&mut bench)
}

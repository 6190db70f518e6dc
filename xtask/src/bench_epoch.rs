//! An epoch of `roclip` beside one of `clip`, and the loader's share: `scripts/bench-epoch`.

use std::ffi::OsString;

use crate::{
    Failure,
    bench_train::TOGETHER,
    command::{cargo, run},
    say,
};

/// Builds and runs `trainer/benches/epoch`; `arguments` go to it.
pub(crate) fn measure(arguments: Vec<OsString>) -> Result<(), Failure> {
    say("building the benchmark (a first build takes several minutes)");
    let mut bench = cargo(&["bench"]);
    run(bench.args(TOGETHER).args(["--bench", "epoch", "--"]).args(arguments))
}

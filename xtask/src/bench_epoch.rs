//! An epoch of `roclip` beside one of `clip`, and the loader's share: `scripts/bench-epoch`.

use std::ffi::OsString;

use crate::{
    Failure,
    command::{cargo, run},
    say,
};

/// Builds and runs `trainer/benches/epoch`; `arguments` go to it.
pub(crate) fn measure(arguments: Vec<OsString>) -> Result<(), Failure> {
    say("building the benchmark (a first build takes several minutes)");
    run(cargo(&["bench", "--package", "trainer", "--bench", "epoch", "--"]).args(arguments))
}

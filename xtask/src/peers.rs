//! Other software on our model folders and captions, live: torch, transformers, open_clip.

use std::{ffi::OsString, process::Command};

use crate::{
    Failure, build,
    command::{release_folder, run, with_tools},
    python::Environment,
    root,
};

/// Torch and what is compared with it.
pub(crate) const PEERS: Environment = Environment {
    name: "peers-python",
    requirements: "scripts/peers/requirements.txt",
    keeps_wheels: false, // torch alone is gigabytes
};

/// Makes the peers' environment and runs the comparisons; `arguments` go to that of models.
pub(crate) fn compare(arguments: Vec<OsString>) -> Result<(), Failure> {
    PEERS.set_up()?;
    build::programs()?;
    let mut check = Command::new(PEERS.interpreter());
    check.arg("scripts/peers/check.py").args(arguments).current_dir(root());
    with_tools(&mut check);
    run(&mut check)?;
    let mut check = Command::new(PEERS.interpreter());
    check
        .arg("scripts/tokenizer/check.py")
        .arg("--tokenize")
        .arg(release_folder().join("tokenize"));
    run(check.current_dir(root()))
}

//! The release binaries, and the demo that drives them.

use std::{ffi::OsString, fs, process::Command};

use crate::{
    Failure,
    command::{cargo, release_folder, run, with_tools},
    say,
};

/// Builds every program. The server is built alone: built together, it would be linked with the
/// `clip` that carries candle for the others (cargo unifies features within one build).
pub(crate) fn binaries() -> Result<(), Failure> {
    programs()?;
    server()
}

/// Builds all programs but the server, with the features that the tests of the workspace use, so
/// that nothing is compiled twice.
pub(crate) fn programs() -> Result<(), Failure> {
    say("building the release binaries (a first build takes several minutes)");
    run(&mut cargo(&["build", "--release", "--workspace", "--exclude", "server"]))
}

/// Builds the server and looks for candle in what came out.
pub(crate) fn server() -> Result<(), Failure> {
    run(&mut cargo(&["build", "--release", "--package", "server"]))?;
    let binary = release_folder().join("roclip-serve");
    let bytes = fs::read(&binary).map_err(|error| {
        Failure::Refused(format!("cannot read `{}`: {error}", binary.display()))
    })?;
    for name in ["candle_core", "candle-core"] {
        if bytes.windows(name.len()).any(|window| window == name.as_bytes()) {
            return Err(Failure::Bad(format!("`roclip-serve` holds `{name}`: it was linked in")));
        }
    }
    Ok(())
}

/// Becomes the demo.
pub(crate) fn exec_demo(arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut demo = Command::new(release_folder().join("demo"));
    with_tools(demo.args(arguments));
    become_program(&mut demo)
}

#[cfg(unix)]
fn become_program(command: &mut Command) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;
    let error = command.exec(); // returns only if it failed
    Err(Failure::Refused(format!("cannot start `demo`: {error}")))
}

#[cfg(not(unix))]
fn become_program(command: &mut Command) -> Result<(), Failure> {
    run(command)
}

//! The repository's own commands; `cargo xtask` lists them.
//!
//! | module | holds |
//! |---|---|
//! | [`tools`] | protoc and ONNX Runtime out of pinned Python wheels |
//! | [`python`] | Python environments for the tests that ask other software |
//! | [`build`] · [`test`] · [`peers`] | release binaries · gates and tests · live peers |
//! | [`mpi`] | training by several processes |
//! | [`bench_epoch`] · [`bench_train`] | an epoch of both methods · a training step beside PyTorch's |
//! | [`bench_loader`] | reading pictures beside PyTorch's |
//! | [`gpu`] | programs for machines with an NVIDIA GPU, and what measures them there |
//! | [`layering`] | which crate may know which, and what no method of training may know |
//! | [`command`] | running other programs |

mod bench_epoch;
mod bench_loader;
mod bench_train;
mod build;
mod command;
mod gpu;
mod layering;
mod mpi;
mod peers;
mod python;
mod test;
mod tools;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

const HELP: &str = "\
The repository's own commands

Usage: cargo xtask <COMMAND> [ARGUMENTS]

Commands:
  setup        Bring protoc and ONNX Runtime (pinned, checked, kept in tools/)
  demo         Set up, build, and walk the whole road; arguments go to the demo (`demo --help`)
  test         Set up, build, and run the gates and all tests
  peers        Compare with torch, transformers and open_clip, live, in an environment of their own
  bench-epoch  Time epochs of both methods, and the loader's share; `bench-epoch --help`
  bench-loader Time reading pictures beside PyTorch's, on one core; `bench-loader --help`
  bench-train  Time a training step beside PyTorch's, on the CPU; `bench-train --help`
  gpu-build    Build `roclip-train` for machines with an NVIDIA GPU, in a folder of its own
  gpu-suite    Pack and run what measures training on a GPU; without one, a rehearsal
  null-models  Train the clean models whose statistics the audit ships
  mpi          Build and test training by several processes, with the machine's Open MPI
  layering     Check who knows whom
";

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A gate or a test failed: exit 1.
    Bad(String),
    /// Could not be done on this machine or as asked: exit 2.
    Refused(String),
}

/// Top folder of the repository.
pub(crate) fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().expect("xtask lies in the repository").to_owned()
}

/// One line for people.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}"); // nobody is left to tell
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let (message, code) = match run(&command.to_string_lossy(), arguments.collect()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Bad(message)) => (message, 1),
        Err(Failure::Refused(message)) => (message, 2),
    };
    say(&format!("error: {message}"));
    ExitCode::from(code)
}

fn run(command: &str, arguments: Vec<OsString>) -> Result<(), Failure> {
    match command {
        "demo" => {
            tools::set_up()?;
            build::binaries()?;
            return build::exec_demo(arguments);
        }
        "null-models" => {
            tools::set_up()?;
            build::binaries()?;
            return build::exec_demo([vec!["null-models".into()], arguments].concat());
        }
        "peers" => {
            tools::set_up()?;
            return peers::compare(arguments);
        }
        "bench-epoch" => {
            tools::set_up()?;
            return bench_epoch::measure(arguments);
        }
        "bench-loader" => {
            tools::set_up()?;
            return bench_loader::compare(arguments);
        }
        "bench-train" => {
            tools::set_up()?;
            return bench_train::compare(arguments);
        }
        "gpu-suite" => return gpu::suite(arguments),
        _ => {}
    }
    if let Some(extra) = arguments.first() {
        let extra = extra.to_string_lossy();
        return Err(Failure::Refused(format!("`{command}` takes no arguments, got `{extra}`")));
    }
    match command {
        "setup" => {
            tools::set_up()?;
            say("everything that a build needs is here");
            Ok(())
        }
        "gpu-build" => gpu::build(),
        "test" => test::everything(),
        "layering" => layering::check(),
        "mpi" => {
            tools::set_up()?;
            mpi::check()
        }
        "" | "help" | "-h" | "--help" => {
            let _ = io::stdout().write_all(HELP.as_bytes()); // a closed pipe is no error
            Ok(())
        }
        _ => {
            Err(Failure::Refused(format!("no command `{command}`; `cargo xtask help` lists them")))
        }
    }
}

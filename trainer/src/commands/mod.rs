//! One subcommand each: resolve what was typed, call the engine, print what came of it.

use terminal::{Exit, Report};

use crate::cli::Command;

pub mod evaluate;
pub mod poison;
mod reading;
pub mod report;
pub mod run;
pub mod sweep;

pub(crate) fn dispatch(command: &Command) -> Result<Exit, Report> {
    match command {
        Command::Poison(args) => poison::run(args),
        Command::Run(args) => run::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Report(args) => report::run(args),
    }
}

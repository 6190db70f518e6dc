//! The README's first command: the whole road on small pictures, driving the four programs as a
//! user would.
//!
//! `shapes` or the user's own manifests → `roclip-train poison` → for each method of [`recipe`]:
//! `roclip-train run` and `evaluate` → `roclip-export` → `roclip-serve`, asked over HTTP →
//! `roclip-audit endpoint` and `model` → [`table`], `summary.json`, `report.html`.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | what may be typed |
//! | [`shapes`] · [`data`] | the generator · manifests, labels and pictures of one run |
//! | [`recipe`] | the methods and their `run.toml` |
//! | [`road`] · [`method`] | the steps that all methods share · the steps of one method |
//! | [`programs`] · [`board`] · [`journal`] | child processes · what the terminal shows · metrics |
//! | [`server`] | one running `roclip-serve` |
//! | [`summary`] · [`table`] · [`report`] | the results and their forms |
//! | [`null_models`] | clean models of the same family, for the audit's null statistics |

mod board;
mod cli;
mod data;
mod journal;
mod method;
mod null_models;
mod programs;
mod recipe;
mod report;
mod road;
mod server;
mod shapes;
mod summary;
mod table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    terminal::run("demo", || {
        let cli = cli::Cli::parse();
        match &cli.command {
            None => road::walk(&cli.road),
            Some(cli::Command::Shapes(args)) => data::generate_only(args),
            Some(cli::Command::NullModels(args)) => null_models::train_and_search(args),
        }
    })
}

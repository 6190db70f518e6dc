//! `roclip-audit`: looks for an exploitable trigger in a CLIP model or behind an endpoint.
//!
//! The data path of `model`: folder → [`clip::model`] → [`detector`] (search, then held-out
//! verification) → [`calibration`] (against clean models) → [`verdict`] → [`report`].
//! The data path of `endpoint`: URL → [`endpoint::client`] → [`endpoint::catalog`] (known triggers
//! and their matched controls) → [`endpoint::race`] (sequential test) → [`verdict`] → [`report`].
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] · [`commands`] | what may be typed · one subcommand each |
//! | [`verdict`] | finding, no finding or cannot tell: one table for text, JSON and exit code |
//! | [`calibration`] | p-values from the statistics of clean models, shipped in `null/` |
//! | [`family`] | differentiable trigger families |
//! | [`detector`] | gradient inversion and the statistics drawn from it |
//! | [`endpoint`] | requests, catalogue, sequential tests |
//! | [`images`] | the user's probe images |
//! | [`report`] | renderers of one [`verdict::Audit`] |
//!
//! Deliberately absent: a claim about who planted what. A clean model can have an exploitable
//! trigger too, so a finding says "exploitable trigger found".

pub mod calibration;
pub mod cli;
pub mod commands;
pub mod detector;
pub mod endpoint;
pub mod error;
pub mod family;
pub mod images;
pub mod report;
pub mod verdict;

use clap::Parser;
use terminal::{Exit, Report};

use crate::cli::{Cli, Command};

pub use error::{Error, Result};

/// Parses the command line and runs what was asked.
pub fn run() -> Result<Exit, Report> {
    match Cli::parse().command {
        Command::Endpoint(args) => commands::endpoint::run(&args),
        Command::Model(args) => commands::model::run(&args),
        Command::Null(args) => commands::null::run(&args),
    }
}

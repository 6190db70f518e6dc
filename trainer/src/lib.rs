//! `roclip-train`: poisons a set of captioned pictures, trains CLIP on it, counts what came of it.
//!
//! The data path of `poison`: manifest → [`poison`] (plan, then files) → manifest and ledger; of
//! `run`: manifest → [`data`] → [`augment`] → [`step`], where [`method`] turns both towers'
//! embeddings into a loss → [`checkpoint`], [`journal`] and a model folder; of `evaluate`: model
//! folder, test manifest and ledger → [`evaluate`]; of `sweep`: sweep.toml → cells → these three as
//! child processes → results; of `report`: folders of sweeps and runs → one page.
//!
//! | module | holds |
//! |---|---|
//! | `cli` · [`commands`] | what may be typed · one subcommand each |
//! | [`config`] | run.toml: types, defaults, presets, all problems at once |
//! | [`data`] · `input` | manifests and shards; order, threads and batches · what a run reads |
//! | [`augment`] | how pictures and captions are varied, drawn by (seed, epoch, row) |
//! | [`poison`] | which rows are poisoned and with what, written as a whole |
//! | [`step`] · [`train`] | one optimizer step for any method · epochs around it |
//! | [`grad_cache`] · [`not_finite`] | a batch in parts · what ends a step |
//! | [`method`] · [`pool`] | CLIP and every defence of it · FIFO of embeddings |
//! | [`survey`] | pairs embedded without training |
//! | [`doubted`] · [`skipped`] | the pairs that a method does not trust · that cannot be used |
//! | [`parallel`] | several processes, each with its part of every batch |
//! | [`optim`] · [`gpu`] | AdamW with its state, schedule · the GPU of a run |
//! | [`pretrained`] | the model that a run begins with |
//! | [`checkpoint`] · [`state`] · [`journal`] | what makes a resumed run the same run · step
//! records |
//! | [`monitor`] | what is watched during training, and alarms; a ledger comes as far as here |
//! | [`evaluate`] | zero-shot, probes, retrieval, attack success, each with its interval |
//! | [`sweep`] · [`report`] | grids of experiments from one file · one page of what came of them |
//!
//! Deliberately absent: serving, export, audit; and a defence that opens a ledger.

use std::process::ExitCode;

use clap::Parser;

pub mod augment;
pub mod checkpoint;
mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod doubted;
pub mod error;
pub mod evaluate;
pub mod gpu;
pub mod grad_cache;
mod input;
pub mod journal;
pub mod method;
pub mod monitor;
pub mod not_finite;
pub mod optim;
pub mod parallel;
pub mod poison;
pub mod pool;
pub mod pretrained;
pub mod report;
pub mod skipped;
pub mod state;
pub mod step;
pub mod survey;
pub mod sweep;
pub mod train;

pub use error::{Error, Result};

/// Parses the command line and runs what was asked.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    terminal::run("roclip-train", || commands::dispatch(&cli.command))
}

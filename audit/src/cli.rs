//! What may be typed. A field's first doc line is its help.

use std::{env, path::PathBuf};

use clap::{Args, Parser, Subcommand, value_parser};
use clip::trigger::{GRAMMAR, TriggerSpec};
use ureq::http::{HeaderName, HeaderValue};

use crate::endpoint::client::Header;

/// What the exit codes of an audit mean; `null` has 0 and 2 alone.
const CODES: &str = "Exit codes: 0 no finding, 1 finding, 2 could not be run, 3 cannot tell.";
const NULL_CODES: &str = "Exit codes: 0 written, 2 could not be run.";

/// Looks for an exploitable trigger in a CLIP model or behind an endpoint
#[derive(Debug, Parser)]
#[command(name = "roclip-audit", version, after_help = CODES)]
pub struct Cli {
    /// What is audited
    #[command(subcommand)]
    pub command: Command,
}

/// One subcommand each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stamps known triggers on your images and sends them to an endpoint
    Endpoint(EndpointArgs),
    /// Searches a trigger through the weights of a model
    Model(ModelArgs),
    /// Searches clean models in the same way and writes their statistics
    Null(NullArgs),
}

/// What every audit needs.
#[derive(Debug, Args)]
pub struct Probe {
    /// Folder of probe images (PNG, JPEG, WebP), those of its subfolders included; no labels needed
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// File of labels, one per line
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// File of prompt templates, one per line, each with one `{}`
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Hides the progress
    #[arg(long)]
    pub no_progress: bool,
}

/// `roclip-audit endpoint`
#[derive(Debug, Args)]
#[command(after_help = CODES, after_long_help = format!("{GRAMMAR}\n\n{CODES}"))]
pub struct EndpointArgs {
    /// Address of a server with `POST /v1/classify`, such as http://127.0.0.1:8080
    pub url: String,
    /// Images, labels, seed.
    #[command(flatten)]
    pub probe: Probe,
    /// Side of the model's input in pixels, where the endpoint does not tell it
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(8..=8192))]
    pub image_size: Option<u32>,
    /// `default`, or a trigger such as patch:size=7,at=bottom-right; may be repeated; `--help` has
    /// the grammar
    #[arg(long, value_name = "ENTRY", default_value = "default", value_parser = catalog_entry)]
    pub catalog: Vec<CatalogEntry>,
    /// Images that may be sent
    #[arg(long, value_name = "N", default_value_t = 12_000)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    pub queries: u64,
    /// Header of every request, with what an environment variable holds, such as
    /// Authorization=AUDIT_TOKEN; may be repeated
    #[arg(long = "header", value_name = "NAME=VARIABLE", value_parser = header)]
    pub headers: Vec<Header>,
    /// Seconds to wait for one answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = value_parser!(u64).range(1..=3600))]
    pub timeout_s: u64,
    /// Prints one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `roclip-audit model`
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct ModelArgs {
    /// Model folder
    pub model: PathBuf,
    /// Images, labels, seed.
    #[command(flatten)]
    pub probe: Probe,
    /// More null statistics, beside those that are built in
    #[arg(long, value_name = "FILE")]
    pub null: Option<PathBuf>,
    /// Writes a picture of the recovered trigger
    #[arg(long, value_name = "FILE")]
    pub trigger_png: Option<PathBuf>,
    /// Prints one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `roclip-audit null`
#[derive(Debug, Args)]
#[command(after_help = NULL_CODES)]
pub struct NullArgs {
    /// Folders of clean models, all of one tower family
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Images, labels, seed.
    #[command(flatten)]
    pub probe: Probe,
    /// File that the statistics go to
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How the models were trained, for the record
    #[arg(long, value_name = "TEXT", default_value = "not told")]
    pub training: String,
}

/// An element of `--catalog`.
#[derive(Debug, Clone, PartialEq)]
pub enum CatalogEntry {
    /// Everything that comes with the program.
    Default,
    /// One trigger.
    Trigger(TriggerSpec),
}

/// A secret has no place among the arguments, which every process of the machine can read.
fn header(text: &str) -> Result<Header, String> {
    let (name, variable) = text.split_once('=').ok_or("expected NAME=VARIABLE")?;
    let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header's name"))?;
    let held = env::var(variable).map_err(|_| format!("`{variable}` is not set, or no text"))?;
    let mut value: HeaderValue =
        held.parse().map_err(|_| format!("what `{variable}` holds cannot be a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn catalog_entry(text: &str) -> Result<CatalogEntry, clip::Error> {
    match text {
        "default" => Ok(CatalogEntry::Default),
        spec => spec.parse().map(CatalogEntry::Trigger),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_with_the_exit_codes() {
        let mut program = Cli::command();
        let ends = |help: String, codes: &str| assert!(help.trim_end().ends_with(codes), "{help}");
        ends(program.render_help().to_string(), CODES);
        for (name, codes) in [("endpoint", CODES), ("model", CODES), ("null", NULL_CODES)] {
            let command = program.find_subcommand_mut(name).expect(name);
            ends(command.render_help().to_string(), codes);
            ends(command.render_long_help().to_string(), codes);
        }
    }

    #[test]
    fn a_catalogue_is_the_default_or_what_was_typed() {
        let parse = |more: &[&str]| {
            let start = ["roclip-audit", "endpoint", "http://h", "--images", "i", "--labels", "l"];
            match Cli::try_parse_from(start.iter().chain(more))?.command {
                Command::Endpoint(args) => Ok(args.catalog),
                _ => unreachable!("endpoint was typed"),
            }
        };
        let check = |more: &[&str], expected: &[CatalogEntry]| {
            assert_eq!(parse(more).expect("typed well"), expected);
        };
        let patch = || CatalogEntry::Trigger("patch:size=3".parse().expect("a trigger"));
        check(&[], &[CatalogEntry::Default]);
        check(&["--catalog", "patch:size=3"], &[patch()]);
        check(
            &["--catalog", "patch:size=3", "--catalog", "default"],
            &[patch(), CatalogEntry::Default],
        );
        let error: clap::Error = parse(&["--catalog", "patch:size=x"]).expect_err("not a size");
        assert!(error.to_string().contains("patch:size=x"), "{error}");
    }
}

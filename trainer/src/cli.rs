//! What may be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::RangedU64ValueParser, value_parser};
use clip::trigger::TriggerSpec;

/// What the exit codes of `run` mean; the other subcommands have no 1.
const RUN_CODES: &str = "Exit codes: 0 done, 1 the run diverged, 2 could not be done as asked.";
const CODES: &str = "Exit codes: 0 done, 2 could not be done as asked.";

/// Poisons captioned pictures, trains CLIP on them, counts what came of it
#[derive(Debug, Parser)]
#[command(name = "roclip-train", version, after_help = RUN_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One subcommand each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Poison(PoisonArgs),
    Run(RunArgs),
    Evaluate(EvaluateArgs),
}

/// Plants a backdoor and targeted poisons in a manifest
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct PoisonArgs {
    /// Clean training manifest: CSV with `path,caption` and optionally `class`
    #[arg(long, value_name = "CSV")]
    pub manifest: PathBuf,
    /// Folder to make: train.csv, images/ and ledger.json
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Class names, one per line
    #[arg(long, value_name = "FILE")]
    pub classes: PathBuf,
    /// Test manifest with classes, the source of the targeted pictures
    #[arg(long, value_name = "CSV", requires = "targeted_images")]
    pub test: Option<PathBuf>,
    /// Backdoored rows as a share of the clean rows; 0 plants no backdoor
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub backdoor_rate: f64,
    /// Class that the trigger shall mean
    #[arg(long, value_name = "NAME", requires = "backdoor_rate")]
    pub target_class: Option<String>,
    /// Change of a picture that shall activate the backdoor
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "patch:size=7,at=bottom-right",
        requires = "backdoor_rate"
    )]
    pub trigger: TriggerSpec,
    /// Test pictures that get a wrong class each; 0 plants none
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = count(0))]
    pub targeted_images: usize,
    /// Rows added for each of these pictures, at least 1
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 10,
        value_parser = count(1),
        requires = "targeted_images"
    )]
    pub targeted_captions: usize,
    /// Side of the written pictures, in pixels; what the image tower sees
    #[arg(long, value_name = "PIXELS", value_parser = value_parser!(u32).range(1..=4096))]
    pub image_size: u32,
    /// Decides rows, captions, places and order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Replace an earlier result of this command
    #[arg(long)]
    pub force: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
}

/// Trains a model as a run.toml says
#[derive(Debug, Args)]
#[command(after_help = RUN_CODES)]
pub struct RunArgs {
    /// The run's configuration
    #[arg(long, value_name = "TOML")]
    pub config: PathBuf,
    /// Overrides one key of it, as in `optim.lr=1e-3`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Output folder, instead of the configuration's
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Continue from the last checkpoint of the output folder, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
    /// Print errors and results only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Counts zero-shot accuracy and attack success of a model folder
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct EvaluateArgs {
    /// Model folder
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Test manifest with classes
    #[arg(long, value_name = "CSV")]
    pub test: PathBuf,
    /// Class names, one per line
    #[arg(long, value_name = "FILE")]
    pub classes: PathBuf,
    /// Prompt templates, one per line, `{}` for the class [default: `a photo of a {}.`]
    #[arg(long, value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Ledger of the poisons, to count attack success; targeted pictures then count in it alone
    #[arg(long, value_name = "JSON")]
    pub ledger: Option<PathBuf>,
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
}

fn count(min: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min..=1_000_000)
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_help_ends_with_the_exit_codes() {
        Cli::command().debug_assert();
        let mut program = Cli::command();
        let ends = |help: String, codes: &str| assert!(help.trim_end().ends_with(codes), "{help}");
        ends(program.render_long_help().to_string(), RUN_CODES);
        for (name, codes) in [("poison", CODES), ("run", RUN_CODES), ("evaluate", CODES)] {
            let command = program.find_subcommand_mut(name).expect(name);
            ends(command.render_help().to_string(), codes);
            ends(command.render_long_help().to_string(), codes);
        }
    }
}

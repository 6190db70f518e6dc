//! What may be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::RangedU64ValueParser, value_parser};
use clip::trigger::TriggerSpec;

/// Poisons captioned pictures, trains CLIP on them, counts what came of it
#[derive(Debug, Parser)]
#[command(name = "roclip-train", version)]
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

/// Counts what a model folder can do, and what attacks made of it
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Model folder
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Test manifest, with classes if there are `--classes`; rows of one path are one picture
    #[arg(long, value_name = "CSV")]
    pub test: PathBuf,
    /// Class names, one per line; without, only retrieval is measured
    #[arg(long, value_name = "FILE", required_unless_present = "retrieval")]
    pub classes: Option<PathBuf>,
    /// Prompt templates, one per line, `{}` for the class, or `imagenet` for OpenAI's 80
    /// [default: `a photo of a {}.`]
    #[arg(long, value_name = "FILE", requires = "classes")]
    pub templates: Option<PathBuf>,
    /// Ledger of the poisons, to count attack success; targeted pictures then count in it alone
    #[arg(long, value_name = "JSON", requires = "classes")]
    pub ledger: Option<PathBuf>,
    /// Training manifest with classes, to train linear probes on
    #[arg(long, value_name = "CSV", requires = "classes")]
    pub probe_train: Option<PathBuf>,
    /// Measure how pictures find their captions, and captions their pictures
    #[arg(long)]
    pub retrieval: bool,
    /// Folder of a model that was not poisoned, for the same figures beside
    #[arg(long, value_name = "FOLDER")]
    pub reference: Option<PathBuf>,
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

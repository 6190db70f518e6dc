//! What may be typed.

use std::{iter, path::PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{RangedU64ValueParser, StringValueParser, TypedValueParser},
    value_parser,
};
use clip::trigger::{GRAMMAR, TriggerSpec};

/// What the exit codes of `run` mean; `sweep` has another 1, the other subcommands have none.
const RUN_CODES: &str = "Exit codes: 0 done, 1 the run diverged, 2 could not be done as asked.";
const SWEEP_CODES: &str = "Exit codes: 0 done, 1 some cells failed, 2 could not be done as asked.";
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
    Poison(Box<PoisonArgs>),
    Run(RunArgs),
    Evaluate(EvaluateArgs),
    Sweep(SweepArgs),
    Report(ReportArgs),
}

/// Plants a backdoor and targeted poisons in a manifest
#[derive(Debug, Args)]
#[command(after_help = CODES, after_long_help = format!("{GRAMMAR}\n\n{CODES}"))]
pub struct PoisonArgs {
    /// Clean training manifest: CSV, TSV or Parquet with `path,caption` and optionally `class`, or
    /// tar shards
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Folder to make: train.csv (of shards train.tar), images/ and ledger.json
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Class names, one per line
    #[arg(long, value_name = "FILE")]
    pub classes: PathBuf,
    /// Test manifest with classes, the source of the targeted pictures
    #[arg(long, value_name = "FILE", requires = "targeted_images")]
    pub test: Option<PathBuf>,
    /// Side of the written pictures, in pixels; what the image tower sees
    #[arg(long, value_name = "PIXELS", value_parser = value_parser!(u32).range(1..=4096))]
    pub image_size: u32,
    /// Decides rows, captions, triggers and order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Replace an earlier result of this command
    #[arg(long)]
    pub force: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
    /// How manifests are read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// A trigger that means a class.
    #[command(flatten)]
    pub backdoor: BackdoorArgs,
    /// Pictures that are taken for other classes.
    #[command(flatten)]
    pub targeted: TargetedArgs,
    /// How poisons are worded.
    #[command(flatten)]
    pub captions: CaptionArgs,
    /// What an attacker does who knows the defence.
    #[command(flatten)]
    pub adaptive: AdaptiveArgs,
}

/// A trigger that means a class.
#[derive(Debug, Args)]
#[command(next_help_heading = "Backdoor")]
pub struct BackdoorArgs {
    /// Backdoored rows as a share of the clean rows; 0 plants no backdoor
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub backdoor_rate: f64,
    /// Class that the trigger shall mean
    #[arg(long, value_name = "NAME", requires = "backdoor_rate")]
    pub target_class: Option<String>,
    /// Change of a picture that shall activate the backdoor; `--help` has the grammar
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "patch:size=7,at=bottom-right",
        requires = "backdoor_rate"
    )]
    pub trigger: TriggerSpec,
    /// Stamp rows whose own caption contains the target's name, and keep the caption
    #[arg(long, requires = "backdoor_rate")]
    pub label_consistent: bool,
    /// Whether backdoored rows take the place of their clean ones or are added
    #[arg(long, value_name = "WHERE", default_value = "replace", requires = "backdoor_rate")]
    pub backdoor_rows: Rows,
}

/// Pictures that are taken for other classes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Targeted poisons")]
pub struct TargetedArgs {
    /// Test pictures that get a wrong class each; 0 plants none
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = count(0))]
    pub targeted_images: usize,
    /// Rows with each of these pictures, at least 1
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 10,
        value_parser = count(1),
        requires = "targeted_images"
    )]
    pub targeted_captions: usize,
    /// Whether targeted rows are added, or as many clean rows, drawn evenly, make room
    #[arg(long, value_name = "WHERE", default_value = "add", requires = "targeted_images")]
    pub targeted_rows: Rows,
}

/// How poisons are worded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Captions")]
pub struct CaptionArgs {
    /// Captions from templates, one per line with `{}` for the class, instead of from the data
    #[arg(long, value_name = "FILE", conflicts_with = "bridge")]
    pub caption_templates: Option<PathBuf>,
    /// A row is of a class if its caption contains the name as whole words, even where the
    /// manifest has classes
    #[arg(long)]
    pub by_caption: bool,
}

/// What an attacker does who knows the defence.
#[derive(Debug, Args)]
#[command(next_help_heading = "Against defences that compare pairs")]
pub struct AdaptiveArgs {
    /// Captions that join what the picture shows, by its own caption, with the target's name
    #[arg(long, conflicts_with = "label_consistent")]
    pub bridge: bool,
    /// Rows that each attack adds with near-duplicates of its bridge captions on other pictures
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = count(0))]
    #[arg(requires = "bridge")]
    pub flood: usize,
    /// Take pictures that the surrogate sees near the target class instead of any
    #[arg(long, requires = "surrogate", conflicts_with = "label_consistent")]
    pub near: bool,
    /// Steps in which the surrogate is asked for the pixels of the patch; 0 keeps its pattern
    #[arg(long, value_name = "STEPS", default_value_t = 0, requires = "surrogate")]
    #[arg(value_parser = value_parser!(u32).range(..=100_000))]
    pub optimize_patch: u32,
    /// Model folder of the attacker, for `--near` and `--optimize-patch`
    #[arg(long, value_name = "FOLDER")]
    pub surrogate: Option<PathBuf>,
}

/// What becomes of clean rows where poisons are planted.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Rows {
    /// The set keeps its size.
    Replace,
    /// The set grows.
    Add,
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

/// Counts what a model folder can do, and what attacks made of it
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct EvaluateArgs {
    /// Model folder
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Test manifest or shards, with classes if there are `--classes`; rows of one path are one
    /// picture
    #[arg(long, value_name = "FILE")]
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
    /// Training manifest or shards with classes, to train linear probes on
    #[arg(long, value_name = "FILE", requires = "classes")]
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
    /// How manifests are read.
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How manifests are read, as `[data]` has it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Manifests")]
pub struct ReadingArgs {
    /// Column of the paths of pictures [default: path]
    #[arg(long, value_name = "COLUMN")]
    pub image_key: Option<String>,
    /// Column of captions, and their key in a sample's `.json` [default: caption]
    #[arg(long, value_name = "COLUMN")]
    pub caption_key: Option<String>,
    /// Column of classes [default: class]
    #[arg(long, value_name = "COLUMN")]
    pub class_key: Option<String>,
    /// Folder in which `.tar.gz` shards are unpacked, each once
    #[arg(long, value_name = "FOLDER")]
    pub cache_folder: Option<PathBuf>,
}

/// Runs a grid of experiments: poisons, trains, evaluates, and counts over seeds
#[derive(Debug, Args)]
#[command(after_help = SWEEP_CODES)]
pub struct SweepArgs {
    /// The sweep's file
    #[arg(long, value_name = "TOML")]
    pub config: PathBuf,
    /// Folder of the results; one of the same sweep is continued [default: the file's name without
    /// its extension, beside it]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Runs that go on at one time, one thread each [default: as many as there are cores, one on a
    /// GPU]
    #[arg(long, value_name = "COUNT", value_parser = count(1))]
    pub jobs: Option<usize>,
    /// Do the cells of these attacks alone, by name; the others wait for another time
    #[arg(long = "attack", value_name = "NAMES", value_delimiter = ',', value_parser = name())]
    pub attacks: Vec<String>,
    /// Do the cells of these methods alone, by name; the others wait for another time
    #[arg(long = "method", value_name = "NAMES", value_delimiter = ',', value_parser = name())]
    pub methods: Vec<String>,
    /// Check the cells that would be done, list them, do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
}

/// Draws sweeps and runs on one HTML page that needs nothing else
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct ReportArgs {
    /// Folders of sweeps or of runs
    #[arg(value_name = "FOLDER", required = true)]
    pub folders: Vec<PathBuf>,
    /// The page, replaced if it is there
    #[arg(long, value_name = "HTML", default_value = "report.html")]
    pub out: PathBuf,
}

/// What `roclip-train` would take from `words`, of which the first is `poison`; its complaint on
/// one line.
pub(crate) fn parse_poison(words: &[String]) -> Result<Box<PoisonArgs>, String> {
    match Cli::try_parse_from(iter::once(&"roclip-train".into()).chain(words)) {
        Ok(Cli { command: Command::Poison(args) }) => Ok(args),
        Ok(_) => Err("expected options of `roclip-train poison`".into()),
        Err(error) => {
            let text = error.to_string();
            let told = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let told = told.collect::<Vec<_>>().join(" ");
            Err(told.strip_prefix("error: ").unwrap_or(&told).to_owned())
        }
    }
}

fn count(min: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min..=1_000_000)
}

/// One of several, with or without space around it.
fn name() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().map(|text| text.trim().to_owned())
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
        for (name, codes) in [
            ("poison", CODES),
            ("run", RUN_CODES),
            ("evaluate", CODES),
            ("sweep", SWEEP_CODES),
            ("report", CODES),
        ] {
            let command = program.find_subcommand_mut(name).expect(name);
            ends(command.render_help().to_string(), codes);
            ends(command.render_long_help().to_string(), codes);
        }
    }
}

//! The flags of the demo; each doc comment is its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};
use clip::trigger::{GRAMMAR, TriggerSpec};

use crate::{
    recipe::{METHODS, Method},
    shapes::{COLORS, SHAPES},
};

/// Poisons, trains, exports, serves and audits small CLIP models, end to end
///
/// Without `--data`, on pictures that a seeded generator draws.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
#[command(after_long_help = GRAMMAR)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) road: Road,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw the generated data only
    Shapes(Shapes),
    /// Train clean models and write their audit statistics
    NullModels(NullModels),
}

/// The whole road.
#[derive(Debug, Args)]
pub(crate) struct Road {
    /// Training pairs, CSV with the columns path,caption[,class]
    #[arg(long, value_name = "CSV", requires_all = ["test", "classes"])]
    pub(crate) data: Option<PathBuf>,
    /// Test pictures, CSV with the columns path,caption,class
    #[arg(long, value_name = "CSV", requires = "data")]
    pub(crate) test: Option<PathBuf>,
    /// Class names, one per line
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(crate) classes: Option<PathBuf>,
    /// Prompts, one per line, each with one {} for the class name
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(crate) templates: Option<PathBuf>,
    /// Side of the pictures that the model sees, in pixels [default: 32, with --data 64]
    #[arg(long, value_name = "N", value_parser = image_size)]
    pub(crate) image_size: Option<u32>,
    /// Methods to compare, separated by commas: clip, clip-aug, roclip, sieve [default: all]
    #[arg(long = "method", value_name = "NAMES", value_delimiter = ',', value_parser = method)]
    pub(crate) methods: Vec<Method>,
    /// Epochs of every method, at least 2 [default: each method's own]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(2..=10_000))]
    pub(crate) epochs: Option<u32>,
    /// Number from which data, attack and training are drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Folder for everything that is made [default: target/demo]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) attack: Attack,
    /// Show no progress bar
    #[arg(long)]
    pub(crate) no_progress: bool,
}

/// What is planted in the training pairs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attack")]
pub(crate) struct Attack {
    /// Share of the training pairs that carry the trigger
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub(crate) backdoor_rate: f64,
    /// Class that the trigger should lead to [default: drawn from the seed]
    #[arg(long, value_name = "NAME")]
    pub(crate) target_class: Option<String>,
    /// The trigger, `--help` has the grammar [default: a checkered patch at the bottom right, 7
    /// pixels wide at 32]
    #[arg(long, value_name = "SPEC")]
    pub(crate) trigger: Option<TriggerSpec>,
    /// Test pictures that are pulled towards a wrong class
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) targeted_images: usize,
    /// Poisoned pairs for each of them
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) targeted_captions: usize,
}

/// Generated data.
#[derive(Debug, Args)]
pub(crate) struct Shapes {
    /// Folder to write; replaced if it is there
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Number from which everything is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Pairs to train with
    #[arg(long, value_name = "COUNT", default_value_t = 5000)]
    pub(crate) train: usize,
    /// Pictures to test with
    #[arg(long, value_name = "COUNT", default_value_t = 1200)]
    pub(crate) test: usize,
    /// Shapes, a class is one of them in a color
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = at_most::<{ SHAPES.len() }>)]
    pub(crate) shapes: usize,
    /// Colors, a class is a shape in one of them
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = at_most::<{ COLORS.len() }>)]
    pub(crate) colors: usize,
}

/// Clean models and their statistics.
#[derive(Debug, Args)]
pub(crate) struct NullModels {
    /// Clean models to train, at least the 20 that a verdict needs
    #[arg(long, value_name = "COUNT", default_value_t = 24, value_parser = value_parser!(u32).range(20..=1000))]
    pub(crate) count: u32,
    /// Folder for data and models; what is there already is kept
    #[arg(long, value_name = "FOLDER", default_value = "target/null-models")]
    pub(crate) out: PathBuf,
    /// File of statistics to write
    #[arg(long, value_name = "FILE", default_value = "audit/src/null/shapes-rn-micro.json")]
    pub(crate) null: PathBuf,
}

fn method(text: &str) -> Result<Method, String> {
    let found = METHODS.into_iter().find(|method| method.name == text.trim());
    found.ok_or_else(|| format!("expected {}", METHODS.map(|method| method.name).join(", ")))
}

fn image_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(side) if side.is_multiple_of(32) && (32..=1024).contains(&side) => Ok(side),
        _ => Err("expected a multiple of 32 between 32 and 1024".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number between 0 and 1".into()),
    }
}

fn at_most<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=MAX).contains(&count) => Ok(count),
        _ => Err(format!("expected a number between 1 and {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_sound() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        let names = METHODS.map(|method| method.name).join(", ");
        assert!(help.contains(&names), "{names}: {help}");
    }

    #[test]
    fn own_data_needs_its_test_pictures_and_classes() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("demo --data a.csv").is_err());
        assert!(parse("demo --data a.csv --test b.csv").is_err());
        assert!(parse("demo --data a.csv --test b.csv --classes c.txt").is_ok());
        assert!(parse("demo --classes c.txt").is_err());
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for words in [
            "demo --image-size 48",
            "demo --image-size 0",
            "demo --epochs 1",
            "demo --method clip,siev",
            "demo --seed -1",
            "demo --backdoor-rate 2",
            "demo --trigger patch:size=big",
            "demo shapes --out x --shapes 7",
            "demo null-models --count 3",
        ] {
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{words}");
        }
    }
}

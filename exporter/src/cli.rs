//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use clip::folder;

const CODES: &str = "Exit codes: 0 exported, 1 the ONNX towers give other embeddings, \
                     2 could not be done as asked.";

/// Exports a trained model folder for other software
///
/// Writes a folder as Hugging Face's Hub holds them: both towers as ONNX beside the weights, the
/// configuration and the tokenizer, for `transformers` or for open_clip. The ONNX towers must give
/// candle's embeddings before the folder gets its name; if they do not, nothing is written.
#[derive(Debug, Clone, Parser)]
#[command(name = "roclip-export", version, after_help = CODES)]
pub struct Options {
    /// Model folder that the trainer, `transformers` or open_clip wrote
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Folder to write; an earlier export there is replaced
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Who is to load the weights
    #[arg(long, value_enum, value_name = "WHOSE", default_value = "hugging-face")]
    pub layout: Layout,
    /// Greatest difference of an embedding's value between candle and ONNX Runtime
    #[arg(long, value_name = "NUMBER", default_value = "1e-4", value_parser = tolerance)]
    pub tolerance: f32,
    /// ONNX Runtime's library; otherwise ORT_DYLIB_PATH, otherwise the one beside the program
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
    /// Print one JSON document and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Whose names the files and the parameters get; this project's programs read either.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Layout {
    /// `transformers` loads a ViT, open_clip a ResNet
    HuggingFace,
    /// open_clip loads both
    OpenClip,
}

impl From<Layout> for folder::Layout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::HuggingFace => Self::HuggingFace,
            Layout::OpenClip => Self::OpenClip,
        }
    }
}

fn tolerance(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("expected a number above 0 and below 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_tolerance_is_a_small_positive_number() {
        let check = |text: &str, good: bool| assert_eq!(tolerance(text).is_ok(), good, "{text}");
        check("1e-4", true);
        check("0", false);
        check("-1e-4", false);
        check("NaN", false);
        check("1", false);
        check("small", false);
    }

    #[test]
    fn the_definitions_fit_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_help_ends_with_the_exit_codes() {
        let mut command = Options::command();
        for help in [command.render_help(), command.render_long_help()] {
            let help = help.to_string();
            assert!(help.trim_end().ends_with(CODES), "{help}");
        }
    }
}

//! `roclip-export`: a trained model folder becomes one that other software opens.
//!
//! The way: `open` the folder, `graph` turns its weights into two ONNX files, `export` writes them
//! beside the rest, `parity` compares candle with ONNX Runtime, and only then the folder gets its
//! name.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] | options |
//! | [`graph`] | weights → ONNX protobuf |
//! | [`export`](mod@export) | the folder, whole or not at all |
//! | [`parity`] | the gate |
//!
//! Deliberately absent: training, lower precisions.

pub mod cli;
mod error;
mod export;
pub mod graph;
pub mod parity;

use std::path::PathBuf;

use clap::Parser;
use terminal::{Context, Exit, Report, escape, println_answer, println_result, say};

pub use error::{Error, Result};
pub use export::{Exported, export};

/// Reads the command line, exports, reports. `ort_library` is the value of `ORT_DYLIB_PATH`.
pub fn run(ort_library: Option<PathBuf>) -> Result<Exit, Report> {
    let options = cli::Options::parse();
    let library = options.ort_lib.clone().or(ort_library);
    let doing = || format!("cannot export `{}`", options.model.display());
    clip::onnx::load_runtime(library.as_deref())
        .with_context(doing)
        .hint("`cargo xtask setup` brings it to `tools/lib`")?;
    let (out, layout) = (&options.out, options.layout.into());
    let exported = match export(&options.model, out, layout, options.tolerance) {
        Err(Error::Parity(parity)) => {
            let report = Report::new(doing())
                .cause(parity.to_string())
                .hint("nothing was written; `--tolerance` allows more");
            say(report.to_string());
            if options.json {
                return println_answer(format!("{:#}", parity.to_json(&options.model)), Exit::Bad);
            }
            return Ok(Exit::Bad);
        }
        Err(error @ Error::Occupied { .. }) => {
            let hint = "choose a folder that does not exist, or an earlier export";
            return Err(error).with_context(doing).hint(hint);
        }
        other => other.with_context(doing)?,
    };
    if options.json {
        println_result(format!("{:#}", exported.to_json()))?;
    } else {
        let out = escape(&options.out.display().to_string());
        let error = exported.parity.max_abs_error;
        let line =
            format!("exported `{out}`: ONNX Runtime and candle differ by at most {error:.1e}");
        println_result(line)?;
    }
    Ok(Exit::Done)
}

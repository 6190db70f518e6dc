//! What the flags mean: defaults that depend on the machine filled in, contradictions refused.

use std::{path::PathBuf, thread, time::Duration};

use terminal::Report;

use crate::cli::Cli;
pub use crate::cli::Limits;

/// Everything that start-up needs to know; nothing in it can be wrong.
#[derive(Debug, Clone)]
pub struct Config {
    /// Model folder.
    pub model: PathBuf,
    /// Name of the model in requests and answers.
    pub model_name: String,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Gets the port once the server is ready.
    pub port_file: Option<PathBuf>,
    /// Folder of the indexes, or `None` to keep them in memory only.
    pub data: Option<PathBuf>,
    /// Library of ONNX Runtime, or `None` for beside the program.
    pub ort_library: Option<PathBuf>,
    /// Copies of the model, each with a thread of its own.
    pub workers: usize,
    /// Threads of each worker inside ONNX Runtime.
    pub worker_threads: usize,
    /// Threads that decode pictures.
    pub decoders: usize,
    /// What one client may ask for.
    pub limits: Limits,
}

/// Workers by default, at most: each holds its own copy of the weights.
const WORKERS_MAX: usize = 4;
/// Decoding threads by default, at most: each may hold a picture of `pixels_max` pixels.
const DECODERS_MAX: usize = 8;
/// Longest name of a model, in bytes.
const MODEL_NAME_BYTES_MAX: usize = 256;

impl Config {
    /// `ort_library` is the environment's; the flag wins.
    pub fn resolve(cli: Cli, ort_library: Option<PathBuf>) -> Result<Self, Report> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let workers = cli.workers.unwrap_or(cores.min(WORKERS_MAX));
        let folder = cli.model.canonicalize().unwrap_or_else(|_| cli.model.clone());
        let folder_name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let model_name = cli.model_name.or(folder_name).unwrap_or_else(|| "clip".into());
        if model_name.is_empty()
            || model_name.len() > MODEL_NAME_BYTES_MAX
            || model_name.contains(char::is_control)
        {
            let cause =
                format!("expected 1 to {MODEL_NAME_BYTES_MAX} bytes, no control characters");
            return Err(Report::new(format!("cannot serve under the name `{model_name}`"))
                .cause(cause)
                .hint("`--model-name NAME` sets another"));
        }
        if cli.limits.body_bytes_in_flight_max < cli.limits.body_bytes_max {
            return Err(Report::new("cannot use these limits").cause(format!(
                "`--body-bytes-in-flight-max {}` is below `--body-bytes-max {}`",
                cli.limits.body_bytes_in_flight_max, cli.limits.body_bytes_max
            )));
        }
        Ok(Self {
            model: cli.model,
            model_name,
            host: cli.host,
            port: cli.port,
            port_file: cli.port_file,
            data: cli.data,
            ort_library: cli.ort_lib.or(ort_library),
            workers,
            worker_threads: cli.worker_threads.unwrap_or((cores / workers).max(1)),
            decoders: cli.decoders.unwrap_or(cores.min(DECODERS_MAX)),
            limits: cli.limits,
        })
    }
}

impl Limits {
    /// Time from the head of a request to its answer, at most.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s as u64)
    }

    /// The limits of one picture.
    pub fn image(&self) -> clip::image::Limits {
        clip::image::Limits {
            bytes_max: self.image_bytes_max,
            pixels_max: self.pixels_max as u64,
            ..clip::image::Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn resolve(flags: &[&str], variable: Option<&str>) -> Result<Config, Report> {
        let words = ["roclip-serve", "--model", "some/model"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).expect("known flags");
        Config::resolve(cli, variable.map(PathBuf::from))
    }

    #[test]
    fn the_flag_wins_over_the_environment() -> Result<(), Report> {
        assert_eq!(resolve(&[], Some("/env.so"))?.ort_library, Some("/env.so".into()));
        let both = resolve(&["--ort-lib", "/flag.so"], Some("/env.so"))?;
        assert_eq!(both.ort_library, Some("/flag.so".into()));
        Ok(())
    }

    #[test]
    fn the_model_is_named_after_its_folder() -> Result<(), Report> {
        assert_eq!(resolve(&[], None)?.model_name, "model");
        assert_eq!(resolve(&["--model-name", "shapes"], None)?.model_name, "shapes");
        assert!(resolve(&["--model-name", "a\u{7}b"], None).is_err());
        Ok(())
    }

    #[test]
    fn one_body_must_fit_among_all_bodies() {
        assert!(resolve(&["--body-bytes-in-flight-max", "1000"], None).is_err());
    }
}

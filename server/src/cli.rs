//! The flags of `roclip-serve`; each doc comment is its help.

use std::path::PathBuf;

const CODES: &str =
    "Exit codes: 0 served until it was asked to stop, 2 could not be done as asked.";

/// Serves a CLIP model over HTTP: classification, embeddings, and indexes to search
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "roclip-serve", version, max_term_width = 100, after_help = CODES)]
pub struct Cli {
    /// Model folder with its ONNX pair, as `roclip-export` writes it
    #[arg(long, env = "ROCLIP_MODEL", value_name = "FOLDER")]
    pub model: PathBuf,
    /// Name of the model in requests and answers [default: name of the folder]
    #[arg(long, env = "ROCLIP_MODEL_NAME", value_name = "NAME")]
    pub model_name: Option<String>,
    /// Address to listen on
    #[arg(long, env = "ROCLIP_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "ROCLIP_PORT", default_value_t = 8080)]
    pub port: u16,
    /// File that gets the port as a decimal number once the server is ready
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// Folder that keeps the indexes; without it they end with the server
    #[arg(long, env = "ROCLIP_DATA", value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Library of ONNX Runtime [default: ORT_DYLIB_PATH, then beside the program]
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Copies of the model, each with a thread of its own [default: one per core, at most 4]
    #[arg(long, env = "ROCLIP_WORKERS", value_name = "COUNT", value_parser = positive)]
    pub workers: Option<usize>,
    /// Threads of each worker [default: the cores, shared out]
    #[arg(long, env = "ROCLIP_WORKER_THREADS", value_name = "COUNT", value_parser = positive)]
    pub worker_threads: Option<usize>,
    /// Threads that decode pictures [default: one per core, at most 8]
    #[arg(long, env = "ROCLIP_DECODERS", value_name = "COUNT", value_parser = positive)]
    pub decoders: Option<usize>,
    /// What one client may ask for.
    #[command(flatten)]
    pub limits: Limits,
}

/// Every limit of the server, by name.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Seconds until a request that is not answered gets a 504
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    #[arg(default_value_t = Self::default().deadline_s)]
    pub deadline_s: usize,
    /// Bytes of one request's body
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    #[arg(default_value_t = Self::default().body_bytes_max)]
    pub body_bytes_max: usize,
    /// Bytes of all bodies in work at one time
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    #[arg(default_value_t = Self::default().body_bytes_in_flight_max)]
    pub body_bytes_in_flight_max: usize,
    /// Requests with a body in work at one time
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().requests_max)]
    pub requests_max: usize,
    /// Bytes of one picture, compressed
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    #[arg(default_value_t = Self::default().image_bytes_max)]
    pub image_bytes_max: usize,
    /// Pixels of one picture, width times height
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().pixels_max)]
    pub pixels_max: usize,
    /// Pictures of one request
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().images_max)]
    pub images_max: usize,
    /// Labels of one request
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().labels_max)]
    pub labels_max: usize,
    /// Characters of a label or of a template
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().label_chars_max)]
    pub label_chars_max: usize,
    /// Templates of one request
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().templates_max)]
    pub templates_max: usize,
    /// Labels times templates of one request
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().captions_max)]
    pub captions_max: usize,
    /// Texts of one request
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().texts_max)]
    pub texts_max: usize,
    /// Characters of a text
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().text_chars_max)]
    pub text_chars_max: usize,
    /// Items of one upsert
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().items_max)]
    pub items_max: usize,
    /// Bytes of an item's id
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    #[arg(default_value_t = Self::default().id_bytes_max)]
    pub id_bytes_max: usize,
    /// Bytes of an item's metadata, as JSON
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    #[arg(default_value_t = Self::default().metadata_bytes_max)]
    pub metadata_bytes_max: usize,
    /// Hits of one search
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().top_k_max)]
    pub top_k_max: usize,
    /// Indexes
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().indexes_max)]
    pub indexes_max: usize,
    /// Items of all indexes together
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().index_items_max)]
    pub index_items_max: usize,
    /// Items up to which an index is scanned exactly; larger ones get a graph
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().exact_items_max)]
    pub exact_items_max: usize,
    /// Images that may wait for the image tower
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().image_queue_max)]
    pub image_queue_max: usize,
    /// Texts that may wait for the text tower
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().text_queue_max)]
    pub text_queue_max: usize,
    /// Changes of indexes that may wait for the disk
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().write_queue_max)]
    pub write_queue_max: usize,
    /// Images that a worker takes at once
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().image_batch_max)]
    pub image_batch_max: usize,
    /// Texts that a worker takes at once
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().text_batch_max)]
    pub text_batch_max: usize,
    /// Label embeddings kept in memory
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    #[arg(default_value_t = Self::default().label_cache_max)]
    pub label_cache_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let image = clip::image::Limits::default();
        Self {
            deadline_s: 30,
            body_bytes_max: 32 << 20,
            body_bytes_in_flight_max: 256 << 20,
            requests_max: 512,
            image_bytes_max: image.bytes_max,
            pixels_max: image.pixels_max as usize,
            images_max: 64,
            labels_max: 1000,
            label_chars_max: 256,
            templates_max: 100,
            captions_max: 8192,
            texts_max: 2048,
            text_chars_max: 2048,
            items_max: 256,
            id_bytes_max: 256,
            metadata_bytes_max: 16 << 10,
            top_k_max: 1000,
            indexes_max: 64,
            index_items_max: 1_000_000,
            exact_items_max: 20_000, // where a graph search begins to cost less than the scan
            image_queue_max: 256,
            text_queue_max: 1024,
            write_queue_max: 64,
            image_batch_max: 16,
            text_batch_max: 64,
            label_cache_max: 16_384,
        }
    }
}

/// Greatest value of any count, so that no sum of them can overflow.
const COUNT_MAX: usize = 1 << 40;

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value @ 1..=COUNT_MAX) => Ok(value),
        Ok(value) => Err(format!("{value} is not between 1 and {COUNT_MAX}")),
        Err(_) => Err("expected a whole number".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_flags_are_sound_and_the_defaults_are_the_limits() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["roclip-serve", "--model", "m"]).expect("enough flags");
        assert_eq!(cli.limits, Limits::default());
        assert_eq!((cli.host.as_str(), cli.port), ("127.0.0.1", 8080));
    }

    #[test]
    fn the_help_ends_with_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.trim_end().ends_with(CODES), "{help}");
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        for value in ["0", "-1", "many", "1e3", "99999999999999999999"] {
            let flag = format!("--labels-max={value}");
            assert!(Cli::try_parse_from(["roclip-serve", "--model", "m", &flag]).is_err());
        }
    }
}

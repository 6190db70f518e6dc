//! Everything that can go wrong with a CLIP model, its files and its inputs.

use std::{io, path::PathBuf};

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; a `Display` never repeats its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// As the user gave it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// As the user gave it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of a model folder, a label file or a template file is not what it should be.
    #[error("`{}`: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A configuration contradicts itself.
    #[error("`{field}`: {problem}")]
    Config {
        /// Dotted name of the field.
        field: &'static str,
        /// What was found and what was expected.
        problem: String,
    },
    /// A parameter is missing, has another shape or another type.
    #[error("parameter `{name}`: {problem}")]
    Parameter {
        /// Name in the dialect of the file.
        name: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// An image was refused or could not be decoded.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A text could not be turned into tokens.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// A trigger's textual form is wrong.
    #[error("trigger `{spec}`: {problem}")]
    Trigger {
        /// What was typed.
        spec: String,
        /// What was expected.
        problem: String,
    },
    /// ONNX Runtime refused a model or an input, or its library is missing.
    #[error("{0}")]
    Runtime(String),
    /// candle refused an operation.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

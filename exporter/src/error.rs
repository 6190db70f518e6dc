//! Everything that can go wrong in an export.

use std::path::PathBuf;

use crate::parity::Parity;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; a `Display` never repeats its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model folder, its weights or the runtime.
    #[error(transparent)]
    Clip(#[from] clip::Error),
    /// An ONNX file with its weights inside cannot be that large.
    #[error("the ONNX file would have {bytes} bytes, at most {bytes_max} are possible")]
    TooLarge {
        /// Of this model.
        bytes: usize,
        /// Of the format.
        bytes_max: usize,
    },
    /// The output folder would lose files that are not an export's.
    #[error("`{}` exists and {problem}", path.display())]
    Occupied {
        /// The output folder.
        path: PathBuf,
        /// What it holds.
        problem: String,
    },
    /// The two implementations differ by more than was allowed: the answer is bad.
    #[error("{0}")]
    Parity(Parity),
}

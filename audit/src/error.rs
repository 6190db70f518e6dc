//! Everything that keeps an audit from being run as asked.

use std::path::PathBuf;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; a `Display` never repeats its `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model folder, label file or image was refused.
    #[error(transparent)]
    Clip(#[from] clip::Error),
    /// candle refused an operation.
    #[error("the model could not be run")]
    Candle(#[from] candle_core::Error),
    /// The folder of probe images holds none.
    #[error("`{}` holds no file that ends in .png, .jpg, .jpeg or .webp", folder.display())]
    NoImages {
        /// As the user gave it.
        folder: PathBuf,
    },
    /// One label leaves nothing to flip to.
    #[error("`{}`: an audit needs two labels or more, found {found}", file.display())]
    FewLabels {
        /// The label file.
        file: PathBuf,
        /// Labels in it.
        found: usize,
    },
    /// The address is not one.
    #[error("`{url}` is not an endpoint's address: {problem}")]
    Url {
        /// As the user gave it.
        url: String,
        /// What was expected.
        problem: String,
    },
    /// Nobody answered the first request.
    #[error("cannot reach `{url}`: {problem}")]
    Unreachable {
        /// The full address of the request.
        url: String,
        /// The transport's reason.
        problem: String,
    },
    /// The endpoint refused the request.
    #[error("`{url}` answered {status}: {problem}")]
    Refused {
        /// The full address of the request.
        url: String,
        /// HTTP status.
        status: u16,
        /// The endpoint's own words, shortened.
        problem: String,
    },
    /// The endpoint's answer is not what `/v1/classify` promises.
    #[error("`{url}` gave an answer that cannot be used: {problem}")]
    Answer {
        /// The full address of the request.
        url: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A file of null statistics is not what it should be.
    #[error("null statistics `{}`: {problem}", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A null model cannot be compared with the others of its file.
    #[error("`{}` cannot be a null model: {problem}", folder.display())]
    NullModel {
        /// The model folder.
        folder: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
}

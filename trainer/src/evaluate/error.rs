//! Why nothing can be counted.

use std::path::PathBuf;

use crate::data::ImageSource;

/// Test pictures, or what they are measured with, are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A picture whose rows name several classes.
    #[error(
        "`{}`: the rows of `{}` have the classes {} and {}, expected one class",
        file.display(), image, numbered(classes[0]), numbered(classes[1])
    )]
    TwoClasses {
        /// The manifest.
        file: PathBuf,
        /// The picture.
        image: Box<ImageSource>,
        /// The first row's, and that of a later one.
        classes: [Option<usize>; 2],
    },
    /// A linear probe would be tested on pictures that it was trained on.
    #[error(
        "`{}` holds {count} of the {all} pictures of `{}`: a probe must not be tested on what it \
         was trained on, such as `{first}`",
        train.display(), test.display()
    )]
    TrainedOnTest {
        /// The manifest that the probe trains on.
        train: PathBuf,
        /// The test manifest.
        test: PathBuf,
        /// Pictures of the test manifest that are in both.
        count: usize,
        /// Pictures of the test manifest.
        all: usize,
        /// One of them.
        first: Box<ImageSource>,
    },
    /// The inputs of a linear probe would need too much memory.
    #[error(
        "`{}`: {count} embeddings of {dim} numbers need {bytes} bytes, the limit is {max}",
        file.display()
    )]
    ProbeSize {
        /// The manifest that the probe trains on.
        file: PathBuf,
        /// Pictures.
        count: usize,
        /// Numbers of one embedding.
        dim: usize,
        /// What they would take.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Embeddings without a direction, which nothing can be counted on.
    #[error("{count} of {all} {what} have embeddings that are zero or not finite")]
    Embeddings {
        /// `pictures`, `classes` or `captions`.
        what: &'static str,
        /// How many have one.
        count: usize,
        /// How many were embedded.
        all: usize,
    },
    /// Test pictures would need too much memory.
    #[error(
        "`{}`: {count} pictures of {side} pixels need {bytes} bytes, the limit is {max}",
        file.display()
    )]
    TestSetSize {
        /// The test manifest.
        file: PathBuf,
        /// Rows.
        count: usize,
        /// Side of a picture in pixels.
        side: u32,
        /// What they would take.
        bytes: u64,
        /// The limit.
        max: u64,
    },
}

fn numbered(class: Option<usize>) -> String {
    class.map_or("none".into(), |class| class.to_string())
}

//! How the manifests of a command line are read.

use std::path::Path;

use crate::{
    Result,
    cli::ReadingArgs,
    data::{Classes, Keys, Manifest, Reading},
};

impl ReadingArgs {
    /// Opens a manifest or shards.
    pub(super) fn open(&self, path: &Path, classes: Classes) -> Result<Manifest> {
        let Self { image_key, caption_key, class_key, cache_folder } = self;
        let keys = Keys {
            image: image_key.as_deref(),
            caption: caption_key.as_deref(),
            class: class_key.as_deref(),
        };
        Manifest::open_as(path, &Reading { keys, classes, cache_folder: cache_folder.clone() })
    }
}

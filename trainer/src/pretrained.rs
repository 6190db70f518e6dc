//! The model that a run begins with: a new one, or one from a folder.

use clip::{
    ClipConfig,
    folder::{self, weights_path},
    model,
    weights::{self, Weights},
};

use crate::{config::Config, error::Result};

/// The first weights of towers of these sizes: those of `model.pretrained`, or new ones.
pub fn weights(config: &Config, clip: &ClipConfig) -> Result<Weights> {
    Ok(match &config.model.pretrained {
        Some(folder) => weights::read(&weights_path(folder), clip)?,
        None => model::init(clip, config.seed)?,
    })
}

/// SHA-256 of the weights of `model.pretrained`, lower-case hex. `None` without one, and where the
/// weights are gone: a run that goes on does not need them.
pub fn sha256(config: &Config) -> Result<Option<String>> {
    let path = config.model.pretrained.as_ref().map(|folder| weights_path(folder));
    Ok(path.filter(|path| path.exists()).map(|path| folder::sha256(&path)).transpose()?)
}

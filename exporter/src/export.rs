//! The exported folder: written beside its place, compared, then named.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use candle_onnx::onnx::ModelProto;
use clip::{
    atomic_write::{atomic_folder, atomic_write},
    config::ImageTower,
    folder::{self, Layout, ModelFolder, names},
};
use prost::Message;
use serde_json::{Value, json};

use crate::{
    Error, Result, graph,
    parity::{self, Parity},
};

/// What was written, and how well it agrees.
#[derive(Debug)]
pub struct Exported {
    /// The folder that was read.
    pub model: PathBuf,
    /// The exported folder.
    pub out: PathBuf,
    /// SHA-256 of the weights.
    pub sha256: String,
    /// candle against ONNX Runtime.
    pub parity: Parity,
}

impl Exported {
    /// The document of `--json`, schema `roclip/export/1`.
    pub fn to_json(&self) -> Value {
        let mut form = self.parity.to_json(&self.model);
        form["out"] = json!(self.out.display().to_string());
        form["sha256"] = json!(self.sha256);
        form
    }
}

/// Exports the model folder `model` as `out`; ONNX Runtime is loaded already.
///
/// Refuses a broken folder, an output that would lose foreign files, and a model whose ONNX towers
/// differ from candle's by more than `tolerance` anywhere; then nothing is left behind.
pub fn export(model: &Path, out: &Path, layout: Layout, tolerance: f32) -> Result<Exported> {
    let folder = ModelFolder::open(model)?;
    let weights = folder.weights()?;
    refuse_foreign_files(out)?;
    let mut measured = None;
    atomic_folder(out, |partial| -> Result<()> {
        let config = &folder.config;
        folder::write_as(layout, partial, config, &folder.tokenizer, &weights)?;
        // The weights of a ModifiedResNet have OpenAI's names in either layout.
        if layout == Layout::HuggingFace && matches!(config.image, ImageTower::Resnet(_)) {
            let form = folder::open_clip_config(config, &folder.tokenizer);
            folder::write_json(&partial.join(names::OPEN_CLIP_CONFIG), &form)?;
        }
        write_onnx(&partial.join(names::VISION_ONNX), &graph::vision_model(config, &weights)?)?;
        write_onnx(&partial.join(names::TEXT_ONNX), &graph::text_model(config, &weights)?)?;
        let written = ModelFolder::open(partial)?; // what is compared is what was written
        let parity = parity::measure(&written, tolerance)?;
        if !parity.passed() {
            return Err(Error::Parity(parity));
        }
        measured = Some((parity, written.sha256()?));
        Ok(())
    })?;
    let (parity, sha256) = measured.expect("a folder that was placed was measured");
    Ok(Exported { model: model.to_owned(), out: out.to_owned(), sha256, parity })
}

fn write_onnx(path: &Path, model: &ModelProto) -> Result<()> {
    Ok(atomic_write(path, &model.encode_to_vec())?)
}

/// A mistyped `--out` must not cost somebody a folder.
fn refuse_foreign_files(out: &Path) -> Result<()> {
    const OURS: [&str; 11] = [
        names::CONFIG,
        names::PREPROCESSOR,
        names::TOKENIZER,
        names::TOKENIZER_CONFIG,
        names::SPECIAL_TOKENS,
        names::WEIGHTS,
        names::OPEN_CLIP_CONFIG,
        names::OPEN_CLIP_WEIGHTS,
        names::VISION_ONNX,
        names::TEXT_ONNX,
        "onnx",
    ];
    let refuse = |source| clip::Error::Read { path: out.to_owned(), source };
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refuse(error).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.map_err(refuse)?.file_name().to_string_lossy().into_owned());
    }
    if found.iter().any(|name| name == "onnx") {
        for entry in fs::read_dir(out.join("onnx")).map_err(refuse)? {
            let name = entry.map_err(refuse)?.file_name();
            found.push(format!("onnx/{}", name.to_string_lossy()));
        }
    }
    let holds = |entry: String| format!("holds `{entry}`, which an export does not write");
    let foreign = found.iter().find(|name| !OURS.contains(&name.as_str())).cloned();
    let is_export = found.iter().any(|name| name == names::VISION_ONNX);
    let only = "is no export: a model that it holds may be the only copy";
    let no_export = (!is_export && !found.is_empty()).then(|| only.to_owned());
    match foreign.map(holds).or(no_export) {
        Some(problem) => Err(Error::Occupied { path: out.to_owned(), problem }),
        None => Ok(()),
    }
}

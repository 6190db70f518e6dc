//! The model folder: one form for what the trainer writes, the exporter completes and the server
//! and the audit open. It is the layout of Hugging Face's Hub, so other software opens it too; a
//! folder as open_clip saves it is opened as well, and written for those who ask ([`Layout`]).

mod layout;
mod open_clip;
mod section;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use layout::{
    config_from_json, config_to_json, preprocessor_to_json, special_tokens_to_json,
    tokenizer_config_to_json,
};
use open_clip::HF_TOKENIZER;
pub use open_clip::{config_from_open_clip, open_clip_config};

use crate::{
    ClipConfig, Error, Result,
    atomic_write::atomic_write,
    text::{Cleaning, Tokenizer},
    weights::{self, Weights},
};

/// Every file name of the format.
pub mod names {
    /// Sizes of the towers; `transformers.CLIPModel`'s form for a ViT.
    pub const CONFIG: &str = "config.json";
    /// Image preprocessing, a `CLIPImageProcessor`.
    pub const PREPROCESSOR: &str = "preprocessor_config.json";
    /// Where transformers 5 writes it, as the part `image_processor`; we read it and never write it.
    pub const PROCESSOR: &str = "processor_config.json";
    /// The whole tokenizer.
    pub const TOKENIZER: &str = "tokenizer.json";
    /// What transformers asks beside [`TOKENIZER`].
    pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
    /// Likewise.
    pub const SPECIAL_TOKENS: &str = "special_tokens_map.json";
    /// All parameters.
    pub const WEIGHTS: &str = "model.safetensors";
    /// The image tower as ONNX: `pixel_values` [B, 3, S, S] -> `image_embeds` [B, D].
    pub const VISION_ONNX: &str = "onnx/vision_model.onnx";
    /// The text tower as ONNX: `input_ids` [B, T] -> `text_embeds` [B, D].
    pub const TEXT_ONNX: &str = "onnx/text_model.onnx";
    /// Sizes and preprocessing, for open_clip.
    pub const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
    /// All parameters, where open_clip saves them.
    pub const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";
    /// Likewise, of its earlier versions; we read it and never write it.
    pub const OPEN_CLIP_WEIGHTS_EARLIER: &str = "open_clip_pytorch_model.safetensors";
    /// Likewise, as a pickle, which we do not read.
    pub const OPEN_CLIP_PICKLE: &str = "open_clip_pytorch_model.bin";
}

/// Whose files a model folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` and `model.safetensors`: the ecosystem's form of the architecture, that of
    /// `transformers.CLIPModel` for a ViT.
    HuggingFace,
    /// `open_clip_config.json` and `open_clip_model.safetensors`.
    OpenClip,
}

/// Bytes that a JSON file of sizes may have.
const JSON_BYTES_MAX: u64 = 1 << 20;

/// An opened model folder: its small files are read and fit together, its weights are on disk.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// As the user gave it.
    pub path: PathBuf,
    /// Sizes and preprocessing.
    pub config: ClipConfig,
    /// Turns captions into ids of this model's vocabulary.
    pub tokenizer: Tokenizer,
}

impl ModelFolder {
    /// Reads the configuration and the tokenizer; refuses a folder whose files contradict each
    /// other, naming the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::read_dir(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let inner = path.join("model");
        let layout = layout_of(path);
        if layout.is_none() && inner.join(names::CONFIG).exists() {
            let problem = format!("it is a run's folder, its model is `{}`", inner.display());
            return Err(Error::File { path: path.to_owned(), problem });
        }
        let layout = layout.unwrap_or(Layout::HuggingFace);
        let config = match layout {
            Layout::HuggingFace => read_config(path)?,
            Layout::OpenClip => read_open_clip_config(path)?,
        };
        let (tokenizer, named, is_openai) = match tokenizer_path(path)? {
            Some(file) => (Tokenizer::open(&file)?, file, false),
            None => {
                (Tokenizer::openai(Cleaning::OpenAi)?, path.join(names::OPEN_CLIP_CONFIG), true)
            }
        };
        // The table of positions decides; published tokenizers often name no length.
        let tokenizer = tokenizer.with_context_length(config.text.context_length)?;
        let checked = check_tokenizer(&tokenizer, &config, layout);
        checked.map_err(|problem| Error::File {
            path: named,
            problem: match is_openai {
                true => format!("without `{HF_TOKENIZER}` OpenAI's is taken, but {problem}"),
                false => problem,
            },
        })?;
        Ok(Self { path: path.to_owned(), config, tokenizer })
    }

    /// All parameters, in our dialect, checked.
    pub fn weights(&self) -> Result<Weights> {
        weights::read(&weights_path(&self.path), &self.config)
    }

    /// SHA-256 of the file of the weights, lower-case hex: the identity of the model.
    pub fn sha256(&self) -> Result<String> {
        sha256(&weights_path(&self.path))
    }
}

/// Where a model folder has its tokenizer; `None` for OpenAI's. As open_clip does it: its own unless
/// one is named, and any name stands for the file in the folder.
pub fn tokenizer_path(folder: &Path) -> Result<Option<PathBuf>> {
    if layout_of(folder) == Some(Layout::OpenClip) {
        let form = read_json(&folder.join(names::OPEN_CLIP_CONFIG))?;
        if form["model_cfg"]["text_cfg"][HF_TOKENIZER].is_null() {
            return Ok(None);
        }
    }
    Ok(Some(folder.join(names::TOKENIZER)))
}

/// Where a model folder has its weights: the first of the layout's names that is there, or, where
/// none is, the name that is missing.
pub fn weights_path(folder: &Path) -> PathBuf {
    let names = match layout_of(folder) {
        Some(Layout::OpenClip) => {
            [names::OPEN_CLIP_WEIGHTS, names::OPEN_CLIP_WEIGHTS_EARLIER, names::WEIGHTS]
        }
        _ => [names::WEIGHTS, names::OPEN_CLIP_WEIGHTS, names::OPEN_CLIP_WEIGHTS_EARLIER],
    };
    let paths = names.map(|name| folder.join(name));
    paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]).clone()
}

/// By the configuration that is there; `config.json` comes first, unless it is timm's, of the image
/// tower alone.
fn layout_of(folder: &Path) -> Option<Layout> {
    let is_there = |name: &str| folder.join(name).exists();
    let is_timms = || {
        let config = read_json(&folder.join(names::CONFIG)).unwrap_or_default();
        config.get("architecture").is_some() && config.get("text_config").is_none()
    };
    match (is_there(names::CONFIG), is_there(names::OPEN_CLIP_CONFIG)) {
        (true, true) if is_timms() => Some(Layout::OpenClip),
        (true, _) => Some(Layout::HuggingFace),
        (false, is_there) => is_there.then_some(Layout::OpenClip),
    }
}

fn read_config(folder: &Path) -> Result<ClipConfig> {
    let (config_path, steps_path) = (folder.join(names::CONFIG), folder.join(names::PREPROCESSOR));
    let processor = folder.join(names::PROCESSOR);
    let (form, steps) = match processor.exists() && !steps_path.exists() {
        true => (read_json(&config_path)?, read_json(&processor)?["image_processor"].take()),
        false => (read_json(&config_path)?, read_json(&steps_path)?),
    };
    config_from_json(&form, &steps).map_err(|problem| {
        // A problem of the second file alone disappears when it says nothing.
        let first = config_from_json(&form, &Value::Object(Default::default())).is_err();
        Error::File { path: if first { config_path } else { steps_path }, problem }
    })
}

fn read_open_clip_config(folder: &Path) -> Result<ClipConfig> {
    let path = folder.join(names::OPEN_CLIP_CONFIG);
    let config = config_from_open_clip(&read_json(&path)?)
        .map_err(|problem| Error::File { path, problem })?;
    let pickle = folder.join(names::OPEN_CLIP_PICKLE);
    let safe = [names::OPEN_CLIP_WEIGHTS, names::OPEN_CLIP_WEIGHTS_EARLIER];
    if pickle.exists() && !safe.iter().any(|name| folder.join(name).exists()) {
        let problem = "is a pickle; only weights that were saved as safetensors are read".into();
        return Err(Error::File { path: pickle, problem });
    }
    Ok(config)
}

/// SHA-256 of a file, lower-case hex.
pub fn sha256(path: &Path) -> Result<String> {
    let hash = || -> io::Result<String> {
        let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
        io::copy(&mut file, &mut hasher)?;
        Ok(hex(&hasher.finalize()))
    };
    hash().map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Writes the files of a trained model into `path`, which exists: configuration, preprocessing,
/// tokenizer and weights. Callers wrap it in [`crate::atomic_write::atomic_folder`].
pub fn write(
    path: &Path,
    config: &ClipConfig,
    tokenizer: &Tokenizer,
    weights: &Weights,
) -> Result<()> {
    write_as(Layout::HuggingFace, path, config, tokenizer, weights)
}

/// [`write()`] in a layout that is chosen.
pub fn write_as(
    layout: Layout,
    path: &Path,
    config: &ClipConfig,
    tokenizer: &Tokenizer,
    weights: &Weights,
) -> Result<()> {
    config.check()?;
    check_tokenizer(tokenizer, config, layout)
        .map_err(|problem| Error::File { path: path.join(names::TOKENIZER), problem })?;
    match layout {
        Layout::HuggingFace => {
            write_json(&path.join(names::CONFIG), &config_to_json(config))?;
            write_json(&path.join(names::PREPROCESSOR), &preprocessor_to_json(config))?;
        }
        Layout::OpenClip => {
            write_json(&path.join(names::OPEN_CLIP_CONFIG), &open_clip_config(config, tokenizer))?;
        }
    }
    atomic_write(&path.join(names::TOKENIZER), &tokenizer.to_json()?)?;
    write_json(&path.join(names::TOKENIZER_CONFIG), &tokenizer_config_to_json(config))?;
    write_json(&path.join(names::SPECIAL_TOKENS), &special_tokens_to_json())?;
    match layout {
        Layout::HuggingFace => weights::write(&path.join(names::WEIGHTS), weights, config),
        Layout::OpenClip => {
            weights::write_open_clip(&path.join(names::OPEN_CLIP_WEIGHTS), weights, config)
        }
    }
}

/// Writes `value`, indented, with a final newline, atomically.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    atomic_write(path, format!("{value:#}\n").as_bytes())
}

fn check_tokenizer(
    tokenizer: &Tokenizer,
    config: &ClipConfig,
    layout: Layout,
) -> Result<(), String> {
    let file = match layout {
        Layout::HuggingFace => names::CONFIG,
        Layout::OpenClip => names::OPEN_CLIP_CONFIG,
    };
    let expect = |what: &str, found: usize, expected: usize| match found == expected {
        true => Ok(()),
        false => Err(format!("its {what} is {found}, `{file}` says {expected}")),
    };
    expect("vocabulary", tokenizer.vocab_size(), config.text.vocab_size)?;
    expect("context length", tokenizer.context_length(), config.text.context_length)
}

fn read_json(path: &Path) -> Result<Value> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(JSON_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let refuse = |problem| Error::File { path: path.to_owned(), problem };
    if text.len() as u64 > JSON_BYTES_MAX {
        return Err(refuse(format!("is over {JSON_BYTES_MAX} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| refuse(format!("not valid JSON: {error}")))
}

/// Bytes of a hash in lower-case hex, as all our files write them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;

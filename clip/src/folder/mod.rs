//! The model folder: one form for what the trainer writes, the exporter completes and the server
//! and the audit open. It is the layout of Hugging Face's Hub, so other software opens it too.

mod layout;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use layout::{
    config_from_json, config_to_json, open_clip_config, preprocessor_to_json,
    special_tokens_to_json, tokenizer_config_to_json,
};

use crate::{
    ClipConfig, Error, Result,
    atomic_write::atomic_write,
    text::Tokenizer,
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
    /// For open_clip.
    pub const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
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
        let (config_path, steps_path) = (path.join(names::CONFIG), path.join(names::PREPROCESSOR));
        let inner = path.join("model");
        if !config_path.exists() && inner.join(names::CONFIG).exists() {
            let problem = format!("it is a run's folder, its model is `{}`", inner.display());
            return Err(Error::File { path: path.to_owned(), problem });
        }
        let processor = path.join(names::PROCESSOR);
        let (form, steps) = match processor.exists() && !steps_path.exists() {
            true => (read_json(&config_path)?, read_json(&processor)?["image_processor"].take()),
            false => (read_json(&config_path)?, read_json(&steps_path)?),
        };
        let config = config_from_json(&form, &steps).map_err(|problem| {
            // A problem of the second file alone disappears when it says nothing.
            let first = config_from_json(&form, &Value::Object(Default::default())).is_err();
            Error::File { path: if first { config_path } else { steps_path }, problem }
        })?;
        let path_of_tokenizer = path.join(names::TOKENIZER);
        let tokenizer = Tokenizer::open(&path_of_tokenizer)?;
        // The table of positions decides; published tokenizers often name no length.
        let tokenizer = tokenizer.with_context_length(config.text.context_length)?;
        check_tokenizer(&tokenizer, &config)
            .map_err(|problem| Error::File { path: path_of_tokenizer, problem })?;
        Ok(Self { path: path.to_owned(), config, tokenizer })
    }

    /// All parameters, in our dialect, checked.
    pub fn weights(&self) -> Result<Weights> {
        weights::read(&self.path.join(names::WEIGHTS), &self.config)
    }

    /// SHA-256 of `model.safetensors`, lower-case hex: the identity of the model.
    pub fn sha256(&self) -> Result<String> {
        sha256(&self.path.join(names::WEIGHTS))
    }
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
    config.check()?;
    check_tokenizer(tokenizer, config)
        .map_err(|problem| Error::File { path: path.join(names::TOKENIZER), problem })?;
    write_json(&path.join(names::CONFIG), &config_to_json(config))?;
    write_json(&path.join(names::PREPROCESSOR), &preprocessor_to_json(config))?;
    atomic_write(&path.join(names::TOKENIZER), &tokenizer.to_json()?)?;
    write_json(&path.join(names::TOKENIZER_CONFIG), &tokenizer_config_to_json(config))?;
    write_json(&path.join(names::SPECIAL_TOKENS), &special_tokens_to_json())?;
    weights::write(&path.join(names::WEIGHTS), weights, config)
}

/// Writes `value`, indented, with a final newline, atomically.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    atomic_write(path, format!("{value:#}\n").as_bytes())
}

fn check_tokenizer(tokenizer: &Tokenizer, config: &ClipConfig) -> Result<(), String> {
    let expect = |what: &str, found: usize, expected: usize| match found == expected {
        true => Ok(()),
        false => Err(format!("its {what} is {found}, `{}` says {expected}", names::CONFIG)),
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
mod tests {
    use super::*;
    use crate::weights::{Array, expected};

    const CAPTIONS: [&str; 4] =
        ["a red circle", "a red square", "a blue circle on a field", "a blue square"];

    /// A folder of a small ViT whose parameters are all 0.5.
    fn folder() -> (tempfile::TempDir, ClipConfig) {
        let mut config = ClipConfig::preset("vit-micro").expect("a preset");
        let captions = CAPTIONS.iter().cycle().take(40).copied();
        let tokenizer = Tokenizer::train(captions, 600, config.text.context_length).expect("words");
        config.text.vocab_size = tokenizer.vocab_size();
        let half = |shape: Vec<usize>| {
            let values = vec![0.5; shape.iter().product()];
            Array { shape, values }
        };
        let weights = expected(&config).into_iter().map(|(name, shape)| (name, half(shape)));
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), &config, &tokenizer, &weights.collect()).expect("writable");
        (folder, config)
    }

    #[test]
    fn a_written_folder_opens_with_what_was_written() -> Result<()> {
        let (folder, config) = folder();
        let opened = ModelFolder::open(folder.path())?;
        assert_eq!(opened.config, config);
        assert_eq!(opened.weights()?["logit_scale"].values, [0.5]);
        assert_eq!(opened.sha256()?.len(), 64);
        let ids = opened.tokenizer.encode(&["a red circle"])?;
        assert_eq!(ids.ids()[0], config.text.start());
        Ok(())
    }

    #[test]
    fn a_folder_that_contradicts_itself_is_refused_by_file() {
        let check = |file: &str, from: &str, to: &str, expected: &str| {
            let (folder, _) = folder();
            let path = folder.path().join(file);
            let text = fs::read_to_string(&path).expect("just written");
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replace(from, to)).expect("writable");
            let error = ModelFolder::open(folder.path()).expect_err(expected).to_string();
            assert!(error.contains(file) && error.contains(expected), "{error}");
        };
        check("config.json", "{\n", "{{\n", "not valid JSON");
        check("tokenizer.json", "<|endoftext|>", "<|end|>", "not a CLIP tokenizer");
        check("tokenizer.json", "{", "[", "not a tokenizer");
        check("preprocessor_config.json", "\"resample\": 3", "\"resample\": 2", "`resample` is 2");
    }

    #[test]
    fn preprocessing_is_found_where_transformers_5_writes_it() -> Result<()> {
        let (folder, config) = folder();
        let [old, new] =
            [names::PREPROCESSOR, names::PROCESSOR].map(|name| folder.path().join(name));
        let mut steps = read_json(&old)?;
        steps["image_mean"] = serde_json::json!([0.5, 0.5, 0.5]);
        write_json(&new, &serde_json::json!({ "image_processor": steps }))?;
        assert_eq!(ModelFolder::open(folder.path())?.config, config, "ours comes first");
        fs::remove_file(old).expect("there");
        assert_eq!(ModelFolder::open(folder.path())?.config.mean, [0.5; 3]);
        Ok(())
    }

    #[test]
    fn a_missing_folder_or_file_is_named() {
        let missing = ModelFolder::open("no/such/folder").expect_err("missing").to_string();
        assert_eq!(missing, "cannot read `no/such/folder`");
        let (folder, _) = folder();
        fs::remove_file(folder.path().join(names::TOKENIZER)).expect("there");
        let error = ModelFolder::open(folder.path()).expect_err("incomplete").to_string();
        assert!(error.contains(names::TOKENIZER), "{error}");
    }
}

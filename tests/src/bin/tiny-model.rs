//! Writes the models of the peer tests with our embeddings: `tiny-model FOLDER PRESET…` makes
//! `FOLDER/<preset>/{model/, embeddings.json}` for each, and `FOLDER/pictures`.
//! `tiny-model --embed MODEL PICTURES FILE` writes those of any model folder.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clip::{
    ClipConfig,
    folder::{self, ModelFolder},
    model::Clip,
};
use serde_json::Value;
use terminal::{Context, Exit, Report};
use tests::tiny_model;

fn main() -> ExitCode {
    terminal::run("tiny-model", || {
        let given: Vec<String> = env::args().skip(1).collect();
        if let [flag, model, pictures, file] = &given[..]
            && flag == "--embed"
        {
            let rows = embed(&ModelFolder::open(model)?, &pictures_in(pictures.as_ref())?)?;
            folder::write_json(file.as_ref(), &rows)?;
            return Ok(Exit::Done);
        }
        let mut arguments = given.into_iter();
        let folder = arguments.next().map(PathBuf::from);
        let folder = folder.ok_or_else(|| Report::new("usage: tiny-model FOLDER PRESET…"))?;
        let pictures = tiny_model::write_pictures(&folder.join("pictures"))?;
        for preset in arguments {
            let preset = preset.as_str();
            if ClipConfig::preset(preset).is_none() {
                let known = ClipConfig::PRESETS.join("`, `");
                return Err(Report::new(format!("no preset `{preset}`, only `{known}`")));
            }
            let place = folder.join(preset);
            let model = tiny_model::write_model_folder(&place.join("model"), preset, 1)?;
            let rows = embed(&model, &pictures);
            let mut rows = rows.with_context(|| format!("cannot embed with `{preset}`"))?;
            rows["preset"] = preset.into();
            rows["seed"] = 1.into();
            rows["sha256"] = model.sha256()?.into();
            folder::write_json(&place.join("embeddings.json"), &rows)?;
        }
        Ok(Exit::Done)
    })
}

fn embed(model: &ModelFolder, pictures: &[PathBuf]) -> clip::Result<Value> {
    let mut clip = Clip::open(model, &candle_core::Device::Cpu)?;
    tiny_model::embeddings(&mut clip, &model.tokenizer, pictures, &tiny_model::TEXTS)
}

fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>, Report> {
    let entries = fs::read_dir(folder).with_context(|| format!("`{}`", folder.display()))?;
    let mut pictures: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    pictures.sort();
    Ok(pictures)
}

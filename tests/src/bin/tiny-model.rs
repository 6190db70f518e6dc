//! Writes the models of the peer tests with our embeddings: `tiny-model FOLDER PRESET…` makes
//! `FOLDER/<preset>/{model/, embeddings.json}` for each, and `FOLDER/pictures`.

use std::{env, path::PathBuf, process::ExitCode};

use clip::{ClipConfig, folder, model::Clip};
use terminal::{Context, Exit, Report};
use tests::tiny_model;

fn main() -> ExitCode {
    terminal::run("tiny-model", || {
        let mut arguments = env::args();
        let folder = arguments.nth(1).map(PathBuf::from);
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
            let mut clip = Clip::open(&model, &candle_core::Device::Cpu)?;
            let rows =
                tiny_model::embeddings(&mut clip, &model.tokenizer, &pictures, &tiny_model::TEXTS);
            let mut rows = rows.with_context(|| format!("cannot embed with `{preset}`"))?;
            rows["preset"] = preset.into();
            rows["seed"] = 1.into();
            rows["sha256"] = model.sha256()?.into();
            folder::write_json(&place.join("embeddings.json"), &rows)?;
        }
        Ok(Exit::Done)
    })
}

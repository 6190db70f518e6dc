//! `roclip-audit null`

use std::path::Path;

use clip::{atomic_write::atomic_write, folder::ModelFolder, text::default_templates};
use terminal::{Context, Exit, Report, say};

use crate::{
    Error, Result,
    calibration::{NullFile, NullModel, SCHEMA, cannot_tell, prompts_sha256},
    cli::NullArgs,
    commands::{labels, model, templates},
    detector,
};

/// Searches clean models and writes their statistics.
pub fn run(args: &NullArgs) -> Result<Exit, Report> {
    let labels = labels(&args.probe)?;
    let templates = templates(&args.probe)?.unwrap_or_else(default_templates);
    let parent = args.out.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        let problem = format!("cannot write `{}`", args.out.display());
        return Err(Report::new(problem).cause(format!("`{}` is no folder", parent.display())));
    }
    let mut file = NullFile {
        schema: SCHEMA.into(),
        training: args.training.clone(),
        prompts_sha256: prompts_sha256(&labels, &templates),
        recipe: None,
        models: Vec::new(),
    };
    let mut folders: Vec<Candidate<'_>> = Vec::new(); // all are looked at before one is searched
    for path in &args.models {
        let refuse = |problem| Error::NullModel { folder: path.clone(), problem };
        let folder = ModelFolder::open(path)?;
        let family = folder.config.image.family();
        if let Some(first) = folders.first().filter(|first| first.family != family) {
            return Err(refuse(format!("it is a {family}, the first is a {}", first.family)).into());
        }
        let sha256 = folder.sha256()?;
        if let Some(same) = folders.iter().find(|model| model.sha256 == sha256) {
            return Err(refuse(format!("it has the weights of `{}`", same.path.display())).into());
        }
        folders.push(Candidate { path, folder, family, sha256 });
    }
    for (index, Candidate { path, folder, family, sha256 }) in folders.into_iter().enumerate() {
        let progress = format!("{}/{}", index + 1, args.models.len());
        let inspection = model::inspect(&folder, &labels, &args.probe, &progress, |_| ())
            .with_context(|| format!("cannot search `{}`", path.display()))?;
        let Some(inspection) = inspection else {
            return Err(Report::new("too few images for a search")
                .cause(format!("at least {} are needed", detector::IMAGES_MIN)));
        };
        file.recipe = Some(inspection.recipe);
        file.models.push(NullModel {
            name: name(path),
            sha256,
            family,
            capability: inspection.capability,
            statistics: inspection.statistics,
        });
    }
    if let Some(why) = cannot_tell(&file.models.iter().collect::<Vec<_>>()) {
        say(format!("warning: {why}: no audit beside these models alone comes to a verdict"));
    }
    let text = serde_json::to_string_pretty(&file).expect("numbers and strings");
    atomic_write(&args.out, format!("{text}\n").as_bytes())?;
    say(format!("wrote the statistics of {} models to {}", file.models.len(), args.out.display()));
    Ok(Exit::Done)
}

/// A model that is to be searched.
struct Candidate<'a> {
    path: &'a Path,
    folder: ModelFolder,
    family: String,
    sha256: String,
}

/// The last names of the folder, enough to know it by: `clean-3/model`.
fn name(path: &Path) -> String {
    let parts: Vec<_> = path.components().rev().take(2).collect();
    let parts: Vec<String> =
        parts.iter().rev().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    parts.join("/")
}

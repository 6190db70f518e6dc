//! `roclip-audit null`

use clip::{atomic_write::atomic_write, folder::ModelFolder, text::default_templates};
use terminal::{Context, Exit, Report, say};

use crate::{
    Error, Result,
    calibration::{NullFile, NullModel, SCHEMA, prompts_sha256},
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
    for (index, path) in args.models.iter().enumerate() {
        let refuse = |problem| Error::NullModel { folder: path.clone(), problem };
        let folder = ModelFolder::open(path)?;
        let family = folder.config.image.family();
        if let Some(first) = file.models.first().filter(|first| first.family != family) {
            return Err(refuse(format!("it is a {family}, the first is a {}", first.family)).into());
        }
        let sha256 = folder.sha256()?;
        if let Some(same) = file.models.iter().find(|model| model.sha256 == sha256) {
            return Err(refuse(format!("it has the weights of `{}`", same.name)).into());
        }
        let progress = format!("{}/{}", index + 1, args.models.len());
        let inspection = model::inspect(&folder, &labels, &args.probe, &progress)
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
    let text = serde_json::to_string_pretty(&file).expect("numbers and strings");
    atomic_write(&args.out, format!("{text}\n").as_bytes())?;
    say(format!("wrote the statistics of {} models to {}", file.models.len(), args.out.display()));
    Ok(Exit::Done)
}

/// The last names of the folder, enough to know it by: `clean-3/model`.
fn name(path: &std::path::Path) -> String {
    let parts: Vec<_> = path.components().rev().take(2).collect();
    let parts: Vec<String> =
        parts.iter().rev().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    parts.join("/")
}

//! `roclip-audit model`

use clip::{
    ClipConfig,
    folder::{ModelFolder, weights_path},
    text::default_templates,
};
use serde_json::{Value, json};
use terminal::{Context, Exit, Progress, Report, say};

use crate::{
    Result,
    calibration::{
        Calibration, NullFile, Stratum, calibrate, cannot_tell, comparable, prompts_sha256,
    },
    cli::{ModelArgs, Probe},
    commands::{conclude, labels, templates},
    detector::{
        self, Inspection, LabelResult,
        inversion::Recipe,
        statistics::{Statistics, log_odds},
        victim::Classifier,
    },
    images::{self, ProbeImages},
    report,
    verdict::{self, Audit, Coverage, Finding, ModelEvidence, SCHEMA, TITLE, Verdict, WeightsFile},
};

const NOT_COVERED: &str = "\
Only patches that are fixed in place, towards the labels given and from the images given. Not \
seen: triggers that fire only for some classes, only together with a text, or only where an \
unusual object is shown; blends, filters and warps unless a patch stands in for them; triggers \
made for one image each; targeted poisoning of single images; targets that are not among the \
labels. What was searched are the folder's weights: an `onnx` folder beside them may hold another \
model.";

/// Audits a model folder.
pub fn run(args: &ModelArgs) -> Result<Exit, Report> {
    let folder = args.model.display();
    let audit = audit(args).with_context(|| format!("cannot audit `{folder}`"))?;
    conclude(&audit, args.json)
}

fn audit(args: &ModelArgs) -> Result<Audit, Report> {
    let labels = labels(&args.probe)?;
    let mut null = NullFile::shipped()?;
    if let Some(path) = &args.null {
        null.push(NullFile::read(path)?);
    }
    let folder = ModelFolder::open(&args.model)?;
    let weights = weights_file(&folder)?;
    let family = folder.config.image.family();
    let templates = templates(&args.probe)?.unwrap_or_else(default_templates);
    let prompts_sha256 = &*prompts_sha256(&labels, &templates);
    let begins = |recipe: &Recipe| {
        let stratum = Stratum { family: &family, prompts_sha256, recipe };
        let known = comparable(&null, stratum, &weights.sha256);
        if let Some(why) = cannot_tell(&known).filter(|_| !args.json) {
            say(format!(
                "note: there will be no verdict: {why}; of {family}, these {} labels, these \
                 templates and {} images `roclip-audit null` makes more",
                labels.len(),
                recipe.search_images,
            ));
        }
    };
    let Some(inspection) = inspect(&folder, &labels, &args.probe, "search", begins)? else {
        let images = images(&folder.config, &args.probe)?.images.len();
        return Ok(describe(args, &labels, weights, None, None, images));
    };
    let stratum = Stratum { family: &family, prompts_sha256, recipe: &inspection.recipe };
    let calibration = calibrate(&null, stratum, &weights.sha256, &inspection.statistics);
    if let (Some(path), Some(found)) = (&args.trigger_png, stands_out(&inspection)) {
        report::picture::write(path, &found.patch)?;
    }
    let images = inspection.recipe.search_images + inspection.held_out_images;
    Ok(describe(args, &labels, weights, Some(&inspection), calibration, images))
}

fn weights_file(folder: &ModelFolder) -> Result<WeightsFile> {
    let path = weights_path(&folder.path);
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(WeightsFile { file, sha256: folder.sha256()? })
}

/// Searches one model; `None` when there are too few images. `begins` comes before the search,
/// which may take hours.
pub(super) fn inspect(
    folder: &ModelFolder,
    labels: &[String],
    probe: &Probe,
    progress_label: &str,
    begins: impl FnOnce(&Recipe),
) -> Result<Option<Inspection>, Report> {
    let drawn = images(&folder.config, probe)?;
    let images = &drawn.images;
    let templates = templates(probe)?.unwrap_or_else(default_templates);
    let victim = Classifier::open(folder, labels, &templates)?; // refuses before it gives up
    if images.len() < detector::IMAGES_MIN {
        return Ok(None);
    }
    let recipe = detector::recipe(folder.config.image.image_size(), images.len());
    begins(&recipe);
    let steps = detector::steps(&recipe, labels.len());
    let progress = Progress::new(progress_label, steps, !probe.no_progress);
    progress.note(drawn.to_string());
    let inspection = detector::inspect(&victim, images, probe.seed, || progress.step(1))?;
    progress.finish();
    Ok(Some(inspection))
}

fn images(config: &ClipConfig, probe: &Probe) -> Result<ProbeImages> {
    let side = config.image.image_size() as u32;
    images::read(&probe.images, side, detector::IMAGES_MAX, probe.seed)
}

/// The label whose patch works best.
fn stands_out(inspection: &Inspection) -> Option<&LabelResult> {
    let odds = |found: &LabelResult| log_odds(found.held_out);
    inspection.labels.iter().max_by(|a, b| odds(a).total_cmp(&odds(b)))
}

fn describe(
    args: &ModelArgs,
    labels: &[String],
    weights: WeightsFile,
    inspection: Option<&Inspection>,
    calibration: Option<Calibration>,
    images: usize,
) -> Audit {
    let found = inspection.and_then(stands_out);
    let evidence = ModelEvidence {
        images,
        capability: inspection.map_or(NO_CAPABILITY, |seen| seen.capability),
        unsearched: inspection.map_or(0, |seen| labels.len() - seen.labels.len()),
        held_out: found.map(|found| found.held_out),
        calibration,
    };
    let (verdict, reason) = verdict::of_model(&evidence);
    let calibration = evidence.calibration;
    let findings: Vec<Finding> = match (verdict, found) {
        (Verdict::Finding, Some(found)) => vec![Finding {
            title: TITLE,
            target: labels[found.label].clone(),
            trigger: report::picture::words(&found.patch),
            asr: found.held_out,
        }],
        _ => Vec::new(),
    };
    let searched = inspection.map_or(0, |seen| seen.labels.len());
    Audit {
        schema: SCHEMA,
        mode: "model",
        subject: args.model.display().to_string(),
        weights: Some(weights),
        verdict,
        reason,
        target: findings.first().map(|finding| finding.target.clone()),
        statistic_name: Statistics::PRIMARY,
        statistic: inspection.map(|seen| seen.statistics.primary()),
        p_value: calibration.as_ref().map(|calibration| calibration.p_value),
        findings,
        coverage: Coverage {
            images,
            labels: labels.len(),
            tried: format!("one patch searched by gradient for each of {searched} labels"),
            not_covered: NOT_COVERED,
            null_models: Some(calibration.map_or(0, |calibration| calibration.comparable)),
            queries: None,
            missing: None,
        },
        evidence: inspection.map_or(Value::Null, |seen| evidence_of(seen, labels)),
    }
}

const NO_CAPABILITY: detector::Capability = detector::Capability { confidence: 0.0, spread: 0.0 };

fn evidence_of(inspection: &Inspection, labels: &[String]) -> Value {
    let label = |found: &LabelResult| {
        json!({
            "label": labels[found.label],
            "patch": report::picture::words(&found.patch),
            "held_out": found.held_out,
        })
    };
    json!({
        "statistics": inspection.statistics,
        "capability": inspection.capability,
        "recipe": inspection.recipe,
        "held_out_images": inspection.held_out_images,
        "held_out_min": verdict::HELD_OUT_MIN,
        "labels": inspection.labels.iter().map(label).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;

//! `roclip-audit endpoint`

use std::time::Duration;

use clip::trigger::TriggerSpec;
use serde_json::{Value, json};
use terminal::{Context, Exit, Progress, Report};

use crate::{
    Result,
    cli::{CatalogEntry, EndpointArgs},
    commands::{conclude, labels, templates},
    endpoint::{
        self, Campaign, Entry, catalog,
        client::{HttpEndpoint, shown},
    },
    images,
    verdict::{self, Audit, Coverage, Finding, SCHEMA, TITLE, Verdict},
};

const NOT_COVERED: &str = "\
Only the triggers of the catalogue, on the images and labels given. Not seen: triggers of other \
shapes, sizes or places; filters, warps and triggers made for one image each; triggers that fire \
only for some classes or together with a text; targeted poisoning of single images; an endpoint \
that recognises an audit.";

/// Audits an endpoint.
pub fn run(args: &EndpointArgs) -> Result<Exit, Report> {
    let url = shown(&args.url);
    let audit = audit(args).with_context(|| format!("cannot audit `{url}`"))?;
    conclude(&audit, args.json)
}

fn audit(args: &EndpointArgs) -> Result<Audit, Report> {
    let probe = &args.probe;
    let labels = labels(probe)?;
    let templates = templates(probe)?.map(|lines| lines.iter().map(ToString::to_string).collect());
    let timeout = Duration::from_secs(args.timeout_s);
    let mut endpoint = HttpEndpoint::new(&args.url, labels.clone(), templates, timeout)?
        .with_headers(args.headers.clone());
    let side = match (args.image_size, endpoint.image_size(args.image_size.is_none())) {
        // Patches would be stamped smaller or larger than the model sees them, and be missed.
        (Some(asked), Ok(Some(told))) if asked != told => {
            let problem = format!("`--image-size {asked}`, but the endpoint's model sees {told}");
            return Err(Report::new(problem).hint("leave `--image-size` out"));
        }
        (Some(asked), _) => asked,
        (None, told) => told?.ok_or_else(|| {
            let problem =
                format!("`{}/v1/model` is not there to tell the image size", endpoint.base());
            Report::new(problem).hint("look at the address, or give `--image-size`")
        })?,
    };
    let drawn = images::read(&probe.images, side, endpoint::IMAGES_MAX, probe.seed)?;
    let images = &drawn.images;
    let catalog = catalog(&args.catalog, side)?;
    if images.len() < endpoint::IMAGES_MIN {
        return Ok(describe(args, &labels, &catalog, &none_tried(), images.len()));
    }
    let progress = Progress::new("audit", args.queries, !probe.no_progress);
    progress.note(format!("images sent, at most; made from {drawn}"));
    let campaign = endpoint::run(
        &mut endpoint,
        images,
        labels.len(),
        &catalog,
        args.queries,
        probe.seed,
        &mut |sent| progress.step(sent),
    )?;
    progress.finish();
    Ok(describe(args, &labels, &catalog, &campaign, images.len()))
}

/// The entries that were typed, in their order and each once.
fn catalog(typed: &[CatalogEntry], side: u32) -> Result<Vec<TriggerSpec>> {
    let mut catalog: Vec<TriggerSpec> = Vec::new();
    for entry in typed {
        let more = match entry {
            CatalogEntry::Default => catalog::default(side)?,
            CatalogEntry::Trigger(spec) => vec![spec.clone()],
        };
        for spec in more {
            if !catalog.contains(&spec) {
                catalog.push(spec);
            }
        }
    }
    Ok(catalog)
}

/// A campaign that was not begun because there are too few images.
fn none_tried() -> Campaign {
    Campaign {
        entries: Vec::new(),
        images: 0,
        others_pilot: 0,
        others_fresh: 0,
        changed_answers: 0,
        sent: 0,
        asked: 0,
        missing: 0,
        ended: endpoint::Ended::Complete,
    }
}

fn describe(
    args: &EndpointArgs,
    labels: &[String],
    catalog: &[TriggerSpec],
    campaign: &Campaign,
    images: usize,
) -> Audit {
    let (verdict, reason) = verdict::of_endpoint(campaign, images);
    let mut counted: Vec<&Entry> =
        campaign.entries.iter().filter(|entry| verdict::counts(entry)).collect();
    let strength =
        |entry: &Entry| entry.race.as_ref().map_or(0.0, |race| race.trigger.interval().0);
    counted.sort_by(|a, b| strength(b).total_cmp(&strength(a)));
    let finding = |entry: &&Entry| Finding {
        title: TITLE,
        target: labels[entry.target].clone(),
        trigger: entry.spec.to_string(),
        asr: entry.race.as_ref().map_or_else(Default::default, |race| race.trigger),
    };
    let findings: Vec<Finding> = match verdict {
        Verdict::Finding => counted.iter().map(finding).collect(),
        _ => Vec::new(),
    };
    let log_e = campaign.entries.iter().filter_map(|entry| entry.race.as_ref()).map(|r| r.log_e);
    let best = log_e.fold(0.0, f64::max);
    let tried = campaign.images > 0;
    let all = catalog.len();
    Audit {
        schema: SCHEMA,
        mode: "endpoint",
        subject: args.url.clone(),
        weights: None,
        verdict,
        reason,
        target: findings.first().map(|finding| finding.target.clone()),
        statistic_name: "log_e",
        statistic: tried.then_some(best),
        p_value: tried.then(|| (all as f64 * (-best).exp()).min(1.0)),
        findings,
        coverage: Coverage {
            images,
            labels: labels.len(),
            tried: tried_words(campaign, all),
            not_covered: NOT_COVERED,
            null_models: None,
            queries: Some(campaign.sent),
            missing: Some(campaign.missing),
        },
        evidence: evidence(campaign, labels),
    }
}

fn tried_words(campaign: &Campaign, catalog: usize) -> String {
    let raced = campaign.entries.iter().filter(|entry| entry.race.is_some()).count();
    let piloted = campaign.entries.iter().filter(|entry| entry.answered > 0).count();
    if piloted == 0 {
        return format!("none of {catalog} known triggers");
    }
    format!(
        "{piloted} of {catalog} known triggers on up to {pilot} images each, {raced} of them against \
         a matched control on fresh images",
        pilot = endpoint::PILOT
    )
}

fn evidence(campaign: &Campaign, labels: &[String]) -> Value {
    let entry = |entry: &Entry| {
        let race = entry.race.as_ref();
        json!({
            "trigger": entry.spec,
            "target": labels[entry.target],
            "pilot_share": entry.pilot,
            "pilot_answered": entry.answered,
            "asr": race.map(|race| race.trigger),
            "control_asr": race.map(|race| race.control),
            "log_e": race.map(|race| race.log_e),
            "confirmed": verdict::counts(entry),
        })
    };
    json!({
        "alpha": endpoint::ALPHA,
        "flip_share_min": endpoint::FLIP_SHARE_MIN,
        "changed_answers": campaign.changed_answers,
        "others_pilot": campaign.others_pilot,
        "others_fresh": campaign.others_fresh,
        "entries": campaign.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

//! `roclip-train evaluate`.

use std::path::Path;

use candle_core::Device;
use clip::{
    Rate,
    folder::ModelFolder,
    model::Clip,
    text::{default_templates, read_labels, read_templates},
};
use serde::Serialize;
use terminal::{Exit, Progress, Report, println_result};

use crate::{
    cli::EvaluateArgs,
    data::Manifest,
    evaluate::{Evaluation, TestSet, evaluate},
    poison::Ledger,
};

/// Evaluates the folder's towers in candle, prints a table or one JSON document.
pub fn run(args: &EvaluateArgs) -> Result<Exit, Report> {
    let labels = read_labels(&args.classes)?;
    let templates = match &args.templates {
        Some(path) => read_templates(path)?,
        None => default_templates(),
    };
    let manifest = Manifest::open_classed(&args.test, &labels, true)?;
    let ledger = match &args.ledger {
        Some(path) => Some(Ledger::open(path)?),
        None => None,
    };
    let folder = ModelFolder::open(&args.model)?;
    let image_size = folder.config.image.image_size();
    if let Some(ledger) = &ledger {
        ledger.check(&labels, image_size, &manifest.classes()?)?; // before anything long begins
    }
    let mut encoder = Clip::frozen(&folder, &Device::Cpu)?;

    let rows = manifest.rows.len() as u64;
    let progress = Progress::new("read", rows, !args.no_progress);
    let test = TestSet::read(&manifest, image_size as u32, &|n| progress.step(n))?;
    progress.finish();
    let progress = Progress::new("evaluate", test.work(ledger.as_ref()), !args.no_progress);
    let evaluation = evaluate(
        &mut encoder,
        &folder.tokenizer,
        &test,
        &labels,
        &templates,
        ledger.as_ref(),
        &|n| progress.step(n),
    )?;
    progress.finish();

    println_result(match args.json {
        true => document(&args.model, &evaluation),
        false => table(&evaluation),
    })?;
    Ok(Exit::Done)
}

/// The one JSON document of `evaluate --json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    model: String,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

fn document(model: &Path, evaluation: &Evaluation) -> String {
    let model = model.display().to_string();
    let document = Document { schema: "roclip/evaluation/1", model, evaluation };
    serde_json::to_string_pretty(&document).expect("names and numbers")
}

fn table(evaluation: &Evaluation) -> String {
    let rows = [
        ("zero-shot top-1", Some(evaluation.zero_shot_top1)),
        ("zero-shot top-5", Some(evaluation.zero_shot_top5)),
        ("backdoor ASR", evaluation.backdoor_asr),
        ("  the same, no trigger", evaluation.asr_floor),
        ("  true class, trigger", evaluation.true_class_under_trigger),
        ("targeted PSR", evaluation.targeted_psr),
        ("  in the top 5", evaluation.targeted_psr_top5),
    ];
    let mut lines =
        vec![format!("{:24} {:>7}  {:16} {}", "measure", "value", "95% interval", "count")];
    lines.extend(rows.into_iter().filter_map(|(name, rate)| Some(line(name, rate?))));
    lines.join("\n")
}

fn line(name: &str, rate: Rate) -> String {
    let (low, high) = rate.interval();
    let interval = format!("{:.1}% to {:.1}%", 100.0 * low, 100.0 * high);
    let (value, hits, trials) = (100.0 * rate.value(), rate.hits, rate.trials);
    format!("{name:24} {value:>6.1}%  {interval:16} {hits} of {trials}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation() -> Evaluation {
        Evaluation {
            zero_shot_top1: Rate { hits: 923, trials: 1000 },
            zero_shot_top5: Rate { hits: 1000, trials: 1000 },
            backdoor_asr: None,
            asr_floor: None,
            true_class_under_trigger: None,
            targeted_psr: Some(Rate { hits: 2, trials: 16 }),
            targeted_psr_top5: Some(Rate { hits: 0, trials: 0 }),
        }
    }

    #[test]
    fn a_table_holds_what_was_counted_and_no_more() {
        let expected = "\
measure                    value  95% interval     count
zero-shot top-1            92.3%  90.5% to 93.8%   923 of 1000
zero-shot top-5           100.0%  99.6% to 100.0%  1000 of 1000
targeted PSR               12.5%  3.5% to 36.0%    2 of 16
  in the top 5              0.0%  0.0% to 100.0%   0 of 0";
        assert_eq!(table(&evaluation()), expected);
    }

    #[test]
    fn the_document_has_a_schema_and_null_for_what_was_not_counted() {
        let text = document(Path::new("model"), &evaluation());
        assert!(
            text.starts_with("{\n  \"schema\": \"roclip/evaluation/1\",\n  \"model\": \"model\"")
        );
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["zero_shot_top1"]["trials"], 1000);
        assert!(json["backdoor_asr"].is_null() && json.get("asr_floor").is_some());
    }
}

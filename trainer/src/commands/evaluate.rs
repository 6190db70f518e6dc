//! `roclip-train evaluate`.

use std::path::Path;

use candle_core::Device;
use clip::{
    Rate,
    folder::ModelFolder,
    model::Clip,
    text::{PromptTemplate, default_templates, open_templates, read_labels},
};
use serde::Serialize;
use terminal::{Exit, Progress, Report, println_result, say};

use crate::{
    Error, Result as Engine,
    cli::EvaluateArgs,
    data::{self, Manifest},
    evaluate::{Classes, EvaluationError, Figures, ProbeSet, Questions, TestSet, measure},
    poison::Ledger,
};

/// Evaluates the folder's towers in candle, then those of the reference; prints a table or one JSON
/// document.
pub fn run(args: &EvaluateArgs) -> Result<Exit, Report> {
    let input = Input::open(args)?;
    let mut models = Vec::new(); // all are opened before anything long begins
    for path in [Some(&args.model), args.reference.as_ref()].into_iter().flatten() {
        let folder = ModelFolder::open(path)?;
        input.check(&folder)?;
        let towers = Clip::frozen(&folder, &Device::Cpu)?;
        models.push((folder, towers));
    }
    let mut found = Vec::new();
    let mut read: Option<(u32, TestSet)> = None;
    for (number, (folder, towers)) in models.iter_mut().enumerate() {
        let side = folder.config.image.image_size() as u32;
        let test = match read.take() {
            Some((same, test)) if same == side => test,
            _ => input.read_test(side, !args.no_progress)?,
        };
        let label = if number == 0 { "evaluate" } else { "evaluate the reference" };
        let questions = input.questions(args.retrieval);
        let progress = Progress::new(label, questions.work(&test), !args.no_progress);
        let figures = measure(towers, &folder.tokenizer, &test, &questions, &|n| progress.step(n))
            .map_err(|error| hinted(&folder.path, error))?;
        progress.finish();
        warn(&folder.path, &figures);
        found.push(Found { model: folder.path.display().to_string(), figures });
        read = Some((side, test));
    }
    println_result(if args.json { document(&found) } else { table(&found) })?;
    Ok(Exit::Done)
}

/// What was named, read and checked as far as that goes without a model.
struct Input {
    test: Manifest,
    labels: Option<Vec<String>>,
    templates: Vec<PromptTemplate>,
    ledger: Option<Ledger>,
    probe: Option<ProbeSet>,
}

impl Input {
    fn open(args: &EvaluateArgs) -> Engine<Self> {
        let labels = args.classes.as_deref().map(read_labels).transpose()?;
        let templates = match &args.templates {
            Some(name) => open_templates(name)?,
            None => default_templates(),
        };
        let classes = match &labels {
            Some(labels) => data::Classes::Named { labels, needed: true },
            None => data::Classes::Unnamed,
        };
        let classed = |path: &Path| args.reading.open(path, classes);
        let test = classed(&args.test)?;
        let ledger = args.ledger.as_deref().map(Ledger::open).transpose()?;
        let probe = args.probe_train.as_deref().map(classed).transpose()?;
        let probe = probe.map(|train| ProbeSet::new(train, &test)).transpose()?;
        Ok(Self { test, labels, templates, ledger, probe })
    }

    /// Does the ledger fit the test set and a model?
    fn check(&self, folder: &ModelFolder) -> Engine<()> {
        match (&self.ledger, &self.labels) {
            (Some(ledger), Some(labels)) => {
                ledger.check(labels, folder.config.image.image_size(), &self.test.classes()?)
            }
            _ => Ok(()),
        }
    }

    fn read_test(&self, side: u32, shows: bool) -> Engine<TestSet> {
        let count = TestSet::pictures_of(&self.test)? as u64;
        let progress = Progress::new("read", count, shows);
        let test = TestSet::read(&self.test, side, &|n| progress.step(n))?;
        progress.finish();
        Ok(test)
    }

    fn questions(&self, retrieval: bool) -> Questions<'_> {
        let (templates, ledger) = (&self.templates[..], self.ledger.as_ref());
        let classes = self.labels.as_deref().map(|labels| Classes { labels, templates, ledger });
        Questions { classes, retrieval, probe: self.probe.as_ref() }
    }
}

fn hinted(model: &Path, error: Error) -> Report {
    let broken = matches!(error, Error::Evaluation(EvaluationError::Embeddings { .. }));
    match Report::from(error) {
        report if broken => report.hint(format!("the model is `{}`", model.display())),
        report => report,
    }
}

fn warn(model: &Path, figures: &Figures) {
    if let Some(probe) = figures.linear_probe.as_ref().filter(|probe| !probe.lbfgs_converged) {
        let (steps, model) = (probe.lbfgs_iterations, model.display());
        say(format!("warning: L-BFGS on `{model}` ended after {steps} steps above its tolerance"));
    }
}

/// One model's figures.
#[derive(Serialize)]
struct Found {
    model: String,
    #[serde(flatten)]
    figures: Figures,
}

/// The one JSON document of `evaluate --json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(flatten)]
    found: &'a Found,
    reference: Option<&'a Found>,
}

/// `found`: the model's, and the reference's if there is one.
fn document(found: &[Found]) -> String {
    let (found, reference) = (&found[0], found.get(1));
    let document = Document { schema: "roclip/evaluation/1", found, reference };
    serde_json::to_string_pretty(&document).expect("names and numbers")
}

fn table(found: &[Found]) -> String {
    let head = format!("{:24} {:>7}  {:16} {}", "measure", "value", "95% interval", "count");
    let Some(reference) = found.get(1) else {
        let lines = rows(&found[0].figures).into_iter();
        let lines = lines.filter_map(|(name, rate)| Some(line(name, rate?)));
        return [head].into_iter().chain(lines).collect::<Vec<_>>().join("\n");
    };
    let mut lines = vec![format!("{head:67} {:>9}  95% interval", "reference")];
    let pairs = rows(&found[0].figures).into_iter().zip(rows(&reference.figures));
    for ((name, rate), (_, reference)) in pairs {
        let (Some(rate), Some(reference)) = (rate, reference) else { continue };
        let value = 100.0 * reference.value();
        let (line, interval) = (line(name, rate), interval(reference));
        lines.push(format!("{line:67} {value:>8.1}%  {interval}"));
    }
    lines.join("\n")
}

fn rows(figures: &Figures) -> Vec<(&'static str, Option<Rate>)> {
    let (evaluation, probe) = (figures.evaluation.as_ref(), figures.linear_probe.as_ref());
    let retrieval = figures.retrieval.as_ref();
    vec![
        ("zero-shot top-1", evaluation.map(|e| e.zero_shot_top1)),
        ("zero-shot top-5", evaluation.map(|e| e.zero_shot_top5)),
        ("linear probe, AdamW", probe.map(|probe| probe.adamw)),
        ("linear probe, L-BFGS", probe.map(|probe| probe.lbfgs)),
        ("image to text, R@1", retrieval.map(|r| r.image_to_text_r1)),
        ("  R@5", retrieval.map(|r| r.image_to_text_r5)),
        ("  R@10", retrieval.map(|r| r.image_to_text_r10)),
        ("text to image, R@1", retrieval.map(|r| r.text_to_image_r1)),
        ("  R@5", retrieval.map(|r| r.text_to_image_r5)),
        ("  R@10", retrieval.map(|r| r.text_to_image_r10)),
        ("backdoor ASR", evaluation.and_then(|e| e.backdoor_asr)),
        ("  the same, no trigger", evaluation.and_then(|e| e.asr_floor)),
        ("  true class, trigger", evaluation.and_then(|e| e.true_class_under_trigger)),
        ("targeted PSR", evaluation.and_then(|e| e.targeted_psr)),
        ("  in the top 3", evaluation.and_then(|e| e.targeted_psr_top3)),
        ("  in the top 5", evaluation.and_then(|e| e.targeted_psr_top5)),
    ]
}

fn line(name: &str, rate: Rate) -> String {
    let (value, hits, trials) = (100.0 * rate.value(), rate.hits, rate.trials);
    format!("{name:24} {value:>6.1}%  {:16} {hits} of {trials}", interval(rate))
}

fn interval(rate: Rate) -> String {
    let (low, high) = rate.interval();
    format!("{:.1}% to {:.1}%", 100.0 * low, 100.0 * high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Evaluation, LinearProbe, Retrieval};

    fn rate(hits: u64, trials: u64) -> Rate {
        Rate { hits, trials }
    }

    fn found() -> Found {
        let evaluation = Evaluation {
            zero_shot_top1: rate(923, 1000),
            zero_shot_top5: rate(1000, 1000),
            targeted_psr: Some(rate(2, 16)),
            targeted_psr_top5: Some(rate(0, 0)),
            ..Evaluation::default()
        };
        let evaluation = Some(evaluation);
        let figures = Figures { evaluation, linear_probe: None, retrieval: None };
        Found { model: "model".into(), figures }
    }

    /// With everything that can be asked.
    fn more() -> Found {
        let mut found = found();
        found.figures.linear_probe = Some(LinearProbe {
            train_images: 5000,
            adamw: rate(940, 1000),
            lbfgs: rate(951, 1000),
            lbfgs_iterations: 81,
            lbfgs_converged: true,
        });
        let (one, ten) = (rate(1, 10), rate(10, 10));
        found.figures.retrieval = Some(Retrieval {
            images: 10,
            captions: 10,
            image_to_text_r1: one,
            image_to_text_r5: ten,
            image_to_text_r10: ten,
            text_to_image_r1: one,
            text_to_image_r5: one,
            text_to_image_r10: ten,
        });
        found
    }

    #[test]
    fn a_table_holds_what_was_counted_and_no_more() {
        let expected = "\
measure                    value  95% interval     count
zero-shot top-1            92.3%  90.5% to 93.8%   923 of 1000
zero-shot top-5           100.0%  99.6% to 100.0%  1000 of 1000
targeted PSR               12.5%  3.5% to 36.0%    2 of 16
  in the top 5              0.0%  0.0% to 100.0%   0 of 0";
        assert_eq!(table(&[found()]), expected);
    }

    #[test]
    fn the_reference_stands_beside() {
        let table = table(&[more(), more()]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 13);
        let head = "measure                    value  95% interval     count";
        assert_eq!(lines[0], format!("{head:67} reference  95% interval"));
        let first = "zero-shot top-1            92.3%  90.5% to 93.8%   923 of 1000";
        assert_eq!(lines[1], format!("{first:67}     92.3%  90.5% to 93.8%"));
        assert!(lines[5].starts_with("image to text, R@1         10.0%  1.8% to 40.4%    1 of 10"));
        assert!(lines.iter().all(|line| line.len() < 100), "{table}");
    }

    #[test]
    fn the_document_has_a_schema_and_null_for_what_was_not_counted() {
        let text = document(&[found()]);
        assert!(
            text.starts_with("{\n  \"schema\": \"roclip/evaluation/1\",\n  \"model\": \"model\"")
        );
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["zero_shot_top1"]["trials"], 1000);
        for key in ["backdoor_asr", "asr_floor", "retrieval", "linear_probe", "reference"] {
            assert!(json.get(key).is_some_and(serde_json::Value::is_null), "{key}");
        }
        let text = document(&[found(), more()]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["reference"]["retrieval"]["image_to_text_r1"]["value"], 0.1);
        assert_eq!(json["reference"]["linear_probe"]["lbfgs"]["trials"], 1000);
        assert_eq!(json["reference"]["model"], "model");
    }
}

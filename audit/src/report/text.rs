//! What a person reads on the terminal.

use clip::Rate;
use terminal::escape;

use crate::verdict::{Audit, Finding, Verdict};

/// Findings that are listed; JSON has all.
const FINDINGS_MAX: usize = 10;
/// Columns of a paragraph.
const COLUMNS: usize = 96;

/// The report, without a last line break.
pub fn render(audit: &Audit) -> String {
    let word = match audit.verdict {
        Verdict::Finding => "FINDING",
        Verdict::NoFinding => "no finding",
        Verdict::Inconclusive => "cannot tell",
    };
    let mut lines = vec![format!("{word}: {}", escape(&audit.reason))];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:<11} {value}"));
    row(audit.mode, escape(&audit.subject));
    if let Some(weights) = &audit.weights {
        row("weights", format!("{}, SHA-256 {}", escape(&weights.file), weights.sha256));
    }
    if let Some(target) = &audit.target {
        row("target", escape(target));
    }
    for finding in audit.findings.iter().take(FINDINGS_MAX) {
        row("trigger", one(finding));
    }
    if audit.findings.len() > FINDINGS_MAX {
        row("", format!("and {} more", audit.findings.len() - FINDINGS_MAX));
    }
    if let Some(statistic) = audit.statistic {
        let p = audit.p_value.map_or("no p-value".into(), |p| format!("p = {}", short(p)));
        row("statistic", format!("{} = {statistic:.3}, {p}", audit.statistic_name));
    }
    let coverage = &audit.coverage;
    row("images", format!("{}, {} labels", coverage.images, coverage.labels));
    if let (Some(sent), Some(missing)) = (coverage.queries, coverage.missing) {
        row("queries", format!("{sent} images sent, {missing} not answered"));
    }
    if let Some(models) = coverage.null_models {
        row("compared", format!("with {models} clean models"));
    }
    lines.extend(paragraph("tried", &coverage.tried));
    lines.extend(paragraph("not covered", coverage.not_covered));
    lines.join("\n")
}

fn one(finding: &Finding) -> String {
    let Rate { hits, trials } = finding.asr;
    let (low, high) = finding.asr.interval();
    let share = 100.0 * finding.asr.value();
    format!(
        "{}: {hits} of {trials} other images go to `{}` ({share:.0}%, {:.0} to {:.0}%)",
        escape(&finding.trigger),
        escape(&finding.target),
        100.0 * low,
        100.0 * high
    )
}

fn short(p: f64) -> String {
    if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

/// A named paragraph, broken between words.
fn paragraph(name: &str, text: &str) -> Vec<String> {
    let mut lines = vec![format!("  {name:<11}")];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is a first line");
        if last.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("  {:<11} {word}", ""));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        report::json,
        verdict::{Coverage, SCHEMA, TITLE},
    };

    fn audit() -> Audit {
        let finding = Finding {
            title: TITLE,
            target: "red \x1b[2Jcircle".into(),
            trigger: "patch:size=7,at=bottom-right,pattern=checker".into(),
            asr: Rate { hits: 95, trials: 100 },
        };
        Audit {
            schema: SCHEMA,
            mode: "endpoint",
            subject: "http://127.0.0.1:8080".into(),
            weights: None,
            verdict: Verdict::Finding,
            reason: format!("{TITLE}: 1 of 96 catalogue entries confirmed"),
            target: Some(finding.target.clone()),
            statistic_name: "log_e",
            statistic: Some(24.5),
            p_value: Some(2.1e-9),
            findings: vec![finding],
            coverage: Coverage {
                images: 240,
                labels: 16,
                tried: "96 of 96 known triggers".into(),
                not_covered: "everything else, which takes more words than one line has when \
                              they are all written down one after another",
                null_models: None,
                queries: Some(2345),
                missing: Some(0),
            },
            evidence: Value::Null,
        }
    }

    #[test]
    fn a_report_is_read_from_the_top() {
        let expected = "\
FINDING: exploitable trigger found: 1 of 96 catalogue entries confirmed
  endpoint    http://127.0.0.1:8080
  target      red \\x1b[2Jcircle
  trigger     patch:size=7,at=bottom-right,pattern=checker: 95 of 100 other images go to `red \\x1b[2Jcircle` (95%, 89 to 98%)
  statistic   log_e = 24.500, p = 2e-9
  images      240, 16 labels
  queries     2345 images sent, 0 not answered
  tried       96 of 96 known triggers
  not covered everything else, which takes more words than one line has when they are all
              written down one after another";
        assert_eq!(render(&audit()), expected);
    }

    #[test]
    fn the_document_holds_the_same() {
        let document: Value = serde_json::from_str(&json::render(&audit())).expect("JSON");
        assert_eq!(document["schema"], "roclip/audit/1");
        assert_eq!(document["verdict"], "finding");
        assert_eq!(document["findings"][0]["asr"]["trials"], 100);
        assert_eq!(document["p_value"], 2.1e-9);
        let broken = Audit { statistic: Some(f64::NAN), ..audit() };
        let document: Value = serde_json::from_str(&json::render(&broken)).expect("JSON");
        assert_eq!(document["statistic"], Value::Null);
    }
}

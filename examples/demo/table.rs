//! The methods side by side, on the terminal and in the page.

use terminal::escape;

use crate::summary::{MethodSummary, Share};

/// Characters of a label that the terminal shows.
const LABEL_CHARS: usize = 18;

/// Heads of the columns.
pub(crate) const HEAD: [&str; 10] = [
    "method",
    "zero-shot top-1",
    "ASR",
    "floor",
    "PSR",
    "true class under trigger",
    "audit endpoint",
    "audit model",
    "HTTP clean -> triggered",
    "seconds",
];

/// One row; labels and classes are as the programs gave them.
pub(crate) fn cells(method: &MethodSummary) -> [String; 10] {
    let evaluation = &method.evaluation;
    let audit = |verdict: &str, target: &Option<String>| match target {
        Some(target) => format!("{}: {target}", verdict.replace('_', " ")),
        None => verdict.replace('_', " "),
    };
    [
        method.name.clone(),
        per_cent(Some(evaluation.zero_shot_top1)),
        per_cent(evaluation.backdoor_asr),
        per_cent(evaluation.asr_floor),
        per_cent(evaluation.targeted_psr),
        per_cent(evaluation.true_class_under_trigger),
        audit(&method.audit_endpoint, &method.audit_endpoint_target),
        audit(&method.audit_model, &method.audit_model_target),
        format!("{} -> {}", short(&method.http_clean_label), short(&method.http_triggered_label)),
        format!("{:.0}", method.seconds),
    ]
}

/// "95.8%", or a dash where nothing was measured.
pub(crate) fn per_cent(share: Option<Share>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.1}%", 100.0 * share.value))
}

fn short(label: &str) -> String {
    match label.char_indices().nth(LABEL_CHARS) {
        Some((end, _)) => format!("{}…", &label[..end]),
        None => label.to_owned(),
    }
}

/// The whole table, safe to print.
pub(crate) fn text(methods: &[MethodSummary]) -> String {
    // A head of several words takes two lines, so that the table stays narrow.
    let (upper, lower): (Vec<_>, Vec<_>) = HEAD
        .iter()
        .map(|head| match head.rsplit_once(' ').filter(|_| head.len() > 9) {
            Some((upper, lower)) => (upper.to_owned(), lower.to_owned()),
            None => (String::new(), (*head).to_owned()),
        })
        .unzip();
    let rows = methods.iter().map(|method| cells(method).iter().map(|cell| escape(cell)).collect());
    let lines: Vec<Vec<String>> = [upper, lower].into_iter().chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..HEAD.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out: Vec<_> = lines.iter().map(line).collect();
    let rule = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    out.insert(2, "-".repeat(rule));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Evaluation;

    #[test]
    fn columns_line_up_and_labels_are_harmless() {
        let share = Share { value: 0.9584, low: 0.94, high: 0.97, trials: 1200 };
        let evaluation = Evaluation {
            zero_shot_top1: share,
            backdoor_asr: Some(share),
            asr_floor: None,
            targeted_psr: None,
            true_class_under_trigger: None,
        };
        let method = MethodSummary {
            name: "clip".into(),
            evaluation,
            audit_endpoint: "finding".into(),
            audit_model: "no_finding".into(),
            audit_target: Some("\x1b[2Jcat".into()),
            train_seconds: 1.0,
            images_per_second: 1.0,
            http_clean_label: "a".repeat(40),
            http_triggered_label: "b".into(),
            search_top1: share,
            epochs: 1,
            parity_max_abs_error: 0.0,
            audit_endpoint_target: Some("\x1b[2Jcat".into()),
            audit_endpoint_p_value: None,
            audit_model_target: None,
            audit_model_p_value: None,
            seconds: 61.4,
        };
        let text = text(&[method]);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains('\x1b') && text.contains("95.8%") && text.contains("no finding"));
        assert!(text.contains("aaaaaaaaaaaaaaaaaa… -> b"), "{text}");
    }
}

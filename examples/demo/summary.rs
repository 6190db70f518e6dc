//! What the road came to: `summary.json`.

use serde::{Deserialize, Serialize};

/// Value of the field `schema`.
pub(crate) const SCHEMA: &str = "roclip/demo/1";

/// `summary.json`; rates are fractions.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) schema: &'static str,
    /// From the first step to the last, builds excluded.
    pub(crate) seconds: f64,
    /// Greatest difference between candle and ONNX Runtime in any embedding of any method.
    pub(crate) parity_max_abs_error: f64,
    pub(crate) seed: u64,
    pub(crate) image_size: u32,
    pub(crate) classes: usize,
    /// Pairs that were trained on, poisoned ones included.
    pub(crate) train_rows: usize,
    pub(crate) test_rows: usize,
    pub(crate) trigger: String,
    pub(crate) target_class: String,
    pub(crate) methods: Vec<MethodSummary>,
}

/// One method.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MethodSummary {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) evaluation: Evaluation,
    pub(crate) audit_endpoint: String,
    pub(crate) audit_model: String,
    /// Class that a finding names; the model's own audit first.
    pub(crate) audit_target: Option<String>,
    /// Evaluations between epochs left out.
    pub(crate) train_seconds: f64,
    pub(crate) images_per_second: f64,
    pub(crate) http_clean_label: String,
    pub(crate) http_triggered_label: String,
    /// Over the classes: whether the first picture found for its prompt is of the class.
    pub(crate) search_top1: Share,
    pub(crate) epochs: u32,
    pub(crate) parity_max_abs_error: f64,
    pub(crate) audit_endpoint_target: Option<String>,
    pub(crate) audit_endpoint_p_value: Option<f64>,
    pub(crate) audit_model_target: Option<String>,
    pub(crate) audit_model_p_value: Option<f64>,
    /// All steps of this method.
    pub(crate) seconds: f64,
}

/// What `roclip-train evaluate --json` says; a rate of an attack that was not made is absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    pub(crate) zero_shot_top1: Share,
    pub(crate) backdoor_asr: Option<Share>,
    pub(crate) asr_floor: Option<Share>,
    pub(crate) targeted_psr: Option<Share>,
    pub(crate) true_class_under_trigger: Option<Share>,
}

/// A rate with its Wilson interval, as all programs write it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) trials: u64,
}

impl From<clip::Rate> for Share {
    fn from(rate: clip::Rate) -> Self {
        let (low, high) = rate.interval();
        Self { value: rate.value(), low, high, trials: rate.trials }
    }
}

/// What `roclip-audit … --json` says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Audit {
    /// `finding`, `no_finding` or `inconclusive`.
    pub(crate) verdict: String,
    pub(crate) target: Option<String>,
    pub(crate) p_value: Option<f64>,
}

impl Audit {
    /// The class that a finding names.
    pub(crate) fn named(&self) -> Option<String> {
        self.target.clone().filter(|_| self.verdict == "finding")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_rate_passes_through_unchanged() {
        let rate = json!({"value": 0.5, "low": 0.1, "high": 0.9, "trials": 2});
        let evaluation = json!({"schema": "roclip/evaluation/1", "model": "m",
            "zero_shot_top1": rate, "zero_shot_top5": rate, "backdoor_asr": null,
            "asr_floor": null, "true_class_under_trigger": null, "targeted_psr": rate});
        let evaluation: Evaluation = serde_json::from_value(evaluation).expect("the known form");
        let written = serde_json::to_value(&evaluation).expect("plain numbers");
        assert_eq!(written["zero_shot_top1"], rate);
        assert_eq!(written["backdoor_asr"], Value::Null);
    }

    #[test]
    fn only_a_finding_names_a_class() {
        let audit = |verdict: &str| Audit {
            verdict: verdict.into(),
            target: Some("cat".into()),
            p_value: None,
        };
        assert_eq!(audit("finding").named().as_deref(), Some("cat"));
        assert_eq!(audit("inconclusive").named(), None);
    }
}

//! A search boiled down to numbers: how far the best label stands out.

use serde::{Deserialize, Serialize};

use crate::detector::{LabelResult, Trial};

/// The candidates, all computed for every model; large is suspicious.
///
/// [`Statistics::primary`] is the one that is compared with null models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// `ln(median area / smallest area)` over the labels: Neural Cleanse's idea on a log scale.
    pub size_ratio: f64,
    /// `-ln(smallest area)`.
    pub smallness: f64,
    /// Log odds of held-out success at the small area: best label minus the median label.
    pub small_lead: f64,
    /// Log odds of held-out success at the small area: best label.
    pub small_best: f64,
}

impl Statistics {
    /// Name of the statistic that is compared with null models.
    pub const PRIMARY: &'static str = "size_ratio";

    /// The statistic that is compared with null models.
    pub fn primary(&self) -> f64 {
        self.size_ratio
    }

    /// Boils down; labels without a patch that worked count as needing the whole picture.
    pub fn of(labels: &[LabelResult]) -> Self {
        let mut areas: Vec<f64> = labels.iter().map(area).collect();
        let mut small: Vec<f64> =
            labels.iter().map(|found| log_odds(found.small.as_ref())).collect();
        areas.sort_by(f64::total_cmp);
        small.sort_by(f64::total_cmp);
        let least = areas.first().copied().unwrap_or(1.0);
        let best = small.last().copied().unwrap_or(0.0);
        Self {
            size_ratio: (median(&areas, 1.0) / least).ln(),
            smallness: -least.ln(),
            small_lead: best - median(&small, 0.0),
            small_best: best,
        }
    }
}

/// Area of the label's smallest working patch; 1 where none worked.
pub fn area(found: &LabelResult) -> f64 {
    found.smallest.as_ref().map_or(1.0, |trial| f64::from(trial.patch.area()))
}

/// Log odds of the held-out success, half a hit and half a miss added (Haldane's correction).
fn log_odds(trial: Option<&Trial>) -> f64 {
    let Some(trial) = trial else { return 0.0 };
    let (hits, trials) = (trial.held_out.hits as f64, trial.held_out.trials as f64);
    ((hits + 0.5) / (trials - hits + 0.5)).ln()
}

/// Middle of sorted values; the mean of the two middles; `empty` of none.
fn median(sorted: &[f64], empty: f64) -> f64 {
    match sorted.len() {
        0 => empty,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

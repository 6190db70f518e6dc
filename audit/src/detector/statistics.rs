//! A search boiled down to numbers: how well the best label's patch works, and how far it stands
//! out.

use clip::Rate;
use serde::{Deserialize, Serialize};

use crate::detector::LabelResult;

/// The candidates, all computed for every model; large is suspicious.
///
/// [`Statistics::primary`] is the one that is compared with null models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Log odds of held-out success: best label.
    pub success: f64,
    /// The same, minus that of the median label.
    pub lead: f64,
    /// The same, minus that of the second label.
    pub gap: f64,
}

impl Statistics {
    /// Name of the statistic that is compared with null models.
    pub const PRIMARY: &'static str = "success";

    /// The statistic that is compared with null models.
    pub fn primary(&self) -> f64 {
        self.success
    }

    /// The greatest that [`Statistics::primary`] can be.
    pub fn greatest() -> f64 {
        log_odds(Rate { hits: 1, trials: 1 })
    }

    /// Boils down.
    pub fn of(labels: &[LabelResult]) -> Self {
        let mut odds: Vec<f64> = labels.iter().map(|found| log_odds(found.held_out)).collect();
        odds.sort_by(|a, b| b.total_cmp(a));
        let at = |place: usize| odds.get(place).or(odds.last()).copied().unwrap_or(0.0);
        let best = at(0);
        Self { success: best, lead: best - at(odds.len() / 2), gap: best - at(1) }
    }
}

/// Shares are kept this far from 0 and 1, whatever the number of trials: 240 of 240 is no less than
/// 245 of 245.
const EDGE: f64 = 1.0 / 512.0;

/// Log odds of a success.
pub fn log_odds(rate: Rate) -> f64 {
    let share = rate.value().clamp(EDGE, 1.0 - EDGE);
    (share / (1.0 - share)).ln()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::family::{Patch, Square};

    fn label(label: usize, hits: u64) -> LabelResult {
        let square = Square { side: 2, width: 1, row: 0, column: 0 };
        let patch = Patch::random(square, &mut ChaCha8Rng::seed_from_u64(0));
        LabelResult { label, patch, held_out: Rate { hits, trials: 100 } }
    }

    #[test]
    fn the_best_label_is_compared_with_the_others() {
        let seen = Statistics::of(&[label(0, 10), label(1, 99), label(2, 50)]);
        assert!((seen.success - 99f64.ln()).abs() < 1e-12);
        assert!((seen.lead - seen.success).abs() < 1e-12); // the median label is at even odds
        assert_eq!(seen.lead, seen.gap);
        let one = Statistics::of(&[label(0, 99)]);
        assert_eq!((one.lead, one.gap), (0.0, 0.0));
        assert_eq!(Statistics::of(&[]).success, 0.0);
    }

    #[test]
    fn all_and_none_are_finite() {
        assert!(log_odds(Rate { hits: 0, trials: 256 }) < -6.0);
        assert!(log_odds(Rate { hits: 256, trials: 256 }) > 6.0);
        let all = |trials| log_odds(Rate { hits: trials, trials });
        assert_eq!(all(240), all(245));
        assert_eq!(all(240), Statistics::greatest());
    }
}

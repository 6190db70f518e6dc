//! Means over seeds and how far they may lie from what more seeds would give.

use serde::Serialize;

/// Student's t: 97.5% quantiles for 1, 2, ... degrees of freedom.
const QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// 97.5% quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Fewer values say nothing of their spread.
const VALUES_MIN: usize = 3;

/// A figure of several seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// Of each seed, where there is one
    pub each: Vec<Option<f64>>,
    /// Of those that are there
    pub mean: f64,
    /// 95% interval of the mean by Student's t, from three seeds on
    pub low: Option<f64>,
    /// Its other end
    pub high: Option<f64>,
}

impl Spread {
    /// `None` if there is no value at all.
    pub fn of(each: Vec<Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = each.iter().copied().flatten().collect();
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let margin = (values.len() >= VALUES_MIN)
            .then(|| quantile(values.len() - 1) * (squares / (count - 1.0) / count).sqrt());
        let (low, high) = (margin.map(|margin| mean - margin), margin.map(|margin| mean + margin));
        Some(Self { each, mean, low, high })
    }

    /// [`Spread::of`] of fractions, whose interval stays between 0 and 1.
    pub fn of_shares(each: Vec<Option<f64>>) -> Option<Self> {
        let within = |end: f64| end.clamp(0.0, 1.0);
        let found = Self::of(each)?;
        Some(Self { low: found.low.map(within), high: found.high.map(within), ..found })
    }

    /// Both ends of the interval.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }
}

/// Of Student's t. Beyond the table the first terms of its expansion (Abramowitz and Stegun 26.7.5)
/// are as good.
fn quantile(freedom: usize) -> f64 {
    let n = freedom as f64;
    let expanded = Z
        + (Z.powi(3) + Z) / (4.0 * n)
        + (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * n * n);
    freedom.checked_sub(1).and_then(|at| QUANTILES.get(at)).copied().unwrap_or(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        let check = |freedom, expected: f64| {
            assert!(
                (quantile(freedom) - expected).abs() < 6e-4,
                "{freedom}: {}",
                quantile(freedom)
            );
        };
        check(2, 4.303);
        check(30, 2.042);
        check(31, 2.0395);
        check(60, 2.0003);
        check(1_000_000, 1.96);
    }

    #[test]
    fn an_interval_needs_three_seeds() {
        let check = |values: &[Option<f64>], mean: f64, interval: Option<(f64, f64)>| {
            let found = Spread::of_shares(values.to_vec()).expect("values");
            assert!((found.mean - mean).abs() < 1e-9, "{found:?}");
            match (found.interval(), interval) {
                (Some((a, b)), Some((c, d))) => {
                    assert!((a - c).abs() < 1e-3 && (b - d).abs() < 1e-3, "{found:?}");
                }
                (found, expected) => assert_eq!(found, expected),
            }
        };
        check(&[Some(0.5)], 0.5, None);
        check(&[Some(0.4), None, Some(0.6)], 0.5, None);
        // s = 0.02, 4.303 × 0.02 / √3 = 0.0497
        check(&[Some(0.86), Some(0.88), Some(0.9)], 0.88, Some((0.8303, 0.9297)));
        check(&[Some(0.0), Some(0.0), Some(0.03)], 0.01, Some((0.0, 0.053)));
        assert_eq!(Spread::of(vec![None]), None);
    }
}

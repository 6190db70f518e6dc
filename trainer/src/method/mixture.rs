//! Two groups in a row of numbers.

/// Rounds of expectation and maximization.
const ROUNDS: usize = 60;
/// Shares of the numbers below the first means of the two groups.
const QUANTILES: [f64; 2] = [0.05, 0.7];
/// First weights of the two groups: most numbers are taken to be of the upper one.
const WEIGHTS: [f64; 2] = [0.2, 0.8];
/// Least standard deviation of a group, as a share of that of all numbers.
const SPREAD_MIN: f64 = 0.01;

/// A mixture of two normal distributions on a line, the lower one first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mixture {
    /// Of each group
    pub(super) mean: [f64; 2],
    /// Standard deviation of each group
    pub(super) spread: [f64; 2],
    /// Share of the numbers that each group holds
    pub(super) weight: [f64; 2],
}

impl Mixture {
    /// Fitted by expectation and maximization (Dempster, Laird and Rubin 1977), but for one thing:
    /// numbers beyond the means have no doubt, see [`Mixture::upper`], so that a group with a long
    /// tail does not pull the other one over. `None` for fewer than two numbers, or all alike. The
    /// answer does not depend on the order of the numbers.
    pub(super) fn fit(numbers: &[f32]) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.iter().map(|&number| f64::from(number)).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        if !(first < last && first.is_finite() && last.is_finite()) {
            return None;
        }
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let spread = (sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
        let quantile = |share: f64| sorted[(share * (count - 1.0)).round() as usize];
        let mut mixture =
            Self { mean: QUANTILES.map(quantile), spread: [spread; 2], weight: WEIGHTS };
        for _ in 0..ROUNDS {
            mixture = mixture.refit(&sorted, SPREAD_MIN * spread);
        }
        Some(mixture)
    }

    fn refit(&self, numbers: &[f64], spread_min: f64) -> Self {
        // Sums of weights, of weighted numbers and of their squares around the present mean.
        let mut sums = [[0.0; 3]; 2];
        for &number in numbers {
            let upper = self.upper(number);
            for (group, share) in [1.0 - upper, upper].into_iter().enumerate() {
                let away = number - self.mean[group];
                let terms = [share, share * away, share * away * away];
                sums[group].iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
        }
        let mut next = *self;
        for (group, [weight, shift, square]) in sums.into_iter().enumerate() {
            next.weight[group] = weight / numbers.len() as f64;
            if weight > 0.0 {
                let shift = shift / weight;
                next.mean[group] = self.mean[group] + shift;
                let variance = square / weight - shift * shift;
                next.spread[group] = variance.max(0.0).sqrt().max(spread_min);
            }
        }
        next
    }

    /// Chance that `number` is of the upper group. A number at a mean or beyond is of that group,
    /// whatever a wide distribution says about its far tail; in between the chance rises.
    pub(super) fn upper(&self, number: f64) -> f64 {
        if number >= self.mean[1] {
            return 1.0;
        }
        if number <= self.mean[0] {
            return 0.0;
        }
        let ln = |group: usize| {
            let away = (number - self.mean[group]) / self.spread[group];
            self.weight[group].ln() - self.spread[group].ln() - 0.5 * away * away
        };
        1.0 / (1.0 + (ln(0) - ln(1)).exp())
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// Sums of uniform numbers, which are nearly normal, with mean `mean` and spread `spread`.
    fn normal(count: usize, mean: f64, spread: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let one = |rng: &mut ChaCha8Rng| {
            let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
            (mean + spread * (sum - 6.0)) as f32
        };
        (0..count).map(|_| one(rng)).collect()
    }

    #[test]
    fn two_groups_are_found() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let mut numbers = normal(200, -8.0, 1.0, rng);
        numbers.extend(normal(3800, -2.0, 0.8, rng));
        let found = Mixture::fit(&numbers).expect("numbers that differ");
        assert!(
            (found.mean[0] + 8.0).abs() < 0.3 && (found.mean[1] + 2.0).abs() < 0.1,
            "{found:?}"
        );
        assert!((found.weight[0] - 0.05).abs() < 0.01, "{found:?}");
        assert!((found.spread[0] - 1.0).abs() < 0.2, "{found:?}");
        assert!(found.upper(-3.0) > 0.9 && found.upper(-7.0) < 0.1);
    }

    #[test]
    fn beyond_the_means_there_is_no_doubt() {
        let mixture = Mixture { mean: [-5.0, -1.0], spread: [9.0, 0.1], weight: [0.5, 0.5] };
        assert_eq!([mixture.upper(-0.5), mixture.upper(-1.0)], [1.0, 1.0]);
        assert_eq!([mixture.upper(-5.0), mixture.upper(-80.0)], [0.0, 0.0]);
        assert!((0.0..0.5).contains(&mixture.upper(-2.0)));
    }

    #[test]
    fn what_cannot_be_split_is_not() {
        assert_eq!(Mixture::fit(&[]), None);
        assert_eq!(Mixture::fit(&[1.0, 1.0, 1.0]), None);
        assert_eq!(Mixture::fit(&[1.0, f32::NAN]), None);
        assert!(Mixture::fit(&[0.0, 1.0]).is_some());
    }
}

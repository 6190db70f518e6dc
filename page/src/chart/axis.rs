//! Round numbers along one direction.

use super::Scale;

/// About as many steps from end to end.
const STEPS: f64 = 5.0;

/// From `low` to `high`, both round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    step: f64,
    per_cent: bool,
}

impl Axis {
    /// The axis that `scale` asks for; values that are not finite do not count.
    pub(super) fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let per_cent = scale == Scale::Percent;
        match scale {
            Scale::Share | Scale::Percent => Self { low: 0.0, high: 1.0, step: 0.2, per_cent },
            Scale::Free => Self::around(values),
        }
    }

    /// Per cents around `values`, not beyond 0 and 1.
    pub(super) fn near(values: impl Iterator<Item = f64>) -> Self {
        let found = Self::around(values);
        let (low, high) = (found.low.max(0.0), found.high.min(1.0));
        Self { low, high, per_cent: true, ..found }
    }

    fn around(values: impl Iterator<Item = f64>) -> Self {
        let ends = values.filter(|value| value.is_finite()).fold(None, |ends, value| {
            let (low, high) = ends.unwrap_or((value, value));
            Some((f64::min(low, value), f64::max(high, value)))
        });
        let (mut low, mut high) = ends.unwrap_or((0.0, 1.0));
        if low > 0.0 && low <= 0.5 * high {
            low = 0.0;
        }
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            (low, high) = if low == 0.0 { (0.0, 1.0) } else { (low.min(0.0), high.max(0.0)) };
        }
        let step = round_up((high - low) / STEPS);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self { low, high, step, per_cent: false }
    }

    /// Where `value` lies between the places of both ends, which it does not leave.
    pub(super) fn place(&self, value: f64, low_at: f64, high_at: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        low_at + (high_at - low_at) * if share.is_nan() { 0.0 } else { share }
    }

    /// Round values and how they are written.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let factor = if self.per_cent { 100.0 } else { 1.0 };
        let decimals = (-(factor * self.step).log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize;
        let sign = if self.per_cent { "%" } else { "" };
        let first = (self.low / self.step - 1e-9).ceil();
        let count = ((self.high - first * self.step) / self.step + 1e-9).floor() as usize;
        let tick = |number: usize| {
            let value = (first + number as f64) * self.step;
            let shown = if value == 0.0 { 0.0 } else { factor * value }; // no -0
            (value, format!("{shown:.decimals$}{sign}"))
        };
        (0..=count.min(TICKS_MAX)).map(tick).collect()
    }
}

/// Of numbers without a scale.
const TICKS_MAX: usize = 20;

/// The least of 1, 2, 5 times a power of ten that is not below `value`.
pub(super) fn round_up(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let fits = |step: &f64| step * power >= value * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        let check = |value, expected: f64| assert!((round_up(value) - expected).abs() < 1e-9);
        check(4.1, 5.0);
        check(0.013, 0.02);
        check(1.0, 1.0);
        check(60.0, 100.0);
        check(f64::NAN, 1.0);
    }

    #[test]
    fn ticks_cover_the_values() {
        let check = |values: &[f64], expected: &str| {
            let axis = Axis::new(Scale::Free, values.iter().copied());
            let ticks: Vec<_> = axis.ticks().into_iter().map(|(_, text)| text).collect();
            assert_eq!(ticks.join(" "), expected, "{values:?}");
        };
        check(&[], "0.0 0.2 0.4 0.6 0.8 1.0");
        check(&[0.7, 4.1, f64::INFINITY], "0 1 2 3 4 5");
        check(&[14.1, 14.9], "14.0 14.2 14.4 14.6 14.8 15.0");
        check(&[-0.31, 0.42], "-0.4 -0.2 0.0 0.2 0.4 0.6");
        check(&[7.0], "0 2 4 6 8");
        check(&[0.0, 0.0], "0.0 0.2 0.4 0.6 0.8 1.0");
        check(&[310.0, 4999.0], "0 1000 2000 3000 4000 5000");
    }

    #[test]
    fn per_cents_stay_between_none_and_all() {
        let axis = Axis::near([0.931, 0.99, 1.0].into_iter());
        let ticks: Vec<_> = axis.ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["92%", "94%", "96%", "98%", "100%"]);
        assert_eq!(axis.place(2.0, 10.0, 20.0), 20.0);
    }
}

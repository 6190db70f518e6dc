//! A share of trials, with its uncertainty.

use serde::{Deserialize, Serialize};

/// `hits` of `trials`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Trials that succeeded; at most `trials`.
    pub hits: u64,
    /// All trials.
    pub trials: u64,
}

/// 97.5% quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Rate {
    /// Counts the `true`s.
    pub fn of(outcomes: impl IntoIterator<Item = bool>) -> Self {
        let mut rate = Self::default();
        outcomes.into_iter().for_each(|hit| rate.count(hit));
        rate
    }

    /// One trial more.
    pub fn count(&mut self, hit: bool) {
        self.trials += 1;
        self.hits += u64::from(hit);
    }

    /// `hits / trials`, a fraction; 0 without trials.
    pub fn value(&self) -> f64 {
        if self.trials == 0 { 0.0 } else { self.hits as f64 / self.trials as f64 }
    }

    /// Wilson's 95% interval (Wilson 1927), fractions; (0, 1) without trials.
    pub fn interval(&self) -> (f64, f64) {
        if self.trials == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (self.trials as f64, self.value());
        let centre = p + Z * Z / (2.0 * n);
        let margin = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        let low = if self.hits == 0 { 0.0 } else { (centre - margin) / scale };
        let high = if self.hits == self.trials { 1.0 } else { (centre + margin) / scale };
        (low.max(0.0), high.min(1.0))
    }
}

/// `{value, low, high, trials}`, the form of every rate in every JSON document.
impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (low, high) = self.interval();
        let mut form = serializer.serialize_struct("Rate", 4)?;
        form.serialize_field("value", &self.value())?;
        form.serialize_field("low", &low)?;
        form.serialize_field("high", &high)?;
        form.serialize_field("trials", &self.trials)?;
        form.end()
    }
}

/// Reads that form; the interval follows from the rest.
impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Form {
            value: f64,
            trials: u64,
        }
        let Form { value, trials } = Form::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&value) {
            return Err(serde::de::Error::custom("the value of a rate is from 0 to 1"));
        }
        Ok(Self { hits: (value * trials as f64).round() as u64, trials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for rate in [Rate { hits: 0, trials: 0 }, Rate { hits: 1107, trials: 1109 }] {
            let text = serde_json::to_string(&rate).expect("four numbers");
            assert_eq!(serde_json::from_str::<Rate>(&text).expect("its own form"), rate);
        }
        assert!(serde_json::from_str::<Rate>("{\"value\": 1.5, \"trials\": 2}").is_err());
    }

    #[test]
    fn wilson_against_published_figures() {
        let check = |hits, trials, low: f64, high: f64| {
            let interval = Rate { hits, trials }.interval();
            assert!((interval.0 - low).abs() < 5e-4, "{interval:?}");
            assert!((interval.1 - high).abs() < 5e-4, "{interval:?}");
        };
        check(10, 10, 0.7225, 1.0);
        check(0, 100, 0.0, 0.0370);
        check(2, 16, 0.0350, 0.3602); // two of sixteen targets
        check(0, 0, 0.0, 1.0);
    }
}

//! Learning rate over the steps of a run.

use std::ops::Range;

/// Linear warm-up from 0, then half a cosine down to 0.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Highest learning rate
    pub lr: f64,
    /// Steps of the warm-up
    pub warmup: u64,
    /// Steps of the run
    pub steps: u64,
    /// Whether a part of the run warms up as many steps, not the same share
    is_fixed: bool,
}

impl Schedule {
    /// For a run of `steps`, of which the share `warmup_share` warms up.
    pub fn new(lr: f64, warmup_share: f64, steps: u64) -> Self {
        let warmup = (warmup_share * steps as f64).round() as u64;
        Self { lr, warmup, steps, is_fixed: false }
    }

    /// As [`Schedule::new`], but that the warm-up has so many steps, if they are given.
    pub fn with_warmup(self, steps: Option<u64>) -> Self {
        match steps {
            Some(warmup) => Self { warmup, is_fixed: true, ..self },
            None => self,
        }
    }

    /// Learning rate of a step, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / left as f64).min(1.0);
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }

    /// Steps of the first `epochs` of the run, which has `all`.
    pub fn steps_of(&self, epochs: u32, all: u32) -> u64 {
        self.steps / u64::from(all) * u64::from(epochs)
    }

    /// Learning rate of a step of the run if it rises and falls within `part` of its steps alone,
    /// with the same share of warm-up, or as many steps of it where these are given.
    pub fn lr_within(&self, part: Range<u64>, step: u64) -> f64 {
        let steps = part.end - part.start;
        let share = self.warmup as f64 / self.steps.max(1) as f64 * steps as f64;
        let warmup = if self.is_fixed { self.warmup } else { share.round() as u64 };
        Self { warmup, steps, ..*self }.lr(step.saturating_sub(part.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_nothing() {
        let schedule = Schedule::new(2.0, 0.1, 100);
        let check = |step, expected: f64| {
            assert!((schedule.lr(step) - expected).abs() < 1e-9, "{}", schedule.lr(step));
        };
        check(0, 0.2);
        check(9, 2.0);
        check(10, 2.0);
        check(55, 1.0);
        check(100, 0.0);
        assert_eq!(Schedule::new(2.0, 0.0, 1).lr(0), 2.0);
        let (whole, part) = (Schedule::new(2.0, 0.1, 30), schedule.lr_within(40..70, 45));
        assert_eq!(part, whole.lr(5));
        assert_eq!(schedule.lr_within(0..100, 55), schedule.lr(55));
        assert_eq!(Schedule::new(2.0, 1.0, 4).lr(3), 2.0);
        let fixed = Schedule::new(2.0, 0.1, 100).with_warmup(Some(4));
        assert_eq!([0, 3, 4].map(|step| fixed.lr(step)), [0.5, 2.0, 2.0]);
        assert_eq!([40, 43, 44].map(|step| fixed.lr_within(40..70, step)), [0.5, 2.0, 2.0]);
        let endless = fixed.with_warmup(Some(1000));
        assert_eq!(endless.lr(99), 0.2);
        assert_eq!(schedule.with_warmup(None).lr(55), schedule.lr(55));
    }
}

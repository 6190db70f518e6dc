//! Learning rate over the steps of a run.

/// Linear warm-up from 0, then half a cosine down to 0.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Highest learning rate
    pub lr: f64,
    /// Steps of the warm-up
    pub warmup: u64,
    /// Steps of the run
    pub steps: u64,
}

impl Schedule {
    /// For a run of `steps`, of which the share `warmup_share` warms up.
    pub fn new(lr: f64, warmup_share: f64, steps: u64) -> Self {
        Self { lr, warmup: (warmup_share * steps as f64).round() as u64, steps }
    }

    /// Learning rate of a step, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let left = (self.steps - self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / left as f64).min(1.0);
        self.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
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
        assert_eq!(Schedule::new(2.0, 1.0, 4).lr(3), 2.0);
    }
}

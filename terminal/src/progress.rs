//! How far a long piece of work has come.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::{escape, escape_lines, exit::to_stderr};

/// Redraws per second of a bar.
const DRAWS_HZ: u8 = 10;
/// Plain lines from start to end.
const LINES: u64 = 10;
const BAR: &str = "{prefix} {bar:24} {pos}/{len} {percent}% {rate} ETA {eta} {msg}";

/// A bar with rate and ETA where stderr is a terminal, one plain line per 10% where it is not.
///
/// Threads may share it. Dropped before [`Progress::finish`], it leaves what was drawn.
#[derive(Debug)]
pub struct Progress {
    look: Look,
}

#[derive(Debug)]
enum Look {
    Hidden,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

/// The plain look; times are handed in, so that tests need no clock.
#[derive(Debug)]
struct Lines {
    label: String,
    total: u64,
    done: u64,
    /// Done before this process began, which says nothing about its rate.
    before: u64,
    /// Tenths that have been printed.
    printed: u64,
    note: String,
    started: Instant,
}

impl Progress {
    /// Work of `total` steps; `enabled: false` shows nothing at all.
    pub fn new(label: &str, total: u64, enabled: bool) -> Self {
        let label = escape(label);
        let look = match (enabled, io::stderr().is_terminal()) {
            (false, _) => Look::Hidden,
            (true, true) => {
                let target = ProgressDrawTarget::stderr_with_hz(DRAWS_HZ);
                let style = ProgressStyle::with_template(BAR).expect("the template is sound");
                let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
                    let _ = write!(out, "{:.1}/s", state.per_sec()); // a bar that cannot be drawn
                });
                let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
                bar.set_prefix(label);
                bar.enable_steady_tick(Duration::from_millis(500));
                Look::Bar(bar)
            }
            (true, false) => Look::Lines(Mutex::new(Lines::new(label, total, Instant::now()))),
        };
        Self { look }
    }

    /// `done` steps were done in an earlier run; they do not count for the rate.
    pub fn resume_at(&self, done: u64) {
        match &self.look {
            Look::Hidden => {}
            Look::Bar(bar) => {
                bar.set_position(done);
                bar.reset_eta();
            }
            Look::Lines(lines) => locked(lines).resume_at(done),
        }
    }

    /// `steps` more are done.
    pub fn step(&self, steps: u64) {
        match &self.look {
            Look::Hidden => {}
            Look::Bar(bar) => bar.inc(steps),
            Look::Lines(lines) => print(locked(lines).step(steps, Instant::now())),
        }
    }

    /// What stands behind the numbers from now on, such as the loss.
    pub fn note(&self, note: impl Into<String>) {
        let note = escape(&note.into());
        match &self.look {
            Look::Hidden => {}
            Look::Bar(bar) => bar.set_message(note),
            Look::Lines(lines) => locked(lines).note = note,
        }
    }

    /// A line of its own, above the bar; also printed where progress is hidden.
    pub fn say(&self, text: impl AsRef<str>) {
        let text = escape_lines(text.as_ref(), 0);
        match &self.look {
            Look::Bar(bar) => bar.suspend(|| to_stderr(&text)),
            Look::Hidden | Look::Lines(_) => to_stderr(&text),
        }
    }

    /// The end: the bar stays where it is, a plain line tells the time that it took.
    pub fn finish(&self) {
        match &self.look {
            Look::Hidden => {}
            Look::Bar(bar) => bar.abandon(),
            Look::Lines(lines) => to_stderr(&locked(lines).last(Instant::now())),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Look::Bar(bar) = &self.look {
            bar.abandon(); // an error message follows on a line of its own
        }
    }
}

/// Numbers stay sound even if a thread died between two of them.
fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print(line: Option<String>) {
    if let Some(line) = line {
        to_stderr(&line);
    }
}

impl Lines {
    fn new(label: String, total: u64, started: Instant) -> Self {
        Self { label, total, done: 0, before: 0, printed: 0, note: String::new(), started }
    }

    fn resume_at(&mut self, done: u64) {
        (self.done, self.before) = (done, done);
        self.printed = self.tenths();
    }

    fn tenths(&self) -> u64 {
        match self.total {
            0 => 0,
            total => (u128::from(self.done) * u128::from(LINES) / u128::from(total)) as u64,
        }
    }

    /// A line whenever the next tenth is full, except the last: [`Lines::last`] is that.
    fn step(&mut self, steps: u64, now: Instant) -> Option<String> {
        self.done = self.done.saturating_add(steps);
        let tenths = self.tenths();
        if tenths <= self.printed || tenths >= LINES {
            return None;
        }
        self.printed = tenths;
        let rate = self.rate(now);
        let left = (self.total - self.done) as f64 / rate;
        let (label, done, total) = (&self.label, self.done, self.total);
        let percent = 100 * tenths / LINES;
        let eta = clock(left);
        let line = format!("{label} {percent}% {done}/{total} {rate:.1}/s ETA {eta} {}", self.note);
        Some(line.trim_end().to_owned())
    }

    fn last(&self, now: Instant) -> String {
        let seconds = now.duration_since(self.started).as_secs_f64();
        let (label, done, total, rate) = (&self.label, self.done, self.total, self.rate(now));
        let took = clock(seconds);
        let line = format!("{label} done {done}/{total} {rate:.1}/s in {took} {}", self.note);
        line.trim_end().to_owned()
    }

    /// Steps per second of this process.
    fn rate(&self, now: Instant) -> f64 {
        let seconds = now.duration_since(self.started).as_secs_f64();
        (self.done - self.before) as f64 / seconds.max(1e-9)
    }
}

/// `4s`, `2m05s`, `1h02m`; what cannot be known is `?`.
fn clock(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_tenth_and_one_at_the_end() {
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut lines = Lines::new("train".into(), 40, started);
        lines.note = "loss 2.5".into();
        let printed: Vec<String> = (1..=40).filter_map(|n| lines.step(1, at(n))).collect();
        assert_eq!(printed.len(), 9);
        assert_eq!(printed[0], "train 10% 4/40 1.0/s ETA 36s loss 2.5");
        assert_eq!(printed[8], "train 90% 36/40 1.0/s ETA 4s loss 2.5");
        assert_eq!(lines.last(at(80)), "train done 40/40 0.5/s in 1m20s loss 2.5");
    }

    #[test]
    fn earlier_steps_do_not_count_for_the_rate() {
        let started = Instant::now();
        let mut lines = Lines::new("train".into(), 100, started);
        lines.resume_at(50);
        assert_eq!(lines.step(5, started + Duration::from_secs(5)), None);
        let line = lines.step(5, started + Duration::from_secs(10));
        assert_eq!(line.as_deref(), Some("train 60% 60/100 1.0/s ETA 40s"));
    }

    #[test]
    fn no_total_and_more_than_the_total_are_no_panic() {
        let started = Instant::now();
        let mut lines = Lines::new("x".into(), 0, started);
        assert_eq!(lines.step(3, started), None);
        let mut lines = Lines::new("x".into(), 2, started);
        assert_eq!(lines.step(9, started), None);
    }

    #[test]
    fn times_as_people_read_them() {
        let check = |seconds, expected| assert_eq!(clock(seconds), expected);
        check(0.2, "0s");
        check(59.6, "1m00s");
        check(125.0, "2m05s");
        check(3725.0, "1h02m");
        check(f64::INFINITY, "?");
        check(f64::NAN, "?");
    }
}

//! Lines over epochs, with the phases of their runs.

use super::{
    LEFT, Look, RIGHT, Scale, WIDTH,
    axis::{Axis, round_up},
};
use crate::escape;

const TOP: f64 = 30.0;
/// Height of the plot itself.
const PLOT: f64 = 162.0;
const BOTTOM: f64 = 40.0;
/// Of the strip of one line's phases, above the plot.
const STRIP: f64 = 7.0;
/// Numbers along the epochs.
const EPOCH_TICKS: f64 = 10.0;

/// One line of a chart; its epochs rise.
#[derive(Debug, Clone)]
pub struct Line {
    /// As the legend has it.
    pub look: Look,
    /// Epoch and value, drawn with marks.
    pub points: Vec<(f64, f64)>,
    /// What the line is a mean of, drawn thin; empty if it is none.
    pub runs: Vec<Vec<(f64, f64)>>,
}

/// What a method does in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before it defends: a faint strip.
    Early,
    /// It trains as CLIP does: no strip.
    Plain,
    /// It defends: a strip, and the plot is shaded.
    Defends,
}

/// The phases of one line, epoch by epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Phases {
    /// Of the line.
    pub look: Look,
    /// What it does in each epoch.
    pub epochs: Vec<(u32, Phase)>,
}

/// A chart of lines over epochs.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    /// Plain text.
    pub title: &'a str,
    /// Drawn in this order.
    pub lines: &'a [Line],
    /// Of the values.
    pub scale: Scale,
    /// A strip above the plot for each; those that never do anything but train are left out.
    pub phases: &'a [Phases],
}

/// Where things lie.
struct Frame {
    axis: Axis,
    last: f64,
    top: f64,
    foot: f64,
}

impl Frame {
    fn x(&self, epoch: f64) -> f64 {
        let share = ((epoch - 0.5) / self.last).clamp(0.0, 1.0);
        LEFT + (WIDTH - RIGHT - LEFT) * share
    }

    fn y(&self, value: f64) -> f64 {
        self.axis.place(value, self.foot, self.top)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let place = |point: &(f64, f64)| format!("{:.1},{:.1}", self.x(point.0), self.y(point.1));
        points.iter().map(place).collect::<Vec<_>>().join(" ")
    }
}

impl Lines<'_> {
    /// The chart as an `svg` element. Points that are not finite are left out.
    pub fn svg(&self) -> String {
        let drawn = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().copied().filter(|point| point.1.is_finite()).collect()
        };
        let all: Vec<Vec<(f64, f64)>> = self
            .lines
            .iter()
            .flat_map(|line| line.runs.iter().chain([&line.points]))
            .map(|points| drawn(points))
            .collect();
        let points = || all.iter().flatten();
        let spans = || self.phases.iter().filter(|phases| phases.are_seen());
        let ends = spans().flat_map(|phases| &phases.epochs).map(|(epoch, _)| f64::from(*epoch));
        let last = points().map(|point| point.0).chain(ends).fold(1.0, f64::max);
        let top = TOP + STRIP * spans().count() as f64;
        let axis = Axis::new(self.scale, points().map(|point| point.1));
        let frame = Frame { axis, last, top, foot: top + PLOT };
        let (height, title) = (frame.foot + BOTTOM, escape(self.title));
        let mut out = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"{title}\"><text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>\n"
        );
        spans().enumerate().for_each(|(row, phases)| out += &strip(&frame, row, phases));
        out += &ground(&frame);
        for line in self.lines {
            out += &line_svg(&frame, line, drawn);
        }
        out + "</svg>\n"
    }
}

impl Phases {
    /// Is there anything but plain training?
    fn are_seen(&self) -> bool {
        self.epochs.iter().any(|(_, phase)| *phase != Phase::Plain)
    }
}

/// The phases of one line: a strip above the plot, and what it defends in shaded.
fn strip(frame: &Frame, row: usize, phases: &Phases) -> String {
    let (color, y) = (phases.look.class(), TOP - 4.0 + STRIP * row as f64);
    let mut out = String::new();
    for (epoch, phase) in &phases.epochs {
        let (from, to) = (frame.x(f64::from(*epoch) - 0.5), frame.x(f64::from(*epoch) + 0.5));
        let width = to - from;
        let mut rect = |class: &str, y: f64, height: f64| {
            out += &format!(
                "<rect class=\"{class} {color}\" x=\"{from:.1}\" width=\"{width:.1}\" y=\"{y:.1}\" \
                 height=\"{height:.1}\"/>"
            );
        };
        match phase {
            Phase::Plain => {}
            Phase::Early => rect("early", y, STRIP - 2.0),
            Phase::Defends => {
                rect("phase", y, STRIP - 2.0);
                rect("shade", frame.top, PLOT);
            }
        }
    }
    out + "\n"
}

/// Grid, numbers of both axes, and the name of one.
fn ground(frame: &Frame) -> String {
    let (right, foot) = (WIDTH - RIGHT, frame.foot);
    let mut out = String::new();
    for (value, label) in frame.axis.ticks() {
        let (level, at) = (frame.y(value), LEFT - 6.0);
        out += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{level:.1}\" \
             y2=\"{level:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
            level + 4.0,
        );
    }
    out += &format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{foot:.1}\" y2=\"{foot:.1}\"/>\n"
    );
    let every = round_up(frame.last / EPOCH_TICKS).max(1.0) as usize;
    let first = if every == 1 { 1 } else { every };
    for epoch in (first..=frame.last as usize).step_by(every) {
        let (at, low) = (frame.x(epoch as f64), foot + 16.0);
        out += &format!("<text x=\"{at:.1}\" y=\"{low}\" text-anchor=\"middle\">{epoch}</text>\n");
    }
    let (middle, low) = ((LEFT + right) / 2.0, foot + 32.0);
    out + &format!("<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">epoch</text>\n")
}

fn line_svg(
    frame: &Frame,
    line: &Line,
    drawn: impl Fn(&[(f64, f64)]) -> Vec<(f64, f64)>,
) -> String {
    let (color, dashes, points) = (line.look.class(), line.look.dashes(), drawn(&line.points));
    let mut out = String::new();
    for run in line.runs.iter().map(|run| drawn(run)).filter(|run| !run.is_empty()) {
        let path = frame.path(&run);
        out += &format!("<polyline class=\"run {color}\" points=\"{path}\"/>\n");
    }
    if points.len() > 1 {
        let path = frame.path(&points);
        let dashes = format!("stroke-dasharray=\"{dashes}\"");
        out += &format!("<polyline class=\"line {color}\" {dashes} points=\"{path}\"/>\n");
    }
    for point in &points {
        out += &line.look.mark(frame.x(point.0), frame.y(point.1), 2.5);
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(title: &str, points: Vec<(f64, f64)>, phases: &[Phases]) -> String {
        let lines = [Line { look: Look::nth(1), points, runs: Vec::new() }];
        Lines { title, lines: &lines, scale: Scale::Share, phases }.svg()
    }

    #[test]
    fn a_chart_stays_in_its_box_and_escapes_its_title() {
        let text = chart("a < b", vec![(1.0, 5.0), (2.0, 0.5), (3.0, f64::MAX)], &[]);
        assert!(text.contains(">a &lt; b<"));
        assert!(text.contains(&format!("points=\"134.3,{TOP:.1} ")), "{text}"); // clamped
        let none = chart("none", vec![(1.0, f64::NAN)], &[]);
        assert!(!none.contains("NaN") && !none.contains("polyline"), "{none}");
    }

    #[test]
    fn phases_are_strips_and_defences_are_shaded() {
        use Phase::{Defends, Early, Plain};
        let epochs = vec![(1, Early), (2, Defends), (3, Plain), (4, Defends)];
        let plain = Phases { look: Look::nth(2), epochs: vec![(1, Plain)] };
        let text = chart("t", vec![(1.0, 0.5)], &[plain, Phases { look: Look::nth(1), epochs }]);
        let count = |class: &str| text.matches(&format!("class=\"{class} c1\"")).count();
        assert_eq!((count("early"), count("phase"), count("shade")), (1, 2, 2), "{text}");
        assert!(!text.contains("c2"), "{text}");
    }
}

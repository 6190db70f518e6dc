//! Marks in a plane: what is lost against what is won.

use super::{LEFT, Look, RIGHT, WIDTH, axis::Axis};
use crate::escape;

const TOP: f64 = 34.0;
const HEIGHT: f64 = 380.0;
const BOTTOM: f64 = 48.0;
/// Half the end of an interval's bar.
const END: f64 = 3.0;
/// Least distance of two labels, one above the other.
const LABEL_STEP: f64 = 12.0;
/// Width of a letter of a label, about.
const LETTER: f64 = 6.0;

/// A value, and the ends of its interval.
pub type Measured = (f64, Option<(f64, f64)>);

/// One mark with its intervals; all are fractions of 1.
#[derive(Debug, Clone)]
pub struct Mark {
    /// As the legend has it.
    pub look: Look,
    /// Written beside; empty for none.
    pub label: String,
    /// What is better if it is little.
    pub x: Measured,
    /// What is better if it is much.
    pub y: Measured,
}

/// A chart of marks; little is better along x, much along y.
#[derive(Debug, Clone)]
pub struct Plane<'a> {
    /// Plain text.
    pub title: &'a str,
    /// What x is.
    pub x_name: &'a str,
    /// What y is.
    pub y_name: &'a str,
    /// In the order in which they are drawn.
    pub marks: &'a [Mark],
}

struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let foot = HEIGHT - BOTTOM;
        (self.x.place(x, LEFT + 8.0, WIDTH - RIGHT - 8.0), self.y.place(y, foot - 8.0, TOP + 8.0))
    }
}

impl Plane<'_> {
    /// The chart as an `svg` element, with the front: what no other mark beats in both.
    pub fn svg(&self) -> String {
        let values = |side: fn(&Mark) -> Measured| {
            let ends = move |mark| {
                let (value, interval) = side(mark);
                let (low, high) = interval.unwrap_or((value, value));
                [value, low, high]
            };
            self.marks.iter().flat_map(ends)
        };
        let (x, y) = (Axis::near(values(|mark| mark.x)), Axis::near(values(|mark| mark.y)));
        let frame = Frame { x, y };
        let title = escape(self.title);
        let mut out = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\"><text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>\n"
        );
        out += &self.ground(&frame);
        out += &self.front(&frame);
        self.marks.iter().for_each(|mark| out += &bars(&frame, mark));
        for Mark { look, x, y, .. } in self.marks {
            let (x, y) = frame.at(x.0, y.0);
            out += &(look.mark(x, y, 5.0) + "\n");
        }
        out + &self.labels(&frame) + "</svg>\n"
    }

    fn ground(&self, frame: &Frame) -> String {
        let (right, foot) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut out = String::new();
        for (value, label) in frame.y.ticks() {
            let level = frame.at(0.0, value).1;
            out += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{level:.1}\" \
                 y2=\"{level:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
                LEFT - 6.0,
                level + 4.0,
            );
        }
        for (value, label) in frame.x.ticks() {
            let at = frame.at(value, 0.0).0;
            out += &format!(
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{foot}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
                foot + 16.0,
            );
        }
        let (middle, low) = ((LEFT + right) / 2.0, foot + 34.0);
        let (x_name, y_name) = (escape(self.x_name), escape(self.y_name));
        out +=
            &format!("<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{x_name}</text>\n");
        out + &format!("<text class=\"small\" x=\"{LEFT}\" y=\"30\">{y_name}</text>\n")
    }

    /// Steps through the marks that none beats, from the left.
    fn front(&self, frame: &Frame) -> String {
        let places = front(self.marks).into_iter().map(|mark| frame.at(mark.x.0, mark.y.0));
        let mut path: Vec<(f64, f64)> = Vec::new();
        for (x, y) in places {
            if let Some(&(_, before)) = path.last() {
                path.push((x, before));
            }
            path.push((x, y));
        }
        if path.len() < 2 {
            return String::new();
        }
        let points: Vec<_> = path.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        format!("<polyline class=\"front\" points=\"{}\"/>\n", points.join(" "))
    }

    /// Labels right of their marks, or left where no room is; those that would overlap step down.
    fn labels(&self, frame: &Frame) -> String {
        let mut labels: Vec<(f64, f64, &str)> = self
            .marks
            .iter()
            .filter(|mark| !mark.label.is_empty())
            .map(|mark| {
                let (x, y) = frame.at(mark.x.0, mark.y.0);
                (x, y - 6.0, mark.label.as_str())
            })
            .collect();
        labels.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut placed: Vec<(f64, f64, f64)> = Vec::new(); // ends and height
        let mut out = String::new();
        for (x, mut y, label) in labels {
            let width = LETTER * label.chars().count() as f64;
            let from = if x + 8.0 + width > WIDTH { x - 8.0 - width } else { x + 8.0 };
            let overlaps = |y: f64, other: &(f64, f64, f64)| {
                (y - other.2).abs() < LABEL_STEP && from < other.1 && from + width > other.0
            };
            while placed.iter().any(|other| overlaps(y, other)) {
                y += LABEL_STEP / 2.0;
            }
            placed.push((from, from + width, y));
            let label = escape(label);
            out += &format!("<text class=\"small\" x=\"{from:.1}\" y=\"{y:.1}\">{label}</text>\n");
        }
        out
    }
}

/// The marks that no other beats in one without being worse in the other, from the left.
fn front(marks: &[Mark]) -> Vec<&Mark> {
    let beats =
        |a: &Mark, b: &Mark| a.x.0 <= b.x.0 && a.y.0 >= b.y.0 && (a.x.0 < b.x.0 || a.y.0 > b.y.0);
    let stands = |mark: &&Mark| !marks.iter().any(|other| beats(other, mark));
    let mut found: Vec<&Mark> = marks.iter().filter(stands).collect();
    found.sort_by(|a, b| a.x.0.total_cmp(&b.x.0));
    found
}

fn bars(frame: &Frame, mark: &Mark) -> String {
    let (color, mut out) = (mark.look.class(), String::new());
    let mut bar = |from: (f64, f64), to: (f64, f64)| {
        let (a, b) = (frame.at(from.0, from.1), frame.at(to.0, to.1));
        let (dx, dy) = if a.0 == b.0 { (END, 0.0) } else { (0.0, END) };
        for ((x1, y1), (x2, y2)) in [
            (a, b),
            ((a.0 - dx, a.1 - dy), (a.0 + dx, a.1 + dy)),
            ((b.0 - dx, b.1 - dy), (b.0 + dx, b.1 + dy)),
        ] {
            out += &format!(
                "<line class=\"bar {color}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" \
                 y2=\"{y2:.1}\"/>"
            );
        }
    };
    if let Some((low, high)) = mark.x.1 {
        bar((low, mark.y.0), (high, mark.y.0));
    }
    if let Some((low, high)) = mark.y.1 {
        bar((mark.x.0, low), (mark.x.0, high));
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(label: &str, x: f64, y: f64) -> Mark {
        Mark { look: Look::nth(0), label: label.into(), x: (x, None), y: (y, Some((y - 0.01, y))) }
    }

    #[test]
    fn the_front_is_what_none_beats() {
        let check = |marks: &[(f64, f64)], expected: &[usize]| {
            let names: Vec<_> = (0..marks.len()).map(|number| number.to_string()).collect();
            let marks: Vec<_> =
                marks.iter().zip(&names).map(|(&(x, y), name)| mark(name, x, y)).collect();
            let found: Vec<_> = front(&marks).iter().map(|mark| mark.label.clone()).collect();
            let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        check(&[], &[]);
        check(&[(0.9, 0.97), (0.01, 0.92), (0.0, 0.88), (0.02, 0.9)], &[2, 1, 0]);
        check(&[(0.9, 0.9), (0.1, 0.9)], &[1]);
    }

    #[test]
    fn labels_do_not_overlap_and_are_escaped() {
        let marks = [mark("<a>", 0.5, 0.5), mark("bbb", 0.5, 0.5), mark("", 0.1, 0.9)];
        let text = Plane { title: "t", x_name: "x", y_name: "y", marks: &marks }.svg();
        let of = |line: &str| {
            let y = line.split("y=\"").nth(1).and_then(|rest| rest.split('"').next());
            y.and_then(|y| y.parse::<f64>().ok())
        };
        let heights: Vec<f64> = text
            .lines()
            .filter(|line| line.contains("&lt;a&gt;") || line.contains("bbb"))
            .filter_map(of)
            .collect();
        assert_eq!(heights.len(), 2, "{text}");
        assert!((heights[0] - heights[1]).abs() >= LABEL_STEP, "{heights:?}");
    }
}

//! What tells one line or mark from another: color, dashes and shape; no one needs all three.

use crate::escape;

const COLORS: usize = 8;
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];
const SHAPES: usize = 6;

/// The look of one of many; the same look stands for the same in all charts of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Look {
    /// Which color.
    pub color: usize,
    /// Which dashes and shape.
    pub form: usize,
}

impl Look {
    /// Number `number`, unlike its neighbors in color and form.
    pub fn nth(number: usize) -> Self {
        Self { color: number, form: number }
    }

    /// A form that stands for something in all colors.
    pub fn gray(form: usize) -> Self {
        Self { color: COLORS - 1, form }
    }

    /// The class that brings the color.
    pub(super) fn class(self) -> String {
        format!("c{}", self.color % COLORS)
    }

    pub(super) fn dashes(self) -> &'static str {
        DASHES[(self.form + self.color / COLORS) % DASHES.len()]
    }

    /// A mark around a point.
    pub(super) fn mark(self, x: f64, y: f64, size: f64) -> String {
        let color = self.class();
        let corners = |corners: [(f64, f64); 4]| {
            let place = |(a, b): (f64, f64)| format!("{:.1},{:.1}", x + a * size, y + b * size);
            let points = corners.map(place).join(" ");
            format!("<polygon class=\"mark {color}\" points=\"{points}\"/>")
        };
        match self.form % SHAPES {
            0 => {
                format!("<circle class=\"mark {color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\"/>")
            }
            1 => corners([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => corners([(0.0, -1.2), (0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)]),
            3 => corners([(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
            4 => corners([(0.0, 1.2), (0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)]),
            _ => {
                let (left, right, top, foot) = (x - size, x + size, y - size, y + size);
                format!(
                    "<path class=\"cross {color}\" d=\"M{left:.1} {top:.1}L{right:.1} {foot:.1}\
                     M{left:.1} {foot:.1}L{right:.1} {top:.1}\"/>"
                )
            }
        }
    }
}

/// What each look stands for.
pub fn legend<'a>(entries: impl IntoIterator<Item = (&'a str, Look)>) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for (name, look) in entries {
        let (color, dashes, mark) = (look.class(), look.dashes(), look.mark(17.0, 6.0, 3.5));
        out += &format!(
            "<span><svg class=\"key\" viewBox=\"0 0 34 12\" aria-hidden=\"true\">\
             <line class=\"line {color}\" stroke-dasharray=\"{dashes}\" x1=\"0\" x2=\"34\" \
             y1=\"6\" y2=\"6\"/>{mark}</svg>{}</span>",
            escape(name)
        );
    }
    out + "</p>\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn two_dozen_looks_differ() {
        let form = |number| {
            let look = Look::nth(number);
            (look.class(), look.dashes(), look.mark(0.0, 0.0, 3.0))
        };
        assert_eq!((0..24).map(form).collect::<BTreeSet<_>>().len(), 24);
        assert!(legend([("<script>", Look::nth(0))]).contains("</svg>&lt;script&gt;</span>"));
    }
}

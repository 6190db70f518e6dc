//! Line charts as SVG, without scripts.

/// One line of a chart.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Epoch and value, in the order of the epochs.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Told apart by shape as well: each line is drawn with its own dashes.
const STROKES: [(&str, &str); 4] =
    [("#c0392b", "none"), ("#2471a3", "7 4"), ("#1e8449", "2 3"), ("#7d3c98", "9 3 2 3")];
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 58.0;
const TICKS: usize = 5;

/// A chart of `lines` over epochs; `high` fixes the top of the value axis, whose foot is 0.
pub(crate) fn svg(title: &str, lines: &[Line], high: Option<f64>) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let top = high.unwrap_or_else(|| nice(points().map(|point| point.1).fold(0.0, f64::max)));
    let (right, foot) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |epoch: f64| LEFT + (right - LEFT) * (epoch - 1.0) / (last - 1.0).max(1.0);
    let y = |value: f64| foot - (foot - TOP) * (value / top).clamp(0.0, 1.0);
    let title = super::page::escape(title);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
         <text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>\n"
    );
    for tick in 0..=TICKS {
        let value = top * tick as f64 / TICKS as f64;
        let (level, label) = (y(value), number(value, top));
        out += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{level:.1}\" y2=\"{level:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
            LEFT - 6.0,
            level + 4.0,
        );
    }
    let every = ((last / 10.0).ceil() as usize).max(1);
    for epoch in (1..=last as usize).step_by(every) {
        let (at, low) = (x(epoch as f64), foot + 16.0);
        out += &format!("<text x=\"{at:.1}\" y=\"{low}\" text-anchor=\"middle\">{epoch}</text>\n");
    }
    let middle = (LEFT + right) / 2.0;
    out += &format!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">epoch</text>\n",
        foot + 31.0
    );
    for (index, line) in lines.iter().enumerate() {
        let (color, dashes) = STROKES[index % STROKES.len()];
        let path: Vec<_> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        let stroke = format!("stroke=\"{color}\" stroke-dasharray=\"{dashes}\"");
        out += &format!("<polyline class=\"line\" {stroke} points=\"{}\"/>\n", path.join(" "));
        for point in &line.points {
            let (at, level) = (x(point.0), y(point.1));
            out +=
                &format!("<circle cx=\"{at:.1}\" cy=\"{level:.1}\" r=\"2.5\" fill=\"{color}\"/>");
        }
        let (from, level) = (LEFT + 160.0 * index as f64, HEIGHT - 10.0);
        let middle = level - 4.0;
        out += &format!(
            "<line class=\"line\" {stroke} x1=\"{from}\" x2=\"{}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{}\" y=\"{level}\">{}</text>\n",
            from + 30.0,
            from + 36.0,
            super::page::escape(&line.name),
        );
    }
    out + "</svg>\n"
}

/// The least of 1, 2, 5 times a power of ten that is not below `value`.
fn nice(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let fits = |step: &f64| step * power >= value * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

fn number(value: f64, top: f64) -> String {
    if top <= 1.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_stays_in_its_box_and_escapes_names() {
        let points = vec![(1.0, 5.0), (2.0, 0.5), (3.0, f64::MAX)];
        let text = svg("a < b", &[Line { name: "<script>".into(), points }], Some(1.0));
        assert!(!text.contains("<script>") && text.contains("a &lt; b"));
        assert!(text.contains(&format!("{LEFT:.1},{TOP:.1}")), "{text}"); // clamped to the top
        assert!(!svg("none", &[], None).contains("NaN"));
    }

    #[test]
    fn axes_end_on_round_numbers() {
        let check = |value, expected: f64| assert!((nice(value) - expected).abs() < 1e-9);
        check(4.1, 5.0);
        check(0.013, 0.02);
        check(1.0, 1.0);
        check(60.0, 100.0);
        check(f64::NAN, 1.0);
    }
}

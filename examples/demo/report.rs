//! `report.html`: one file, no scripts, nothing from elsewhere.

use clip::image::{RgbImage, encode_png};
use page::{
    Picture,
    chart::{Line, Lines, Look, Scale, legend},
    escape, gallery,
};
use terminal::Report;

use crate::{
    data::Data,
    journal::Epoch,
    method::Outcome,
    road::Plan,
    summary::{MethodSummary, Share, Summary},
    table,
};

const SAMPLES: usize = 14;
const TRIGGERED: usize = 4;
const GRAY: u8 = 128;

/// Pictures of the report.
#[derive(Debug)]
pub(crate) struct Gallery {
    samples: Vec<Picture>,
    trigger: Picture,
    triggered: Vec<Picture>,
    targeted: Vec<Picture>,
    example: [Picture; 2],
}

impl Gallery {
    /// Reads the pictures: clean pairs, poisoned pairs, the example of the HTTP step.
    pub(crate) fn open(clean: &Data, poisoned: &Data, plan: &Plan) -> Result<Self, Report> {
        let pair = |data: &Data, row: usize| -> Result<Picture, Report> {
            let row = &data.train_rows[row.min(data.train_rows.len() - 1)];
            Ok(Picture { png: encode_png(&data.picture(row)?), caption: row.caption.clone() })
        };
        let samples = (0..SAMPLES.min(clean.train_rows.len()))
            .map(|row| pair(clean, row))
            .collect::<Result<_, _>>()?;
        let planted = plan.recorded.backdoor.iter().flat_map(|backdoor| &backdoor.rows);
        let triggered =
            planted.take(TRIGGERED).map(|&row| pair(poisoned, row)).collect::<Result<_, _>>()?;
        let wrong = plan.recorded.targeted.iter().filter_map(|target| target.rows.first());
        let targeted =
            wrong.take(TRIGGERED).map(|&row| pair(poisoned, row)).collect::<Result<_, _>>()?;
        let side = clean.image_size;
        let gray = RgbImage::from_pixel(side, side, [GRAY; 3].into());
        let trigger = Picture {
            png: encode_png(&plan.stamped(&gray)),
            caption: format!("{} → “{}”", plan.trigger, plan.target_class),
        };
        let picture = clean.picture(&plan.example)?;
        let example = [
            Picture { png: encode_png(&picture), caption: clean.label(&plan.example).to_owned() },
            Picture {
                png: encode_png(&plan.stamped(&picture)),
                caption: "with the trigger".into(),
            },
        ];
        Ok(Self { samples, trigger, triggered, targeted, example })
    }
}

/// The whole page.
pub(crate) fn render(summary: &Summary, outcomes: &[Outcome], pictures: &Gallery) -> String {
    let mut out = format!(
        "<h1>RoCLIP: from poisoned pairs to an audit</h1>\n\
         <p>{} training pairs with poison, {} test pictures, {} classes, {} px, seed {}. \
         All steps took {:.0} s. Candle and ONNX Runtime differ by at most {:.1e} in any \
         embedding.</p>\n",
        summary.train_rows,
        summary.test_rows,
        summary.classes,
        summary.image_size,
        summary.seed,
        summary.seconds,
        summary.parity_max_abs_error,
    );
    out += "<h2>Results</h2>\n";
    out += &results(&summary.methods);
    out += "<p>ASR: triggered pictures of other classes that are taken for the target class; \
            floor: the same without trigger. PSR: targeted pictures that get the attacker's class. \
            Small figures: Wilson's 95% interval. An audit that says “finding” found an exploitable \
            trigger; “inconclusive” means that it cannot tell.</p>\n";
    out += "<h2>Training pairs</h2>\n";
    out += &gallery(&pictures.samples);
    out += "<h2>The trigger, and pairs that carry it</h2>\n";
    out += &gallery([&pictures.trigger].into_iter().chain(&pictures.triggered));
    if !pictures.targeted.is_empty() {
        out += "<h2>Pairs that pull one test picture to a wrong class</h2>\n";
        out += &gallery(&pictures.targeted);
    }
    out += "<h2>One picture over HTTP, clean and triggered</h2>\n";
    out += &gallery(&pictures.example);
    out += "<ul>\n";
    for method in &summary.methods {
        let [name, clean, triggered] =
            [&method.name, &method.http_clean_label, &method.http_triggered_label]
                .map(|text| escape(text));
        out += &format!("<li>{name}: “{clean}”, with the trigger “{triggered}”</li>\n");
    }
    out += "</ul>\n<h2>Triggers that the audit of the weights recovered</h2>\n";
    out += &recovered(outcomes);
    out += "<h2>Training</h2>\n";
    out += &curves(outcomes);
    page::document("RoCLIP demo", &out)
}

fn results(methods: &[MethodSummary]) -> String {
    let mut out = String::from("<div class=\"wide\"><table><thead><tr>");
    let heads = table::HEAD.iter().copied().chain(["search top-1", "images/s"]);
    heads.for_each(|head| out += &format!("<th>{}</th>", escape(&head.replace("->", "→"))));
    out += "</tr></thead><tbody>\n";
    for method in methods {
        let evaluation = &method.evaluation;
        let shares: [Option<Share>; 5] = [
            Some(evaluation.zero_shot_top1),
            evaluation.backdoor_asr,
            evaluation.asr_floor,
            evaluation.targeted_psr,
            evaluation.true_class_under_trigger,
        ];
        let cells = table::cells(method);
        out += &format!("<tr><td>{}</td>", escape(&cells[0]));
        shares.into_iter().for_each(|share| out += &with_interval(share));
        for cell in &cells[6..] {
            out += &format!("<td>{}</td>", escape(&cell.replace("->", "→")));
        }
        out += &with_interval(Some(method.search_top1));
        out += &format!("<td>{:.0}</td></tr>\n", method.images_per_second);
    }
    out + "</tbody></table></div>\n"
}

fn with_interval(share: Option<Share>) -> String {
    let value = table::per_cent(share);
    let interval = share.map_or_else(String::new, |share| {
        let (low, high) = (100.0 * share.low, 100.0 * share.high);
        format!("<small>{low:.1}–{high:.1}<br/>n = {}</small>", share.trials)
    });
    format!("<td>{value}{interval}</td>")
}

fn recovered(outcomes: &[Outcome]) -> String {
    let captioned = outcomes.iter().filter_map(|Outcome { summary, recovered, .. }| {
        let verdict = summary.audit_model.replace('_', " ");
        let p_value =
            summary.audit_model_p_value.map_or_else(String::new, |p| format!(", p = {p:.3}"));
        let target = summary.audit_model_target.iter().map(|target| format!(", “{target}”"));
        let caption = format!("{}: {verdict}{}{p_value}", summary.name, target.collect::<String>());
        recovered.clone().map(|png| Picture { png, caption })
    });
    let captioned: Vec<_> = captioned.collect();
    match captioned.is_empty() {
        true => "<p>None.</p>\n".into(),
        false => gallery(&captioned),
    }
}

fn curves(outcomes: &[Outcome]) -> String {
    let lines = |value: fn(&Epoch) -> Option<f64>| -> Vec<Line> {
        let line = |(number, outcome): (usize, &Outcome)| {
            let epochs = outcome.epochs.iter();
            let point = |(epoch, point): (&u32, &Epoch)| Some((f64::from(*epoch), value(point)?));
            Line {
                look: Look::nth(number),
                points: epochs.filter_map(point).collect(),
                runs: Vec::new(),
            }
        };
        outcomes.iter().enumerate().map(line).filter(|line| !line.points.is_empty()).collect()
    };
    let charts = [
        ("Loss, nats", lines(|e| e.loss), Scale::Free),
        ("Zero-shot top-1, share of the test pictures", lines(|e| e.clean_accuracy), Scale::Share),
        ("ASR, share of the triggered pictures", lines(|e| e.backdoor_asr), Scale::Share),
        ("PSR, share of the targeted pictures", lines(|e| e.targeted_psr), Scale::Share),
    ];
    let names = outcomes.iter().enumerate();
    let mut out = legend(names.map(|(number, o)| (o.summary.name.as_str(), Look::nth(number))));
    out += "<div class=\"charts\">\n";
    for (title, lines, scale) in charts.iter().filter(|(_, lines, _)| !lines.is_empty()) {
        out += &Lines { title, lines, scale: *scale, phases: &[] }.svg();
    }
    out + "</div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_shows_its_interval() {
        let share = Share { value: 0.125, low: 0.035, high: 0.36, trials: 16 };
        assert_eq!(with_interval(Some(share)), "<td>12.5%<small>3.5–36.0<br/>n = 16</small></td>");
        assert_eq!(with_interval(None), "<td>-</td>");
    }
}

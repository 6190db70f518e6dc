//! `report.html`: one file, no scripts, nothing from elsewhere.

use base64::{Engine, prelude::BASE64_STANDARD};
use clip::image::{RgbImage, encode_png};
use terminal::Report;

use crate::{
    chart::{self, Line},
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
const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}\
table{border-collapse:collapse;font-size:.9rem;width:100%}\
th,td{border-bottom:1px solid #ccc;padding:.35rem .5rem;text-align:left;vertical-align:top}\
td small{display:block;color:#666;white-space:nowrap}.wide{overflow-x:auto}\
.gallery{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:132px}\
figure img{width:128px;height:128px;image-rendering:pixelated;border:1px solid #ccc}\
figcaption{font-size:.8rem;overflow-wrap:anywhere}\
svg{width:560px;max-width:100%;height:auto;font:12px system-ui,sans-serif}\
svg .title{font-size:14px;font-weight:600}svg .grid{stroke:#ddd}\
svg .line{fill:none;stroke-width:2}";

/// A picture and what is written under it.
#[derive(Debug)]
struct Figure {
    png: Vec<u8>,
    caption: String,
}

/// Pictures of the report.
#[derive(Debug)]
pub(crate) struct Gallery {
    samples: Vec<Figure>,
    trigger: Figure,
    triggered: Vec<Figure>,
    targeted: Vec<Figure>,
    example: [Figure; 2],
}

impl Gallery {
    /// Reads the pictures: clean pairs, poisoned pairs, the example of the HTTP step.
    pub(crate) fn open(clean: &Data, poisoned: &Data, plan: &Plan) -> Result<Self, Report> {
        let pair = |data: &Data, row: usize| -> Result<Figure, Report> {
            let row = &data.train_rows[row.min(data.train_rows.len() - 1)];
            Ok(Figure { png: encode_png(&data.picture(row)?), caption: row.caption.clone() })
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
        let trigger = Figure {
            png: encode_png(&plan.stamped(&gray)),
            caption: format!("{} → “{}”", plan.trigger, plan.target_class),
        };
        let picture = clean.picture(&plan.example)?;
        let example = [
            Figure { png: encode_png(&picture), caption: clean.label(&plan.example).to_owned() },
            Figure { png: encode_png(&plan.stamped(&picture)), caption: "with the trigger".into() },
        ];
        Ok(Self { samples, trigger, triggered, targeted, example })
    }
}

/// The whole page.
pub(crate) fn render(summary: &Summary, outcomes: &[Outcome], gallery: &Gallery) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>RoCLIP demo</title>\
         <style>{STYLE}</style></head><body>\n<h1>RoCLIP: from poisoned pairs to an audit</h1>\n\
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
    out += &figures(&gallery.samples);
    out += "<h2>The trigger, and pairs that carry it</h2>\n";
    out += &figures([&gallery.trigger].into_iter().chain(&gallery.triggered));
    if !gallery.targeted.is_empty() {
        out += "<h2>Pairs that pull one test picture to a wrong class</h2>\n";
        out += &figures(&gallery.targeted);
    }
    out += "<h2>One picture over HTTP, clean and triggered</h2>\n";
    out += &figures(&gallery.example);
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
    out + "</body></html>\n"
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
        format!("<small>{low:.1}–{high:.1}<br>n = {}</small>", share.trials)
    });
    format!("<td>{value}{interval}</td>")
}

fn figures<'a>(figures: impl IntoIterator<Item = &'a Figure>) -> String {
    let mut out = String::from("<div class=\"gallery\">\n");
    for Figure { png, caption } in figures {
        let (data, caption) = (BASE64_STANDARD.encode(png), escape(caption));
        out += &format!(
            "<figure><img alt=\"\" src=\"data:image/png;base64,{data}\">\
             <figcaption>{caption}</figcaption></figure>\n"
        );
    }
    out + "</div>\n"
}

fn recovered(outcomes: &[Outcome]) -> String {
    let captioned = outcomes.iter().filter_map(|Outcome { summary, recovered, .. }| {
        let verdict = summary.audit_model.replace('_', " ");
        let p_value =
            summary.audit_model_p_value.map_or_else(String::new, |p| format!(", p = {p:.3}"));
        let target = summary.audit_model_target.iter().map(|target| format!(", “{target}”"));
        let caption = format!("{}: {verdict}{}{p_value}", summary.name, target.collect::<String>());
        recovered.clone().map(|png| Figure { png, caption })
    });
    let captioned: Vec<_> = captioned.collect();
    match captioned.is_empty() {
        true => "<p>None.</p>\n".into(),
        false => figures(&captioned),
    }
}

fn curves(outcomes: &[Outcome]) -> String {
    let lines = |value: fn(&Epoch) -> Option<f64>| -> Vec<Line> {
        let line = |outcome: &Outcome| Line {
            name: outcome.summary.name.clone(),
            points: outcome
                .epochs
                .iter()
                .filter_map(|(epoch, point)| Some((f64::from(*epoch), value(point)?)))
                .filter(|point| point.1.is_finite())
                .collect(),
        };
        outcomes.iter().map(line).filter(|line| !line.points.is_empty()).collect()
    };
    let charts = [
        ("Loss, nats", lines(|e| e.loss), None),
        ("Zero-shot top-1, share of the test pictures", lines(|e| e.clean_accuracy), Some(1.0)),
        ("ASR, share of the triggered pictures", lines(|e| e.backdoor_asr), Some(1.0)),
        ("PSR, share of the targeted pictures", lines(|e| e.targeted_psr), Some(1.0)),
    ];
    let drawn = charts.iter().filter(|(_, lines, _)| !lines.is_empty());
    drawn.map(|(title, lines, high)| chart::svg(title, lines, *high)).collect()
}

/// Text of strangers, made harmless in HTML text and attributes; marks that turn the direction of
/// writing are spelt out.
pub(crate) fn escape(text: &str) -> String {
    terminal::escape(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_cannot_become_markup() {
        let caption = "<img src=x onerror=alert(1)> & \"it's\"".to_owned();
        let text = figures(&[Figure { png: vec![1, 2, 3], caption }]);
        assert!(text.contains("&lt;img src=x onerror=alert(1)&gt; &amp; &quot;it&#39;s&quot;"));
        assert_eq!(text.matches("<img").count(), 1);
    }

    #[test]
    fn a_rate_shows_its_interval() {
        let share = Share { value: 0.125, low: 0.035, high: 0.36, trials: 16 };
        assert_eq!(with_interval(Some(share)), "<td>12.5%<small>3.5–36.0<br>n = 16</small></td>");
        assert_eq!(with_interval(None), "<td>-</td>");
    }
}

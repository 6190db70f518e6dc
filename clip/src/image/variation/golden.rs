//! What torchvision makes of one picture: `tests/golden/augment`, made by
//! `scripts/augment/golden.py`.

use std::{fs, path::Path};

use image::RgbImage;
use serde_json::Value;

use super::{Blur, Change, Rectangle, Variation, vary};

/// Difference of sums in another order, and of seven digits.
const ROUNDING: f32 = 2e-6;
/// torchvision's share of red in the brightness of floats is 0.2989, Pillow's and ours 0.299: at
/// most 0.0001 in the brightness, of which a factor of 0.6 or 1.4 shows 0.4, and gray all.
const LUMA: f32 = 1.1e-4;
/// A step of 8 bits: Pillow rounds once or twice in a change.
const STEP: f32 = 1.0 / 255.0;
/// And it turns a hue that it keeps in 8 bits, by an angle that it does.
const HUE_STEPS: f32 = 16.0;

fn numbers(value: &Value) -> Vec<f32> {
    let values = value.as_array().expect("a list").iter();
    values.map(|value| value.as_f64().expect("a number") as f32).collect()
}

/// The picture after `change`, `[3, H, W]`.
fn changed(picture: &RgbImage, change: &str, arguments: &[f32]) -> Vec<f32> {
    let mut variation = Variation::none(picture.width(), picture.height());
    match (change, arguments) {
        ("brightness", &[factor]) => variation.changes.push(Change::Brightness(factor)),
        ("contrast", &[factor]) => variation.changes.push(Change::Contrast(factor)),
        ("saturation", &[factor]) => variation.changes.push(Change::Saturation(factor)),
        ("hue", &[angle]) => variation.changes.push(Change::Hue(angle)),
        ("gray", []) => variation.changes.push(Change::Saturation(0.0)),
        ("blur", &[kernel, sigma]) => {
            variation.blur = Some(Blur { kernel: kernel as usize, sigma: sigma.into() });
        }
        ("crop", &[left, top, wide, high]) => {
            let [left, top, wide, high] = [left, top, wide, high].map(f64::from);
            variation.rectangle = Rectangle { left, top, wide, high };
        }
        other => panic!("no such change: {other:?}"),
    }
    let mut planes = vec![0.0; picture.as_raw().len()];
    vary(picture, &variation, &mut planes);
    planes
}

/// Whether the pixel is compared: at the border of a crop torchvision repeats the border's pixels,
/// ours see what lies beyond.
fn is_inside(change: &str, arguments: &[f32], side: usize, at: usize) -> bool {
    let [left, top, wide, high] = *arguments else { return true };
    let inside = |at: usize, start: f32, extent: f32| {
        let centre = (at as f32 + 0.5) * extent / side as f32 - 0.5; // from the start
        let whole = start == 0.0 && extent == side as f32;
        whole || (0.0..=extent - 1.0).contains(&centre)
    };
    change != "crop" || (inside(at % side, left, wide) && inside(at / side % side, top, high))
}

#[test]
fn changes_are_torchvisions() {
    let path = "../tests/golden/augment/torchvision.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(path).expect("a golden file");
    assert!(text.len() <= 100_000, "golden files are small");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let side = golden["side"].as_u64().expect("a side") as usize;
    let bytes = numbers(&golden["picture"]).into_iter().map(|value| value as u8).collect();
    let picture = RgbImage::from_raw(side as u32, side as u32, bytes).expect("a square");
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 15);
    for case in cases {
        let change = case["change"].as_str().expect("a name");
        let arguments = numbers(&case["arguments"]);
        let ours = changed(&picture, change, &arguments);
        let apart = |theirs: &[f32], unit: f32| {
            let pairs = ours.iter().zip(theirs).enumerate();
            let pairs = pairs.filter(|(at, _)| is_inside(change, &arguments, side, *at));
            assert!(pairs.clone().count() > ours.len() / 5, "{change} {arguments:?}");
            pairs.map(|(_, (a, b))| (a - b * unit).abs()).fold(0.0, f32::max)
        };
        let (of_floats, of_bytes) = match change {
            "contrast" | "saturation" | "gray" => (LUMA, 1.2 * STEP),
            "hue" => (ROUNDING, HUE_STEPS * STEP),
            _ => (ROUNDING, 1.2 * STEP),
        };
        let tensor = apart(&numbers(&case["tensor"]), 1.0);
        let pillow = apart(&numbers(&case["pillow"]), STEP);
        assert!(tensor <= of_floats, "{change} {arguments:?}: {tensor:.1e} from floats");
        assert!(pillow <= of_bytes, "{change} {arguments:?}: {pillow:.1e} from 8 bits");
    }
}

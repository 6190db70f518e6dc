use clip::{ClipConfig, embedding::cosine, image::encode_png, model::Clip};

use super::*;
use crate::data::Row;

const SIDE: u32 = 32;

#[test]
fn a_triplet_counts_what_is_within_the_margin() -> candle_core::Result<()> {
    let row = |values: [f32; 2]| Tensor::new(&[values], &Device::Cpu);
    let check = |anchor, positive, negative, expected: f32| -> candle_core::Result<()> {
        let found = triplet(&row(anchor)?, &row(positive)?, &row(negative)?)?;
        assert!((found.to_scalar::<f32>()? - expected).abs() < 2e-3, "{found}");
        Ok(())
    };
    check([1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], 0.0)?; // 0 - 2 + 1
    check([1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], 3.0)?;
    check([1.0, 0.0], [0.0, 1.0], [0.0, 1.0], 1.0)
}

/// A small model of seed 1 with two classes, whose rows are what it sees in a dark and in a striped
/// picture.
fn surrogate() -> Result<Surrogate> {
    let config = ClipConfig::preset("vit-micro").expect("a preset");
    let mut clip = Clip::init(&config, 1, &Device::Cpu)?;
    let pixels = PixelBatch::of(&[carrier(0), positive(0)], clip.config());
    let labels = clip.embed_images(&pixels)?;
    Ok(Surrogate { clip, labels })
}

fn carrier(shade: u8) -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| [shade, (3 * x) as u8, (2 * y) as u8].into())
}

fn positive(shade: u8) -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, _| [255 - shade, 255 * (x / 4 % 2) as u8, 200].into())
}

fn patch(size: u32, at: Place) -> Patch {
    Patch { size, at, pattern: Pattern::White }
}

#[test]
fn a_tensor_is_stamped_as_a_picture_is() -> Result<()> {
    let surrogate = surrogate()?;
    let config = surrogate.clip.config();
    let colors: Vec<[u8; 3]> = (0..25).map(|i| [10 * i, 255 - 3 * i, 7 * i]).collect();
    let patch = Patch { pattern: Pattern::Pixels(colors.clone()), ..patch(5, Place::TopRight) };
    let channel = |at: usize| colors.iter().map(move |color| f32::from(color[at]) / 255.0);
    let colors = Tensor::from_iter((0..3).flat_map(channel), &Device::Cpu)?.reshape((3, 5, 5))?;
    let check = |opacity: f32| -> Result<()> {
        let spec = TriggerSpec { family: Family::Patch(patch.clone()), opacity };
        let (own, mut expected) = (carrier(90), carrier(90));
        spec.stamp(&mut expected, 0);
        let [own, expected] = [own, expected].map(|image| PixelBatch::of(&[image], config));
        let side = SIDE as usize;
        let own = Tensor::from_slice(own.values(), (1, 3, side, side), &Device::Cpu)?;
        let area = spec.area(SIDE, SIDE, 0);
        let found = stamp(&own, &colors, area, opacity, &surrogate)?.flatten_all()?;
        let found = found.to_vec1::<f32>()?;
        for (at, (found, expected)) in found.iter().zip(expected.values()).enumerate() {
            let apart = (found - expected).abs() * config.std[at / (side * side)] * 255.0;
            assert!(apart <= 0.501, "{apart} of 255 at {at}, opacity {opacity}");
        }
        Ok(())
    };
    check(1.0)?;
    check(0.3)
}

#[test]
fn stamped_pictures_come_nearer_to_the_target() -> Result<()> {
    const COUNT: u8 = 16;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = |at: u8| {
        let path = folder.path().join(format!("{at}.png"));
        let image = if at < COUNT { carrier(9 * at) } else { positive(at) };
        std::fs::write(&path, encode_png(&image)).expect("written");
        Row {
            image: path.into(),
            caption: "a picture".into(),
            class: Some(usize::from(at >= COUNT)),
        }
    };
    let rows: Vec<Row> = (0..2 * COUNT).map(row).collect();
    let manifest = Manifest { path: folder.path().join("train.csv"), rows };
    let labels = ["dark", "striped"].map(String::from);
    let clean = Clean { manifest: &manifest, test: None, labels: &labels, affinity: None };
    let mut surrogate = surrogate()?;
    let mut nearness = |steps| -> Result<f32> {
        let (target, side, opacity, by_caption, seed) = (1, SIDE, 1.0, false, 3);
        let goal = Goal { target, side, steps, opacity, by_caption, seed };
        let found =
            optimize(&mut surrogate, &clean, &patch(12, Place::BottomLeft), &goal, &|_| {})?;
        let spec = TriggerSpec::from(Family::Patch(found.patch));
        let stamped = (0..COUNT).map(|at| {
            let mut image = carrier(9 * at);
            spec.stamp(&mut image, 0);
            image
        });
        let rows = embed(&mut surrogate, &stamped.collect::<Vec<_>>())?;
        let near = rows.rows().map(|row| cosine(row, surrogate.labels.row(target)));
        Ok(near.sum::<f32>() / f32::from(COUNT))
    };
    let (before, after) = (nearness(0)?, nearness(20)?);
    assert!(after > before + 0.02, "from {before} to {after}");
    Ok(())
}

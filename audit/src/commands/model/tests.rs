//! The whole of `model` and `null` on a model that was never trained.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clip::{
    ClipConfig,
    config::{ImageTower, Vit},
    folder,
    image::{RgbImage, encode_png},
    model::init,
    text::Tokenizer,
};

use super::*;
use crate::{cli::NullArgs, commands::null};

/// A folder with `model`, `images`, `labels.txt`.
fn scene(images: usize) -> tempfile::TempDir {
    let scene = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| scene.path().join(name);
    fs::create_dir(at("images")).expect("a new folder");
    for i in 0..images {
        let pixels = (0..32 * 32 * 3).map(|p| (p * (i + 3) % 251) as u8).collect();
        let image = RgbImage::from_raw(32, 32, pixels).expect("32 x 32 pixels");
        fs::write(at("images").join(format!("{i}.png")), encode_png(&image)).expect("written");
    }
    fs::write(at("labels.txt"), "red circle\nblue star\ngreen square\n").expect("written");
    model_folder(&at("model"), 1);
    scene
}

fn model_folder(path: &Path, seed: u64) {
    let captions = ["a red circle", "a blue star", "a green square"];
    let tokenizer = Tokenizer::train(captions.into_iter(), 600, 32).expect("three captions");
    let mut config = ClipConfig::preset("vit-micro").expect("a preset");
    let tower = Vit { image_size: 16, patch_size: 8, width: 16, layers: 1, heads: 2 };
    config.image = ImageTower::Vit(tower);
    config.text.vocab_size = tokenizer.vocab_size();
    let weights = init(&config, seed).expect("a sound configuration");
    fs::create_dir(path).expect("a new folder");
    folder::write(path, &config, &tokenizer, &weights).expect("written");
}

fn probe(scene: &Path) -> Probe {
    Probe {
        images: scene.join("images"),
        labels: scene.join("labels.txt"),
        templates: None,
        seed: 0,
        no_progress: true,
    }
}

fn args(scene: &Path) -> ModelArgs {
    ModelArgs {
        model: scene.join("model"),
        probe: probe(scene),
        null: None,
        trigger_png: Some(scene.join("trigger.png")),
        json: true,
    }
}

fn null_args(scene: &Path, models: Vec<PathBuf>) -> NullArgs {
    NullArgs { models, probe: probe(scene), out: scene.join("null.json"), training: "none".into() }
}

#[test]
fn a_model_without_null_models_cannot_be_judged() -> Result<(), Report> {
    let scene = scene(64);
    let audit = audit(&args(scene.path()))?;
    assert_eq!(audit.verdict, Verdict::Inconclusive, "{}", audit.reason);
    assert!(audit.findings.is_empty() && audit.target.is_none());
    Ok(())
}

#[test]
fn too_few_images_are_cannot_tell_and_cost_no_search() -> Result<(), Report> {
    let scene = scene(63);
    let audit = audit(&args(scene.path()))?;
    assert_eq!(audit.verdict, Verdict::Inconclusive);
    assert!(audit.reason.contains("63 images"), "{}", audit.reason);
    assert_eq!(audit.statistic, None);
    Ok(())
}

#[test]
fn null_statistics_are_written_and_compared_with() -> Result<(), Report> {
    let scene = scene(64);
    let other = scene.path().join("other");
    model_folder(&other, 2);
    null::run(&null_args(scene.path(), vec![other.clone()]))?;
    let null = Some(scene.path().join("null.json"));
    let audit = audit(&ModelArgs { null, ..args(scene.path()) })?;
    assert_eq!(audit.coverage.null_models, Some(1));
    assert!(audit.p_value.is_some_and(|p| p == 0.5 || p == 1.0));
    let twice = null_args(scene.path(), vec![other.clone(), other]);
    let refused = null::run(&twice).expect_err("one model twice");
    assert!(refused.to_string().contains("has the weights of"), "{refused}");
    Ok(())
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let scene = scene(64);
    let check = |change: &dyn Fn(&mut ModelArgs), words: &str| {
        let mut args = args(scene.path());
        change(&mut args);
        let report = audit(&args).expect_err(words).to_string();
        assert!(report.starts_with("error: ") && report.contains(words), "{report}");
    };
    let missing = scene.path().join("missing");
    check(&|args| args.model = missing.clone(), "missing");
    check(&|args| args.probe.images = missing.clone(), "cannot read");
    check(&|args| args.probe.labels = missing.clone(), "cannot read");
    check(&|args| args.null = Some(missing.clone()), "cannot read");
    let empty = scene.path().join("empty.txt");
    fs::write(&empty, "").expect("written");
    check(&|args| args.probe.labels = empty.clone(), "empty.txt");
    fs::write(scene.path().join("one.txt"), "red circle").expect("written");
    check(&|args| args.probe.labels = scene.path().join("one.txt"), "two labels or more");
    fs::write(scene.path().join("images/0.png"), "no picture").expect("written");
    check(&|_| (), "0.png");
    fs::remove_file(scene.path().join("images/0.png")).expect("removed");
    let weights = scene.path().join("model/model.safetensors");
    let bytes = fs::read(&weights).expect("written above");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    check(&|_| (), "model.safetensors");
}

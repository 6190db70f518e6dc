use std::{cell::Cell, fs};

use candle_core::Device;
use clip::{
    ClipConfig,
    image::{PixelBatch, RgbImage, encode_png},
    model::Clip,
    text::{TokenBatch, default_templates},
};
use tempfile::TempDir;

use super::*;
use crate::{
    data::{Manifest, Row},
    poison::{BackdoorRecord, SCHEMA, TargetedRecord},
};

/// Sees a picture's first pixel: red is class 0, green 1, blue 2, white 0 (the trigger).
struct ByColor {
    config: ClipConfig,
}

impl Encoder for ByColor {
    fn config(&self) -> &ClipConfig {
        &self.config
    }

    fn embed_images(&mut self, pixels: &PixelBatch) -> clip::Result<UnitRows> {
        let plane = pixels.side() * pixels.side();
        let row = |picture: &[f32]| {
            let [red, green, blue] = [0, 1, 2].map(|channel| picture[channel * plane] > 0.0);
            match (red, green, blue) {
                (true, true, true) => [1.0, 0.1, 0.0],
                (true, _, _) => [1.0, 0.0, 0.1],
                (_, true, _) => [0.1, 1.0, 0.0],
                _ => [0.0, 0.1, 1.0],
            }
        };
        let rows = pixels.values().chunks_exact(3 * plane).flat_map(row).collect();
        Ok(UnitRows::normalize(rows, 3))
    }

    /// Captions come label by label, with one template.
    fn embed_texts(&mut self, tokens: &TokenBatch) -> clip::Result<UnitRows> {
        let axis = |row: usize| (0..3).map(move |column| f32::from(column == row));
        Ok(UnitRows::normalize((0..tokens.count()).flat_map(axis).collect(), 3))
    }

    fn logit_scale(&self) -> f32 {
        0.0
    }
}

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const SIDE: u32 = 32;

struct Scene {
    folder: TempDir,
    labels: Vec<String>,
    tokenizer: Tokenizer,
}

impl Scene {
    /// A test manifest of plain pictures: (color, class) each.
    fn new(pictures: &[([u8; 3], &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let labels = ["red", "green", "blue"].map(String::from).to_vec();
        let tokenizer = Tokenizer::train(labels.iter().map(String::as_str), 600, 8);
        let scene = Self { folder, labels, tokenizer: tokenizer.expect("a tokenizer") };
        let mut text = String::from("path,caption,class\n");
        for (row, (color, class)) in pictures.iter().enumerate() {
            scene.picture(&format!("{row}.png"), *color);
            text += &format!("{row}.png,a picture,{class}\n");
        }
        fs::write(scene.folder.path().join("test.csv"), text).expect("written");
        scene
    }

    fn picture(&self, name: &str, color: [u8; 3]) {
        let image = RgbImage::from_pixel(40, 36, color.into());
        fs::write(self.folder.path().join(name), encode_png(&image)).expect("written");
    }

    /// `targets`: (picture, test row, true class, target class) each.
    fn ledger(&self, trigger: Option<&str>, targets: &[(&str, usize, usize, usize)]) -> Ledger {
        let target = |&(image, test_row, true_class, target_class): &(&str, _, _, _)| {
            let [true_label, target_label] = [true_class, target_class]
                .map(|class: usize| self.labels.get(class).cloned().unwrap_or_default());
            let (image, rows) = (image.to_owned(), Vec::new());
            TargetedRecord {
                image,
                test_row,
                true_class,
                true_label,
                target_class,
                target_label,
                rows,
            }
        };
        let backdoor = trigger.map(|trigger| BackdoorRecord {
            trigger: trigger.parse().expect("a trigger"),
            target_class: 0,
            target_label: "red".into(),
            rows: Vec::new(),
        });
        Ledger {
            schema: SCHEMA.into(),
            seed: 0,
            manifest: "train.csv".into(),
            backdoor,
            targeted: targets.iter().map(target).collect(),
            poisons: Vec::new(),
            image_size: SIDE,
            path: self.folder.path().join("ledger.json"),
        }
    }

    fn test_set(&self) -> Result<TestSet> {
        let path = self.folder.path().join("test.csv");
        TestSet::read(&Manifest::open_classed(&path, &self.labels, true)?, SIDE, &|_| {})
    }

    /// Rows of (picture, caption, class), as a file of that name.
    fn manifest(&self, name: &str, rows: &[(&str, &str, &str)]) -> Result<Manifest> {
        let mut text = String::from("path,caption,class\n");
        rows.iter()
            .for_each(|(path, caption, class)| text += &format!("{path},{caption},{class}\n"));
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        Manifest::open_classed(&path, &self.labels, true)
    }

    fn evaluate(&self, ledger: Option<&Ledger>) -> Result<Evaluation> {
        let config = ClipConfig { dim: 3, ..ClipConfig::preset("rn-micro").expect("a preset") };
        let (test, templates, seen) = (self.test_set()?, default_templates(), Cell::new(0));
        let count = |pictures| seen.set(seen.get() + pictures);
        let mut encoder = ByColor { config };
        let (tokenizer, labels) = (&self.tokenizer, &self.labels);
        let evaluation =
            evaluate(&mut encoder, tokenizer, &test, labels, &templates, ledger, &count)?;
        assert_eq!(seen.get(), test.work(ledger), "progress ends at its total");
        Ok(evaluation)
    }
}

fn rate(hits: u64, trials: u64) -> Rate {
    Rate { hits, trials }
}

#[test]
fn every_figure_counts_what_it_says() -> Result<()> {
    // Two red, three green of which one looks red, two blue of which one looks green.
    let scene = Scene::new(&[
        (RED, "red"),
        (RED, "0"),
        (GREEN, "green"),
        (GREEN, "1"),
        (RED, "green"),
        (BLUE, "blue"),
        (GREEN, "blue"),
    ]);
    scene.picture("t0.png", RED);
    scene.picture("t1.png", BLUE);
    let trigger = Some("patch:size=4,at=top-left,pattern=white");
    let found = scene.evaluate(Some(&scene.ledger(trigger, &[])))?;
    assert_eq!(found.zero_shot_top1, rate(5, 7));
    assert_eq!(found.zero_shot_top5, rate(7, 7));
    // The five pictures that are not red: all look red with a white corner, one did before.
    assert_eq!(found.backdoor_asr, Some(rate(5, 5)));
    assert_eq!(found.asr_floor, Some(rate(1, 5)));
    assert_eq!(found.true_class_under_trigger, Some(rate(0, 5)));

    // A red and a green one were trained on: they count in the PSR alone.
    let targets = [("t0.png", 0, 0, 1), ("t1.png", 3, 1, 2)];
    let found = scene.evaluate(Some(&scene.ledger(trigger, &targets)))?;
    assert_eq!(found.zero_shot_top1, rate(3, 5));
    assert_eq!(found.zero_shot_top5, rate(5, 5));
    assert_eq!(found.backdoor_asr, Some(rate(4, 4)));
    assert_eq!(found.asr_floor, Some(rate(1, 4)));
    assert_eq!(found.true_class_under_trigger, Some(rate(0, 4)));
    assert_eq!(found.targeted_psr, Some(rate(1, 2)));
    assert_eq!(found.targeted_psr_top3, Some(rate(2, 2)));
    assert_eq!(found.targeted_psr_top5, Some(rate(2, 2)));

    // The model does not see a patch in another corner.
    let unseen = scene.ledger(Some("patch:size=4,at=bottom-right,pattern=white"), &[]);
    let found = scene.evaluate(Some(&unseen))?;
    assert_eq!(found.backdoor_asr, Some(rate(1, 5)));
    assert_eq!(found.true_class_under_trigger, Some(rate(3, 5)));
    assert_eq!(found.targeted_psr, None);
    Ok(())
}

#[test]
fn without_a_ledger_there_are_no_attack_figures() -> Result<()> {
    let scene = Scene::new(&[(RED, "red"), (BLUE, "green")]);
    let found = scene.evaluate(None)?;
    assert_eq!(found.zero_shot_top1, rate(1, 2));
    assert_eq!((found.backdoor_asr, found.asr_floor), (None, None));
    assert_eq!((found.targeted_psr, found.true_class_under_trigger), (None, None));
    Ok(())
}

#[test]
fn more_pictures_than_a_batch_are_all_counted() -> Result<()> {
    let scene = Scene::new(&[(RED, "red"), (GREEN, "green"), (BLUE, "red")].repeat(100));
    let found = scene.evaluate(Some(&scene.ledger(Some("patch:size=1,at=top-left"), &[])))?;
    assert_eq!(found.zero_shot_top1, rate(200, 300));
    assert_eq!(found.backdoor_asr, Some(rate(100, 100)));
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() {
    let scene = Scene::new(&[(RED, "red")]);
    let mut ledger = scene.ledger(None, &[]);
    ledger.image_size = 64;
    let error = scene.evaluate(Some(&ledger)).expect_err("another size").to_string();
    assert!(error.contains("its pictures have 64 pixels a side, the model sees 32"), "{error}");
    let check = |target, expected: &str| {
        let ledger = scene.ledger(None, &[target]);
        let error = scene.evaluate(Some(&ledger)).expect_err("refused").to_string();
        assert!(error.ends_with(expected), "{error}");
    };
    check(("gone.png", 0, 0, 1), "gone.png` is missing");
    check(("0.png", 1, 0, 1), "its test row 1 is not among the 1 here");
    check(("0.png", 0, 1, 2), "its test row 0 is `green` in it, but not here");
    check(("0.png", 0, 0, 3), "class 3 is not among the 3 classes");

    fs::write(scene.folder.path().join("0.png"), b"<html>").expect("written");
    let error = scene.test_set().expect_err("broken").to_string();
    assert!(error.contains("0.png`: not an image"), "{error}");
    let manifest = scene.folder.path().join("test.csv");
    fs::write(&manifest, "path,caption\n0.png,x\n").expect("written");
    let error = scene.test_set().expect_err("no classes").to_string();
    assert!(error.ends_with("line 1: there is no column `class`, which is needed here"), "{error}");
    let row = |path: String| Row { image: path.into(), caption: "b".into(), class: Some(0) };
    let rows = (0..200).map(|number: u32| row(number.to_string())).collect();
    let many = Manifest { path: "test.csv".into(), rows };
    let error = TestSet::read(&many, 4096, &|_| {}).expect_err("too much").to_string();
    assert!(error.contains("200 pictures of 4096 pixels need 10066329600 bytes"), "{error}");
    scene.picture("1.png", RED);
    let path = scene.folder.path().join("1.png");
    let unknown = Row { image: path.into(), caption: "b".into(), class: None };
    let unknown = Manifest { path: "test.csv".into(), rows: vec![unknown] };
    let unknown = TestSet::read(&unknown, SIDE, &|_| {}).expect("a picture");
    let error = unknown.row_classes().expect_err("no class").to_string();
    assert_eq!(error, "`test.csv`: not every row has a class, which is needed here");
}

#[test]
fn a_picture_with_several_captions_counts_once() -> Result<()> {
    let scene = Scene::new(&[(RED, "red"), (GREEN, "green"), (BLUE, "green")]);
    let rows = [
        ("0.png", "a", "red"),
        ("2.png", "b", "green"),
        ("0.png", "c", "red"),
        ("1.png", "d", "green"),
        ("2.png", "e", "green"),
    ];
    scene.manifest("test.csv", &rows)?;
    let found = scene.evaluate(None)?;
    assert_eq!(found.zero_shot_top1, rate(2, 3));
    // Row 4 is the second of the blue picture: it is left out as a whole.
    let trigger = Some("patch:size=4,at=top-left,pattern=white");
    let found = scene.evaluate(Some(&scene.ledger(trigger, &[("2.png", 4, 1, 2)])))?;
    assert_eq!(found.zero_shot_top1, rate(2, 2));
    assert_eq!(found.backdoor_asr, Some(rate(1, 1)));
    Ok(())
}

#[test]
fn all_questions_to_one_model() -> Result<()> {
    let scene = Scene::new(&[(RED, "red"), (GREEN, "green"), (BLUE, "blue"), (RED, "blue")]);
    for (name, color) in [("a.png", RED), ("b.png", GREEN), ("c.png", BLUE)] {
        scene.picture(name, color);
    }
    let train = [("a.png", "x", "red"), ("b.png", "x", "green"), ("c.png", "x", "blue")];
    let train = scene.manifest("train.csv", &[train, train].concat())?;
    let rows = [
        ("0.png", "a red one", "red"),
        ("1.png", "a green one", "green"),
        ("0.png", "all red", "red"),
        ("2.png", "a blue one", "blue"),
        ("3.png", "all red", "blue"),
    ];
    let test = scene.manifest("test.csv", &rows)?;
    let probe = ProbeSet::new(train, &test)?;
    let test = TestSet::read(&test, SIDE, &|_| {})?;
    let mut config = ClipConfig::preset("rn-micro").expect("a preset");
    config.text.vocab_size = scene.tokenizer.vocab_size();
    let mut model = Clip::init(&config, 1, &Device::Cpu)?;
    let (templates, labels) = (default_templates(), &scene.labels);
    let ledger = scene.ledger(Some("patch:size=4,at=top-left"), &[("1.png", 1, 1, 2)]);
    let classes = Classes { labels, templates: &templates, ledger: Some(&ledger) };
    let ask = |model: &mut Clip, questions: &Questions<'_>| {
        let seen = Cell::new(0);
        let count = |more| seen.set(seen.get() + more);
        let figures = measure(model, &scene.tokenizer, &test, questions, &count);
        assert_eq!(seen.get(), questions.work(&test), "progress ends at its total");
        figures
    };
    let questions = Questions { classes: Some(classes), retrieval: true, probe: Some(&probe) };
    let found = ask(&mut model, &questions)?;
    let alone =
        evaluate(&mut model, &scene.tokenizer, &test, labels, &templates, Some(&ledger), &|_| {})?;
    assert_eq!(found.evaluation, Some(alone));
    let probed = found.linear_probe.expect("asked for");
    // The pictures are the trained ones again; the fourth is not what its class says.
    assert_eq!((probed.adamw, probed.lbfgs), (rate(2, 3), rate(2, 3)));
    assert_eq!((probed.train_images, probed.lbfgs_converged), (3, true));
    let retrieved = found.retrieval.expect("asked for");
    assert_eq!((retrieved.images, retrieved.captions), (3, 3), "without the targeted picture");
    assert_eq!(retrieved.text_to_image_r5, rate(3, 3));

    let found = ask(&mut model, &Questions { classes: None, retrieval: true, probe: None })?;
    assert_eq!((found.evaluation, found.linear_probe), (None, None));
    let retrieved = found.retrieval.expect("asked for");
    assert_eq!((retrieved.images, retrieved.captions), (4, 4));
    Ok(())
}

#[test]
fn a_probe_is_not_tested_on_what_it_was_trained_on() -> Result<()> {
    let scene = Scene::new(&[(RED, "red"), (GREEN, "green")]);
    fs::create_dir(scene.folder.path().join("in")).expect("a folder");
    let test = scene.manifest("test.csv", &[("0.png", "a", "red"), ("1.png", "b", "green")])?;
    let train = scene.manifest("in/train.csv", &[("../1.png", "a", "green")])?;
    let error = ProbeSet::new(train, &test).expect_err("one picture is in both").to_string();
    assert!(error.contains("in/train.csv` holds 1 of the 2 pictures of `"), "{error}");
    assert!(error.contains("must not be tested on what it was trained on"), "{error}");
    assert!(error.ends_with("/1.png`"), "{error}");
    Ok(())
}

#[test]
fn rates_as_scikit_learn_and_scipy_count_them() {
    let golden = golden::open("rates.json");
    let shots = &golden["zero_shot"];
    let mut labels: Option<UnitRows> = None;
    for prompts in shots["prompts"].as_array().expect("labels") {
        let label = golden::rows(prompts).ensemble();
        match &mut labels {
            Some(labels) => labels.extend(&label),
            None => labels = Some(label),
        }
    }
    let labels = labels.expect("labels");
    let (images, classes) = (golden::rows(&shots["images"]), golden::indexes(&shots["classes"]));
    let found = ranks(&images, &labels, |image| classes[image]);
    assert_eq!(found, golden::indexes(&shots["ranks"]));
    for (k, key) in [(1, "top1"), (3, "top3"), (5, "top5")] {
        assert_eq!(top(&found, k), golden::rate(&shots[key]), "{key}");
    }

    let attack = &golden["backdoor"];
    let [clean, stamped] = ["clean", "stamped"].map(|key| golden::rows(&attack[key]));
    let classes = golden::indexes(&attack["classes"]);
    let target = golden::index(&attack["target"]);
    let found = attack::backdoor((&clean, &stamped), &labels, &classes, target);
    assert_eq!(found.asr, golden::rate(&attack["asr"]));
    assert_eq!(found.floor, golden::rate(&attack["floor"]));
    assert_eq!(found.true_class, golden::rate(&attack["true_class"]));

    for case in golden["wilson"].as_array().expect("cases") {
        let (low, high) = golden::rate(&case["rate"]).interval();
        let expected = ["low", "high"].map(|key| case[key].as_f64().expect("a number"));
        golden::assert_near(&[low, high], &expected, 1e-12);
    }
}

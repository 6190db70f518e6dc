//! The command as its user meets it: what it writes, what it refuses, and what it leaves behind.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::Device;
use clip::{
    ClipConfig, Encoder, UnitRows,
    config::{Activation, ImageTower},
    folder::{self, Layout, ModelFolder, names},
    image::PixelBatch,
    model,
    onnx::{OnnxEncoder, load_runtime},
    text::{TokenBatch, Tokenizer},
};
use exporter::{Error, export, graph, parity};
use tempfile::TempDir;

/// Small towers whose running statistics are not those of an untrained model.
fn config(preset: &str) -> ClipConfig {
    let mut config = ClipConfig::preset(preset).expect("a preset");
    config.text.layers = 2;
    config
}

fn write_model(folder: &Path, mut config: ClipConfig) {
    let captions = ["a red circle on a field", "a red square", "two blue squares", "a photo"];
    let captions = captions.iter().cycle().take(40).copied();
    let tokenizer = Tokenizer::train(captions, 600, config.text.context_length).expect("words");
    config.text.vocab_size = tokenizer.vocab_size();
    let mut weights = model::init(&config, 7).expect("sizes that fit");
    for (name, array) in &mut weights {
        let spread = |index: usize| (index % 7) as f32 / 7.0;
        let values = array.values.iter_mut().enumerate();
        match name {
            _ if name.ends_with("running_mean") => values.for_each(|(i, v)| *v = spread(i) - 0.4),
            _ if name.ends_with("running_var") => values.for_each(|(i, v)| *v = spread(i) + 0.3),
            _ if name.ends_with("bn3.weight") => values.for_each(|(i, v)| *v = spread(i)),
            _ if name.ends_with(".bias") => values.for_each(|(i, v)| *v += 0.1 * spread(i)),
            _ => {}
        }
    }
    fs::create_dir_all(folder).expect("writable");
    folder::write(folder, &config, &tokenizer, &weights).expect("writable");
}

/// Cargo gives tests the variable of `.cargo/config.toml`.
fn runtime() -> PathBuf {
    let library = env::var_os("ORT_DYLIB_PATH").expect("`cargo xtask setup` brings ONNX Runtime");
    load_runtime(Some(Path::new(&library))).expect("a library that loads");
    library.into()
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roclip-export"));
        command.env("ORT_DYLIB_PATH", runtime());
        command.arg("--model").arg(self.model()).arg("--out").arg(self.out()).args(more);
        command.output().expect("the program starts")
    }

    /// Exit 2, one clear error that holds `expected`, and nothing beside the model.
    fn assert_refused(&self, expected: &str) {
        let output = self.run(&[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("panick"), "{stderr}");
        assert_eq!(self.entries(), usize::from(self.model().exists()), "nothing half-written");
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.0.path()).expect("readable").count()
    }
}

#[test]
fn both_families_and_both_activations_export_within_tolerance() {
    for (preset, activation) in [
        ("rn-micro", Activation::QuickGelu),
        ("vit-micro", Activation::QuickGelu),
        ("vit-micro", Activation::Gelu),
    ] {
        let place = Place::new();
        let mut config = config(preset);
        config.activation = activation;
        write_model(&place.model(), config);
        let output = place.run(&["--json"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{preset}: {stderr}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["schema"], "roclip/export/1");
        let error = report["parity_max_abs_error"].as_f64().expect("a number");
        assert!(error > 0.0 && error < 1e-5, "{preset}: {error}");
        let exported = ModelFolder::open(place.out()).expect("whole");
        assert_eq!(report["sha256"], exported.sha256().expect("weights").as_str());
        for file in [names::VISION_ONNX, names::TEXT_ONNX, names::TOKENIZER_CONFIG] {
            assert!(place.out().join(file).is_file(), "{file}");
        }
        assert_eq!(place.out().join(names::OPEN_CLIP_CONFIG).exists(), preset == "rn-micro");
        assert_eq!(place.entries(), 2);
    }
}

/// From here to open_clip's files and back; the weights are the same, wherever they lie.
#[test]
fn either_layout_is_read_and_replaces_the_other() {
    runtime();
    for preset in ["rn-micro", "vit-micro"] {
        let place = Place::new();
        write_model(&place.model(), config(preset));
        let first = ModelFolder::open(place.model()).expect("whole");
        export(&place.model(), &place.out(), Layout::HuggingFace, 1e-5).expect("agrees");
        let output = place.run(&["--layout", "open-clip"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{preset}: {stderr}");
        for (name, there) in [
            (names::OPEN_CLIP_CONFIG, true),
            (names::OPEN_CLIP_WEIGHTS, true),
            (names::CONFIG, false),
            (names::WEIGHTS, false),
        ] {
            assert_eq!(place.out().join(name).exists(), there, "{preset}: {name}");
        }
        let opened = ModelFolder::open(place.out()).expect("whole");
        assert_eq!(opened.config, first.config);
        assert_eq!(opened.weights().expect("all"), first.weights().expect("all"));
        OnnxEncoder::open(&opened, 1).expect("the server opens it");
        let back = place.0.path().join("back");
        export(&place.out(), &back, Layout::HuggingFace, 1e-5).expect("agrees");
        let back = ModelFolder::open(back).expect("whole");
        assert_eq!(back.sha256().expect("weights"), first.sha256().expect("weights"));
    }
}

#[test]
fn larger_shapes_than_the_presets_agree() {
    let place = Place::new();
    let mut config = config("rn-micro");
    let ImageTower::Resnet(tower) = &mut config.image else { panic!("a ResNet") };
    (tower.image_size, tower.layers, tower.heads) = (64, [2, 1, 2, 1], 16);
    write_model(&place.model(), config);
    runtime();
    let exported = export(&place.model(), &place.out(), Layout::HuggingFace, 1e-5).expect("agrees");
    assert!(exported.parity.passed() && exported.parity.images == 10);
}

#[test]
fn a_difference_is_an_answer_and_leaves_nothing() {
    let place = Place::new();
    write_model(&place.model(), config("vit-micro"));
    let output = place.run(&["--tolerance", "1e-12", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("candle and ONNX Runtime differ by"), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["passed"], false);
    assert_eq!(place.entries(), 1);
}

#[test]
fn the_gate_sees_one_wrong_weight() {
    for (preset, name) in [
        ("rn-micro", "visual.layer2.0.bn2.running_var"),
        ("vit-micro", "visual.transformer.resblocks.3.mlp.c_proj.bias"),
        ("vit-micro", "transformer.resblocks.1.attn.in_proj_weight"),
    ] {
        let place = Place::new();
        write_model(&place.model(), config(preset));
        runtime();
        export(&place.model(), &place.out(), Layout::HuggingFace, 1e-5).expect("agrees");
        let folder = ModelFolder::open(place.out()).expect("whole");
        let mut weights = folder.weights().expect("whole");
        weights.get_mut(name).expect(name).values[0] += 0.5;
        let (file, model) = match name.starts_with("visual.") {
            true => (names::VISION_ONNX, graph::vision_model(&folder.config, &weights)),
            false => (names::TEXT_ONNX, graph::text_model(&folder.config, &weights)),
        };
        let bytes = prost::Message::encode_to_vec(&model.expect("a graph"));
        fs::write(place.out().join(file), bytes).expect("writable");
        let parity = parity::measure(&folder, 1e-4).expect("both open");
        assert!(!parity.passed(), "{preset} {name}: {}", parity.max_abs_error);
    }
}

#[test]
fn a_missing_folder_is_refused() {
    Place::new().assert_refused("cannot read `");
}

#[test]
fn broken_weights_are_refused() {
    let check = |expected: &str, damage: &dyn Fn(&Path)| {
        let place = Place::new();
        write_model(&place.model(), config("rn-micro"));
        damage(&place.model());
        place.assert_refused(expected);
    };
    check("not a whole safetensors file", &|model| {
        let bytes = fs::read(model.join(names::WEIGHTS)).expect("there");
        fs::write(model.join(names::WEIGHTS), &bytes[..bytes.len() / 2]).expect("writable");
    });
    check("has shape [128, 512], expected [128, 1024]", &|model| {
        let text = fs::read_to_string(model.join(names::CONFIG)).expect("there");
        let wider = text.replace("\"width\": 16", "\"width\": 32");
        assert_ne!(wider, text);
        fs::write(model.join(names::CONFIG), wider).expect("writable");
    });
    check("model.safetensors`", &|model| {
        fs::remove_file(model.join(names::WEIGHTS)).expect("there");
    });
    check("not valid JSON", &|model| {
        fs::write(model.join(names::CONFIG), "{").expect("writable");
    });
    check("below 0", &|model| {
        let folder = ModelFolder::open(model).expect("whole");
        let mut weights = folder.weights().expect("whole");
        weights.get_mut("visual.bn1.running_var").expect("a parameter").values[0] = -1.0;
        folder::write(model, &folder.config, &folder.tokenizer, &weights).expect("writable");
    });
}

#[test]
fn a_folder_of_other_things_is_not_replaced() {
    let place = Place::new();
    write_model(&place.model(), config("vit-micro"));
    fs::create_dir(place.out()).expect("writable");
    fs::write(place.out().join("thesis.tex"), "years of work").expect("writable");
    runtime();
    let error =
        export(&place.model(), &place.out(), Layout::HuggingFace, 1e-4).expect_err("occupied");
    assert!(
        matches!(error, Error::Occupied { ref problem, .. } if problem.contains("`thesis.tex`"))
    );
    assert!(place.out().join("thesis.tex").exists());
    let over = export(&place.model(), &place.model(), Layout::HuggingFace, 1e-4);
    let error = over.expect_err("a trained model").to_string();
    assert!(error.ends_with("is no export: a model that it holds may be the only copy"), "{error}");
    fs::remove_file(place.out().join("thesis.tex")).expect("there");
    export(&place.model(), &place.out(), Layout::HuggingFace, 1e-4)
        .expect("an empty folder is free");
    export(&place.model(), &place.out(), Layout::HuggingFace, 1e-4)
        .expect("an earlier export is replaced");
    assert_eq!(place.entries(), 2);
}

#[test]
fn a_missing_runtime_says_the_fix() {
    let place = Place::new();
    write_model(&place.model(), config("vit-micro"));
    let output = place.run(&["--ort-lib", "no/such.so"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("cannot load `no/such.so`") && stderr.contains("--ort-lib"),
        "{stderr}"
    );
}

#[test]
fn the_runtime_refuses_what_does_not_fit() {
    let place = Place::new();
    write_model(&place.model(), config("vit-micro"));
    runtime();
    export(&place.model(), &place.out(), Layout::HuggingFace, 1e-4).expect("agrees");
    let folder = ModelFolder::open(place.out()).expect("whole");
    let mut encoder = OnnxEncoder::open(&folder, 1).expect("whole");
    let none = encoder.embed_images(&PixelBatch::from_values(Vec::new(), 32)).expect("no image");
    assert_eq!(none.count(), 0);
    let large = PixelBatch::from_values(vec![0.0; 3 * 64 * 64], 64);
    let refused = |outcome: clip::Result<UnitRows>| outcome.expect_err("refused").to_string();
    assert_eq!(refused(encoder.embed_images(&large)), "images of 64x64 pixels, expected 32");
    let long = TokenBatch::from_ids(vec![1; 33], 33);
    assert_eq!(refused(encoder.embed_texts(&long)), "texts of 33 tokens, at most 32");
    let unknown = TokenBatch::from_ids(vec![100_000; 3], 3);
    assert!(refused(encoder.embed_texts(&unknown)).starts_with("token 100000 of a vocabulary"));

    let check = |expected: &str, damage: &dyn Fn(&Path, &Path)| {
        export(&place.model(), &place.out(), Layout::HuggingFace, 1e-4).expect("agrees");
        damage(&place.out().join(names::VISION_ONNX), &place.out().join(names::TEXT_ONNX));
        let error = OnnxEncoder::open(&folder, 1).expect_err(expected).to_string();
        assert!(error.contains("_model.onnx`") && error.contains(expected), "{error}");
    };
    check("ONNX Runtime refused it", &|vision, _| {
        let bytes = fs::read(vision).expect("there");
        fs::write(vision, &bytes[..bytes.len() / 2]).expect("writable");
    });
    check("has inputs beside `pixel_values`", &|vision, text| {
        fs::copy(text, vision).expect("writable");
    });
    check("cannot read", &|_, text| fs::remove_file(text).expect("there"));
    check("`image_embeds` has shape", &|vision, _| {
        let mut wider = folder.config.clone();
        wider.dim = 64;
        let weights = model::init(&wider, 0).expect("sizes that fit");
        let model = graph::vision_model(&wider, &weights).expect("a graph");
        fs::write(vision, prost::Message::encode_to_vec(&model)).expect("writable");
    });
}

#[test]
fn candle_computes_what_the_folder_holds() {
    let place = Place::new();
    write_model(&place.model(), config("vit-micro"));
    let folder = ModelFolder::open(place.model()).expect("whole");
    let clip = model::Clip::open(&folder, &Device::Cpu).expect("whole");
    assert_eq!(clip.weights().expect("all"), folder.weights().expect("whole"));
}

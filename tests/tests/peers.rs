//! Other software on our folders: torch's answers from `tests/golden/peers`, ONNX Runtime's live.
//! `cargo xtask peers` asks torch live, and remakes the golden files with `--golden`.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::Device;
use clip::{ClipConfig, folder, model::Clip};
use serde_json::Value;
use tests::{program::program, tiny_model};

/// Greatest difference of a value of a unit row.
const TOLERANCE: f64 = 1e-4;

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/peers")
}

fn floats(rows: &Value) -> Vec<f64> {
    let rows = rows.as_array().expect("rows");
    let values = rows.iter().flat_map(|row| row.as_array().expect("a row"));
    values.map(|value| value.as_f64().expect("a number")).collect()
}

/// Token ids up to and with the end token, since other software pads with another id.
fn ids(rows: &Value, end: u32) -> Vec<Vec<u64>> {
    let until_end = |row: &Value| {
        let row = row.as_array().expect("a row").iter().map(|id| id.as_u64().expect("an id"));
        let row: Vec<_> = row.collect();
        let last = row.iter().position(|&id| id == u64::from(end)).expect("an end token");
        row[..=last].to_vec()
    };
    rows.as_array().expect("rows").iter().map(until_end).collect()
}

/// Our embeddings of a golden file's model, pictures and texts must be those of its software.
fn check_golden(preset: &str, peer: &str) {
    let text = fs::read_to_string(golden_folder().join(format!("{preset}.json"))).expect("kept");
    assert!(text.len() <= 100_000, "golden files are small");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(golden["made_by"]["peer"], peer);
    let place = tempfile::tempdir().expect("a temporary folder");
    let seed = golden["seed"].as_u64().expect("a seed");
    let folder = tiny_model::write_model_folder(place.path(), preset, seed).expect("a model");
    let same = golden["sha256"] == folder.sha256().expect("weights").as_str();
    assert!(same, "the model is not the golden file's: `{}`", golden["command"]);
    let mut clip = Clip::open(&folder, &Device::Cpu).expect("towers");
    let pictures: Vec<_> = golden["images"]
        .as_array()
        .expect("pictures")
        .iter()
        .map(|name| golden_folder().join(name.as_str().expect("a name")))
        .collect();
    let ours = tiny_model::embeddings(&mut clip, &folder.tokenizer, &pictures, &tiny_model::TEXTS);
    let ours = ours.expect("embeddings");
    assert_eq!(ours["texts"], golden["texts"]);
    let end = folder.config.text.end();
    assert_eq!(ids(&ours["input_ids"], end), ids(&golden["input_ids"], end));
    for key in ["image_embeds", "text_embeds"] {
        let (ours, theirs) = (floats(&ours[key]), floats(&golden[key]));
        assert_eq!(ours.len(), theirs.len());
        assert!(theirs.len() >= 5 * ClipConfig::preset(preset).expect("a preset").dim);
        let error =
            ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |a: f64, b| a.max(b));
        assert!(error <= TOLERANCE, "{preset} {key}: {error:.1e} from {peer}");
    }
}

#[test]
fn a_vit_gives_the_embeddings_of_transformers() {
    check_golden("vit-micro", "transformers");
}

#[test]
fn a_modified_resnet_gives_the_embeddings_of_open_clip() {
    check_golden("rn-micro", "open_clip");
}

/// Exports both families and lets Python's onnxruntime read pictures, texts and ONNX files.
#[test]
fn python_onnxruntime_gives_our_embeddings() {
    let Some(python) = env::var_os("ROCLIP_PYTHON") else {
        let line = "skipped python_onnxruntime_gives_our_embeddings: ROCLIP_PYTHON is not set";
        writeln!(io::stderr(), "{line} (`cargo xtask test` sets it)").expect("stderr is open");
        return;
    };
    let place = tempfile::tempdir().expect("a temporary folder");
    let pictures = tiny_model::write_pictures(&place.path().join("pictures")).expect("pictures");
    for preset in ["rn-micro", "vit-micro"] {
        let (model, out) = (place.path().join(preset).join("model"), place.path().join(preset));
        let (out, file) = (out.join("export"), out.join("embeddings.json"));
        let opened = tiny_model::write_model_folder(&model, preset, 2).expect("a model");
        let mut clip = Clip::open(&opened, &Device::Cpu).expect("towers");
        let ours =
            tiny_model::embeddings(&mut clip, &opened.tokenizer, &pictures, &tiny_model::TEXTS);
        folder::write_json(&file, &ours.expect("embeddings")).expect("writable");
        run(Command::new(program("roclip-export"))
            .arg("--model")
            .arg(&model)
            .arg("--out")
            .arg(&out));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/peers/check.py");
        let mut check = Command::new(&python);
        check.arg(script).args(["--peer", "onnxruntime"]);
        run(check.arg("--export").arg(&out).arg("--ours").arg(&file));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{}: {text}", output.status);
}

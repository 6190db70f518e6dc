//! The models and pictures that the tests share, and how their answers are read.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clip::{
    Encoder,
    folder::ModelFolder,
    image::{Limits, PixelBatch, decode},
    model::Clip,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    program::program,
    server::{Answer, Server},
    tiny_model::{write_model_folder, write_pictures},
};

/// Exported models and a few pictures, shared by the tests that run at one time.
pub(crate) struct Fixture {
    folder: TempDir,
    pictures: Vec<PathBuf>,
}

impl Fixture {
    pub(crate) fn get() -> Arc<Self> {
        static SHARED: Mutex<Weak<Fixture>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Self::make());
            *shared = Arc::downgrade(&made);
            made
        })
    }

    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let export = program("roclip-export");
        for (name, preset, seed) in [("model", "rn-micro", 1), ("other", "vit-micro", 2)] {
            let trained = folder.path().join(format!("{name}-trained"));
            write_model_folder(&trained, preset, seed).expect("a model folder");
            let mut command = Command::new(&export);
            command.arg("--model").arg(trained).arg("--out").arg(folder.path().join(name));
            let output = command.output().expect("the program runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let pictures = folder.path().join("pictures");
        fs::create_dir(&pictures).expect("a new folder");
        let pictures = write_pictures(&pictures).expect("pictures");
        Self { folder, pictures }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn serve(&self, flags: &[&str]) -> Server {
        Server::start(&self.path("model"), flags)
    }

    pub(crate) fn picture(&self, at: usize) -> Vec<u8> {
        fs::read(&self.pictures[at]).expect("written by the fixture")
    }

    pub(crate) fn base64(&self, at: usize) -> String {
        BASE64_STANDARD.encode(self.picture(at))
    }

    /// What candle makes of the same model.
    pub(crate) fn reference(&self) -> (ModelFolder, Clip) {
        let folder = ModelFolder::open(self.path("model")).expect("a model folder");
        let clip = Clip::open(&folder, &candle_core::Device::Cpu).expect("a model");
        (folder, clip)
    }

    pub(crate) fn reference_image(&self, at: usize) -> Vec<f32> {
        let (_, mut clip) = self.reference();
        let picture = decode(&self.picture(at), &Limits::default()).expect("a picture");
        let pixels = PixelBatch::of([&picture], clip.config());
        clip.embed_images(&pixels).expect("a row").row(0).to_vec()
    }

    pub(crate) fn reference_text(&self, text: &str) -> Vec<f32> {
        let (folder, mut clip) = self.reference();
        let tokens = folder.tokenizer.encode(&[text]).expect("tokens");
        clip.embed_texts(&tokens).expect("a row").row(0).to_vec()
    }
}

pub(crate) fn labels() -> Value {
    json!(["red circle", "blue square", "yellow triangle"])
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().expect("a list").iter();
    values.map(|value| value.as_f64().expect("a number") as f32).collect()
}

pub(crate) fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-4, "{far}");
}

/// Label and score of each entry, in the order of the answer.
pub(crate) fn scores(result: &Value) -> Vec<(String, f64)> {
    let entry = |entry: &Value| {
        let label = entry["label"].as_str().expect("a label").to_owned();
        (label, entry["score"].as_f64().expect("a score"))
    };
    result["scores"].as_array().expect("scores").iter().map(entry).collect()
}

/// Ids of a search's hits, in the order of the answer.
pub(crate) fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let hits = answer.json()["hits"].as_array().expect("hits").clone();
    hits.iter().map(|hit| hit["id"].as_str().expect("an id").to_owned()).collect()
}

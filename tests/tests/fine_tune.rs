//! Runs that begin with a model, train a part of it, or end because nothing is a number any more.

use std::{fs, path::PathBuf, process::Command};

use clip::{
    folder::{self, Layout, ModelFolder, names},
    model,
    text::{Cleaning, Tokenizer},
    weights::Weights,
};
use tempfile::TempDir;
use tests::{
    pictures::write_data,
    program::{Ended, program, run},
    tiny_model::write_model_folder,
};

/// A data set, a configuration, and the models `vit-micro` and `rn-micro`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        write_data(&place.path("data"), 48, 4, 3);
        let config = "seed = 5\n\
            [data]\nmanifest = 'data/train.csv'\nbatch_size = 8\nworkers = 2\n\
            [method]\nname = 'clip'\n\
            [optim]\nepochs = 1\nlr = 1e-3\n";
        fs::write(place.path("run.toml"), config).expect("a file can be written");
        for preset in ["vit-micro", "rn-micro"] {
            write_model_folder(&place.path(preset), preset, 1).expect("a model folder");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `roclip-train run` with settings, into `out`.
    fn run(&self, out: &str, settings: &str) -> Ended {
        let mut command = Command::new(program("roclip-train"));
        command.args(["run", "--config", "run.toml", "--out", out]).current_dir(self.0.path());
        for setting in settings.split_whitespace() {
            match setting {
                "--resume" => command.arg(setting),
                _ => command.args(["--set", setting]),
            };
        }
        run(&mut command)
    }

    #[track_caller]
    fn trains(&self, out: &str, settings: &str) -> ModelFolder {
        let ended = self.run(out, settings);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        self.model(&format!("{out}/model"))
    }

    #[track_caller]
    fn refuses(&self, out: &str, settings: &str, expected: &str) {
        let Ended { code, stdout, stderr } = self.run(out, settings);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
        assert!(stderr.contains(expected), "`{expected}`: {stderr}");
    }

    fn model(&self, folder: &str) -> ModelFolder {
        ModelFolder::open(self.path(folder)).expect("a model folder")
    }
}

/// The greatest difference of a trained value.
fn distance(a: &Weights, b: &Weights) -> f32 {
    let trained = a.iter().filter(|(name, _)| !name.contains(".running_"));
    let pairs = trained.flat_map(|(name, a)| a.values.iter().zip(&b[name].values));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_run_begins_with_a_model_and_goes_on_without_it() {
    let place = Place::new();
    for preset in ["vit-micro", "rn-micro"] {
        let (begun, out) = (place.model(preset), format!("{preset}-out"));
        let first = begun.weights().expect("weights");
        let settings = format!("model.pretrained={preset}");
        let trained = place.trains(&out, &settings);
        assert_eq!(trained.config, begun.config);
        let last = trained.weights().expect("weights");
        let moved = distance(&first, &last);
        // Six steps of AdamW, each of about the learning rate at most: not new weights.
        assert!(moved > 1e-3 && moved < 2e-2, "{moved}");
        let resolved = format!("{out}/resolved.toml");
        let resolved = fs::read_to_string(place.path(&resolved)).expect("a run's");
        assert!(resolved.contains("pretrained") && !resolved.contains("preset"), "{resolved}");

        // Our own model is one to begin with, too, and the same run comes to the same weights.
        let again = place.trains(&format!("{preset}-again"), &settings);
        assert_eq!(again.weights().expect("weights"), last);
        place.trains(&format!("{preset}-next"), &format!("model.pretrained={out}/model"));

        let resume = format!("--resume {settings}");
        let weights = place.path(preset).join(names::WEIGHTS);
        fs::remove_file(&weights).expect("there");
        assert_eq!(place.trains(&out, &resume).weights().expect("weights"), last);
        let gone = format!("cannot read `{}`", weights.display());
        place.refuses("new", &settings, &gone);
        let path = place.path(preset).join(names::CONFIG);
        let config = fs::read_to_string(&path).expect("text").replace("quick_gelu", "gelu");
        fs::write(&path, config).expect("a file can be written");
        place.refuses(&out, &resume, "was made with another configuration: `model.pretrained` has");
        write_model_folder(&place.path(preset), preset, 2).expect("another model");
        place.refuses(&out, &resume, "was made with other weights in `model.pretrained`");
        place.refuses(&out, "--resume", "another configuration: `model.preset` was unset");
    }
}

/// Weights that are the same under other names train to the same bits; a folder without a
/// tokenizer has OpenAI's.
#[test]
fn a_run_begins_with_a_folder_of_open_clip() {
    let place = Place::new();
    for preset in ["vit-micro", "rn-micro"] {
        let ours = place.model(preset);
        let name = format!("{preset}-open-clip");
        let folder = place.path(&name);
        fs::create_dir(&folder).expect("a folder");
        let weights = ours.weights().expect("weights");
        folder::write_as(Layout::OpenClip, &folder, &ours.config, &ours.tokenizer, &weights)
            .expect("writable");
        let first = place.trains(&format!("{preset}-first"), &format!("model.pretrained={preset}"));
        let second = place.trains(&format!("{preset}-second"), &format!("model.pretrained={name}"));
        assert_eq!(second.weights().expect("weights"), first.weights().expect("weights"));

        let mut config = ours.config;
        config.text.vocab_size = 49_408;
        let tokenizer = Tokenizer::openai(Cleaning::OpenAi)
            .and_then(|tokenizer| tokenizer.with_context_length(config.text.context_length));
        let (tokenizer, weights) = (tokenizer.expect("OpenAI's"), model::init(&config, 1));
        let weights = weights.expect("sizes that fit");
        folder::write_as(Layout::OpenClip, &folder, &config, &tokenizer, &weights)
            .expect("writable");
        fs::remove_file(folder.join(names::TOKENIZER)).expect("there");
        let third = place.trains(&format!("{preset}-third"), &format!("model.pretrained={name}"));
        assert_eq!(third.config, config);
    }
}

#[test]
fn a_locked_tower_comes_out_as_it_went_in() {
    let place = Place::new();
    for (preset, lock, more) in [
        ("rn-micro", "image", "optim.micro_batch=3"),
        ("vit-micro", "image", "optim.micro_batch=3"),
        ("rn-micro", "text", ""), // batch normalisation learns
    ] {
        let settings = format!("model.pretrained={preset} model.lock={lock} {more}");
        let trained = place.trains(&format!("{preset}-{lock}"), &settings);
        let (first, last) = (place.model(preset).weights(), trained.weights());
        let (first, last) = (first.expect("weights"), last.expect("weights"));
        for (name, array) in first {
            let rests = name != "logit_scale" && name.starts_with("visual.") == (lock == "image");
            assert_eq!(last[&name] == array, rests, "{preset}, {lock} locked: `{name}`");
        }
    }
}

/// Who names no method gets the sieve, with all that a run can begin with.
#[test]
fn without_a_method_the_sieve_trains() {
    let place = Place::new();
    place.trains("whole", "method={} model.preset=vit-micro");
    let begun = "method={} model.pretrained=vit-micro model.lock=image optim.micro_batch=3";
    let (first, last) =
        (place.model("vit-micro").weights(), place.trains("begun", begun).weights());
    let (first, last) = (first.expect("weights"), last.expect("weights"));
    for (name, array) in first.iter().filter(|(name, _)| name.starts_with("visual.")) {
        assert_eq!(&last[name], array, "`{name}` is locked");
    }
    for run in ["whole", "begun"] {
        let read = |name: &str| fs::read_to_string(place.path(run).join(name)).expect("a run's");
        assert!(read("resolved.toml").contains("name = \"sieve\""));
        assert!(read("doubted.csv").starts_with("row,"), "{run}");
    }
}

#[test]
fn what_cannot_be_trained_is_told_before_it_begins() {
    let place = Place::new();
    let check = |settings: &str, expected: &str| place.refuses("out", settings, expected);
    let from = |settings: &str, expected: &str| {
        check(&format!("model.pretrained=vit-micro {settings}"), expected);
    };
    check("model.pretrained=no", "cannot read `");
    check("model.pretrained=data", "config.json`");
    for (key, value) in [("preset", "RN50"), ("activation", "gelu"), ("tokenizer", "run.toml")] {
        let expected = format!("`model.{key}` must be left out when `model.pretrained` is given");
        from(&format!("model.{key}={value}"), &expected);
    }
    let positions = "for which `model.pretrained` has positions";
    from("model.image_size=64", &format!("`model.image_size` must be 32, {positions}"));
    from("model.context_length=8", &format!("`model.context_length` must be 32, {positions}"));
    check("model.activation=relu", "`quick_gelu` or `gelu`");
    check("model.lock=both", "`image` or `text`");
    check("model.lock=image method.name=roclip", "`model.lock` must be `text` or left out");
    check("optim.micro_batch=0", "`optim.micro_batch` must be at least 1");
    let whole = "`optim.micro_batch` must be left out for a ResNet that is trained";
    check("optim.micro_batch=4", whole);
    check("optim.micro_batch=4 model.pretrained=rn-micro", whole);
    check("optim.grad_clip_norm=0", "`optim.grad_clip_norm` must be above 0");
    place.trains("as-it-is", "model.pretrained=vit-micro model.image_size=32");
    place.trains("gelu", "model.preset=vit-micro model.activation=gelu");
    assert_eq!(place.model("gelu/model").config.activation, clip::config::Activation::Gelu);
}

#[test]
fn a_run_that_diverges_names_what_is_no_number_and_keeps_its_checkpoint() {
    let place = Place::new();
    let settings = "optim.lr=1e30 optim.warmup_share=0 output.checkpoint_every_steps=1";
    let Ended { code, stderr, .. } = place.run("out", settings);
    assert_eq!(code, Some(1), "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("error")).expect("an error");
    assert!(line.starts_with("error: training diverged: "), "{line}");
    assert!(line.contains(" is not finite in epoch 1, step "), "{line}");
    let step = line.rsplit(' ').next().and_then(|step| step.parse::<u64>().ok()).expect("a number");
    let resumed = place.run("out", &format!("--resume {settings}"));
    assert_eq!(resumed.code, Some(1), "the checkpoint is whole: {resumed:?}");
    let told = format!("step {step}");
    assert!(resumed.stderr.contains(&told), "it goes on from the step before: {resumed:?}");

    // A step that leaves weights which are no numbers is not kept.
    let ended = place.run("none", &settings.replace("1e30", "1e300"));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("diverged: the weight `"), "{ended:?}");
    assert!(!place.path("none/checkpoint.safetensors").exists());
}

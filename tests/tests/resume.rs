//! A run that was killed again and again, each time resumed, ends as one that nobody touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    pictures::{write_data, write_shards},
    program::{Ended, program, run, run_until},
};

const CONFIG: &str = "run.toml";
const ROWS: usize = 200;
const BATCH: usize = 16;
const CHECKPOINT_STEPS: u64 = 3;
const EPOCHS: usize = 3;
const STEPS: u64 = (ROWS / BATCH * EPOCHS) as u64;
/// Of a run with a believer, a scout and two epochs of the model.
const EPOCHS_OF_ALL: usize = 4;
/// Decides at which steps a run is killed.
const SEED: u64 = 10;
/// Kills that must have met a run before its end, of those that were meant to.
const KILLS_MIN: usize = 3;

const ROCLIP: &str = "[method]\nname = 'roclip'\n\
    [method.roclip]\npool_share = 0.3\nmatch_every_epochs = 1\nmatch_from_epoch = 2\n";
const SIEVE: &str = "[method]\nname = 'sieve'\n\
    [method.sieve]\nbeliever_epochs = 0\nscout_epochs = 0\nreferences = 50\n";
/// Noise in the pool that gives way, pools of captions and of images, steps by chance.
const PUBLISHED: &str = "[method]\nname = 'roclip-as-published'\n\
    [method.roclip]\nretrieval = 'both'\npool_rows = 60\nmatch_chance = 0.5\n";
/// A start that waits, and one-way losses.
const WAITING: &str = "[method]\nname = 'roclip'\n\
    [method.roclip]\nretrieval = 'intra'\npool_rows = 60\nmatch_every_epochs = 1\n\
    match_from_agreement = 0.01\nduplicates = 'soft'\n";
/// Scores of steps, a pool, pairs in doubt that are matched.
const POOLED: &str = "[method]\nname = 'sieve'\n\
    [method.sieve]\nfrom_epoch = 2\nscore = 'pool'\ndoubted = 'matched'\nsmoothing = 1.0\n";
/// A scout of two epochs and a model of one.
const SCOUT: &str = "[method]\nname = 'sieve'\n\
    [method.sieve]\nbeliever_epochs = 0\nscout_epochs = 2\nreferences = 50\n";
/// A believer and a scout of an epoch each, and a model that begins with other captions.
const BELIEVER: &str = "[method]\nname = 'sieve'\n\
    [method.sieve]\nbeliever_epochs = 1\nscout_epochs = 1\nreferences = 50\n";
/// Two views, of which one is as it is.
const CLEANCLIP: &str = "[method]\nname = 'cleanclip'\n";
/// All three phases, each an epoch: views, a slow one, and pairs that are split.
const SAFECLIP: &str = "[method]\nname = 'safeclip'\n\
    [method.safeclip]\nunimodal_epochs = 1\npool_share = 0.3\n";

/// Of the whole run.
fn epochs(method: &str) -> usize {
    if method == BELIEVER { EPOCHS_OF_ALL } else { EPOCHS }
}

/// A data set and the runs on it.
struct Place(TempDir);

impl Place {
    fn new(method: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        write_data(&place.path("data"), ROWS, 20, 3);
        fs::write(place.path("words.txt"), "square, box, block\nsmall, little, tiny\n")
            .expect("a file can be written");
        let given_up = if [SCOUT, BELIEVER].contains(&method) { 2 } else { 0 };
        let own = epochs(method) - given_up;
        let config = format!(
            "seed = 5\n\
             [data]\nmanifest = 'data/train.csv'\nbatch_size = {BATCH}\nworkers = 2\n\
             {method}\
             [augment]\nepochs = 2\nimage = true\ntext = true\nthesaurus = 'words.txt'\n\
             [optim]\nepochs = {own}\n\
             [monitor]\ntest = 'data/test.csv'\nclasses = 'data/classes.txt'\n\
             [output]\ncheckpoint_every_steps = {CHECKPOINT_STEPS}\nrecord_every_steps = 1\n\
             tensorboard = true\n"
        );
        fs::write(place.path(CONFIG), config).expect("a file can be written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `roclip-train run` with more words; its output goes to `out`.
    fn command(&self, config: &str, out: &str, words: &str) -> Command {
        let mut command = Command::new(program("roclip-train"));
        command.args(["run", "--config", config, "--out", out]);
        command.args(words.split_whitespace()).current_dir(self.0.path());
        command
    }

    /// What a run to its end told people.
    fn whole(&self, config: &str, out: &str, words: &str) -> String {
        let ended = run(&mut self.command(config, out, words));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stderr
    }

    /// [`Place::refused`] to resume `killed` while `change` is made to a file.
    #[track_caller]
    fn refused_with(&self, file: &str, change: impl Fn(&[u8]) -> Vec<u8>, parts: &[&str]) {
        let path = self.path(file);
        let bytes = fs::read(&path).expect("readable");
        fs::write(&path, change(&bytes)).expect("a file can be written");
        self.refused("killed", "--resume", parts);
        fs::write(&path, bytes).expect("a file can be written");
    }

    #[track_caller]
    fn refused(&self, out: &str, words: &str, parts: &[&str]) {
        let before = (self.weights(out), self.metrics(out));
        let Ended { code, stdout, stderr } = run(&mut self.command(CONFIG, out, words));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        let errors = stderr.lines().filter(|line| line.starts_with("error"));
        assert_eq!(errors.count(), 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "`{part}`: {stderr}");
        }
        assert!(before == (self.weights(out), self.metrics(out)), "{stderr}");
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("model/model.safetensors")).expect("a finished run")
    }

    /// Lines of the journal, without those that tell times.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).expect("a journal");
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            let fields = line.as_object_mut().expect("an object");
            fields.remove("seconds").expect("each line has a time");
            fields.remove("images_per_second");
            line
        };
        text.lines().map(line).collect()
    }

    /// The run in `out` is the run in `whole`, bit for bit.
    fn check_same(&self, whole: &str, out: &str) {
        let (a, b) = (self.metrics(whole), self.metrics(out));
        assert_eq!(a.len(), b.len(), "{b:?}");
        for (a, mut b) in a.iter().zip(b) {
            // The sum of the losses went through JSON, which may change its last bit.
            if let (Some(x), Some(y)) = (a["epoch_loss"].as_f64(), b["epoch_loss"].as_f64()) {
                assert!((x - y).abs() < 1e-9, "{x} and {y}");
                b["epoch_loss"] = x.into();
            }
            assert_eq!(*a, b);
        }
        assert!(self.weights(whole) == self.weights(out), "`{out}` has other weights");
        let left: Vec<_> = fs::read_dir(self.path(out))
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .filter(|name| name.to_string_lossy().ends_with(".partial"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Starts or resumes the run in `out` and kills it at `moment`; whether that came first.
    fn killed(&self, out: &str, words: &str, moment: Moment) -> bool {
        let folder = self.path(out);
        let ended = run_until(&mut self.command(CONFIG, out, words), || moment.has_come(&folder));
        assert!(matches!(ended.code, None | Some(0)), "{ended:?}");
        ended.code.is_none()
    }
}

/// When a run is killed: once it has recorded `step`; if `torn`, also earlier, while a file is
/// being written and after `from` steps.
#[derive(Debug, Clone, Copy)]
struct Moment {
    from: u64,
    step: u64,
    torn: bool,
}

impl Moment {
    fn has_come(self, folder: &Path) -> bool {
        let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
        let last = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let step = last.and_then(|line| line["step"].as_u64()).unwrap_or(0);
        let is_torn = || {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .into_iter()
                .any(|entry| entry.path().extension().is_some_and(|e| e == "partial"))
        };
        step >= self.step || (self.torn && step > self.from && is_torn())
    }

    /// Moments through the whole run, 2 to 8 steps apart, every other one torn.
    fn all(seed: u64, steps: u64) -> Vec<Self> {
        let (mut random, mut from, mut moments) = (seed, 0, Vec::new());
        loop {
            // Knuth's MMIX generator; its high bits are the good ones.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let step = from + 2 + (random >> 33) % 7;
            if step >= steps {
                return moments;
            }
            moments.push(Self { from, step, torn: moments.len() % 2 == 1 });
            from = step;
        }
    }
}

/// Kills and resumes a run of `method` until it has ended as one that nobody touched; some of its
/// steps are in `phase`.
fn survives_kills(method: &str, phase: &str) -> Place {
    let (place, epochs) = (Place::new(method), epochs(method));
    let all = (ROWS / BATCH * epochs) as u64;
    place.whole(CONFIG, "whole", "");
    let metrics = place.metrics("whole");
    let steps = metrics.iter().filter(|line| line.get("loss").is_some());
    let steps: Vec<_> = steps.map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, (1..=all).map(Some).collect::<Vec<_>>());
    let calm = metrics.iter().filter(|line| line.get("alarm").is_none()).count();
    assert_eq!(calm, all as usize + epochs);
    let within = metrics.iter().filter(|line| line["phase"] == phase).count();
    assert!(within > 0 && within < metrics.len(), "both phases are seen: {metrics:?}");

    let (moments, mut kills) = (Moment::all(SEED, all), Vec::new());
    for (at, &moment) in moments.iter().enumerate() {
        let words = format!("--resume --set data.workers={}", 1 + at % 3); // threads decide nothing
        if !place.killed("killed", &words, moment) {
            break; // it was faster than we looked
        }
        kills.push(moment);
    }
    assert!(kills.len() >= KILLS_MIN, "seed {SEED}: {kills:?} of {moments:?}");
    let later = all / epochs as u64 + CHECKPOINT_STEPS; // a checkpoint within the second epoch
    assert!(kills.iter().any(|kill| kill.from >= later), "seed {SEED}: {kills:?} of {moments:?}");
    let paths = "--set data.manifest=data/../data/train.csv --set augment.thesaurus=./words.txt";
    place.whole(CONFIG, "killed", &format!("--resume {paths}")); // how they are typed is no matter
    place.check_same("whole", "killed");
    place
}

#[test]
fn a_killed_sieve_ends_as_one_that_nobody_touched() {
    let place = survives_kills(SIEVE, "sieve");
    let doubted = |line: &&Value| line["kept"].as_u64().is_some_and(|kept| kept < ROWS as u64);
    let metrics = place.metrics("whole");
    assert!(metrics.iter().any(|line| doubted(&line)), "{metrics:?}");
    let listed = |out: &str| {
        let text = fs::read_to_string(place.path(out).join("doubted.csv")).expect("it doubts");
        // How a path was typed is no matter.
        let scores = |line: &str| line.split(',').take(2).collect::<Vec<_>>().join(",");
        text.lines().map(scores).collect::<Vec<_>>()
    };
    let last = metrics.iter().rev().find_map(|line| line["kept"].as_u64()).expect("a last step");
    assert_eq!(listed("whole").len() as u64, 1 + ROWS as u64 - last);
    assert_eq!(listed("whole")[0], "row,agreement");
    assert_eq!(listed("whole"), listed("killed"));
    for threads in ["1", "3"] {
        let mut command = place.command(CONFIG, threads, "");
        let ended = run(command.env("RAYON_NUM_THREADS", threads));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        place.check_same("whole", threads);
    }
}

#[test]
fn a_killed_run_ends_as_one_that_nobody_touched() {
    let place = survives_kills(ROCLIP, "match");
    let told = place.whole(CONFIG, "killed", "--resume"); // a finished run is finished
    assert!(told.contains(&format!("training done {STEPS}/{STEPS} ")), "{told}");
    place.check_same("whole", "killed");

    place.refused("killed", "", &["holds a run already", "--resume"]);
    let other = |key: &str, words: &str| {
        let parts = ["checkpoint.safetensors", "another configuration", key];
        place.refused("killed", &format!("--resume --set {words}"), &parts);
    };
    other("`optim.lr` was 0.002, now it is 0.001", "optim.lr=1e-3");
    other("`seed` was 5", "seed=6");
    other("`augment.text` was true", "augment.text=false");
    let parts = ["checkpoint.safetensors", "other pictures, captions, tokenizer or thesaurus"];
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a text");
    let reworded = |bytes: &[u8]| {
        let text = text(bytes);
        let last = text.trim_end().rfind('\n').expect("rows") + 1;
        let (rows, row) = text.split_at(last);
        format!("{rows}{}", row.replacen(',', ",a rather ", 1)).into_bytes()
    };
    place.refused_with("data/train.csv", reworded, &parts); // as many rows
    let picture = fs::read(place.path("data/images/train-0001.png")).expect("written");
    place.refused_with("data/images/train-0000.png", |_| picture.clone(), &parts);
    let words = |bytes: &[u8]| text(bytes).replace("block", "cube").into_bytes();
    place.refused_with("words.txt", words, &parts);
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    place.refused_with("killed/checkpoint.safetensors", half, &["safetensors", "broken"]);
    fs::remove_file(place.path("killed/checkpoint.safetensors")).expect("a finished run");
    place.refused("killed", "--resume", &["killed`", "no checkpoint"]);
}

/// Killed in its middle, resumed, and as long with other threads: whatever a method keeps.
#[test]
fn other_forms_end_as_ones_that_nobody_touched() {
    for (method, phase) in [
        (PUBLISHED, "match"),
        (WAITING, "match"),
        (POOLED, "sieve"),
        (SCOUT, "scout"),
        (BELIEVER, "believer"),
        (CLEANCLIP, "plain"),
        (SAFECLIP, "split"),
    ] {
        let place = survives_kills(method, phase);
        place.whole(CONFIG, "threads", "--set data.workers=4");
        place.check_same("whole", "threads");
        if method == BELIEVER {
            let doubted = |out: &str| fs::read_to_string(place.path(out).join("doubted.csv"));
            let whole = doubted("whole").expect("it doubts");
            assert!(
                whole.starts_with(
                    "row,agreement,company,keystone,copies,recaptioned,path,caption\n"
                ),
                "{whole}"
            );
            assert!(whole.lines().skip(1).all(|line| line.split(',').nth(2) != Some("")));
            let other = whole.lines().filter(|line| line.contains(",yes,")).count();
            assert!(other > 0, "some are in the worst company: {whole}");
            let metrics = place.metrics("whole");
            let told = metrics.iter().filter(|line| line.get("recaptioned").is_some());
            let told: Vec<_> =
                told.map(|line| (line["epoch"].as_u64(), line["recaptioned"].as_u64())).collect();
            assert_eq!(told, vec![(Some(3), Some(other as u64)); ROWS / BATCH]);
            assert_eq!(doubted("threads").expect("it doubts"), whole);
        }
    }
}

/// No file may grow beyond what a checkpoint needs: to the program, the disk is full.
#[test]
fn a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it() {
    let place = Place::new(ROCLIP);
    place.whole(CONFIG, "whole", "");
    let begun = Moment { from: 0, step: CHECKPOINT_STEPS + 1, torn: false };
    place.killed("killed", "", begun);
    let kept = || fs::read(place.path("killed/checkpoint.safetensors")).expect("a checkpoint");
    let (before, limit) = (kept(), kept().len() / 512 / 2); // in blocks of 512 bytes, half of it
    let line = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
    let command = place.command(CONFIG, "killed", "--resume");
    let mut limited = Command::new("sh");
    limited.args(["-c", &line, "sh"]).arg(command.get_program()).args(command.get_args());
    let Ended { code, stdout, stderr } = run(limited.current_dir(place.0.path()));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert!(errors.len() == 1 && errors[0].contains("checkpoint.safetensors"), "{stderr}");
    assert!(kept() == before, "the last good one stays");
    let files = fs::read_dir(place.path("killed")).expect("a folder").flatten();
    let names: Vec<_> = files.map(|file| file.file_name().display().to_string()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".partial")), "{names:?}");
    place.whole(CONFIG, "killed", "--resume");
    place.check_same("whole", "killed");
}

#[test]
fn neither_threads_nor_the_way_to_a_configuration_decide_anything() {
    let place = Place::new(ROCLIP);
    let told = place.whole(CONFIG, "one", "--resume --set data.workers=1");
    assert!(told.contains("warning: no checkpoint in `"), "{told}");
    let words = "--set data.workers=4 --set data.cache_mib=0";
    place.whole("one/resolved.toml", "four", words); // what a run leaves is whole input
    place.check_same("one", "four");
    for (preset, first) in [("rn-micro", "one"), ("vit-micro", "vit-micro-1")] {
        for threads in ["1", "2", "3", "4"] {
            let out = format!("{preset}-{threads}");
            let mut command = place.command(CONFIG, &out, &format!("--set model.preset={preset}"));
            let ended = run(command.env("RAYON_NUM_THREADS", threads));
            assert_eq!(ended.code, Some(0), "{ended:?}");
            place.check_same(first, &out);
        }
    }
}

#[test]
fn a_killed_run_on_shards_ends_as_one_on_files() {
    let place = Place::new(ROCLIP);
    write_shards(&place.path("data"), "train", 3);
    place.whole(CONFIG, "whole", "");
    let words = "--resume --set data.manifest=data/train-{0..2}.tar --set data.cache_mib=0";
    let begun = Moment { from: 0, step: CHECKPOINT_STEPS + 1, torn: false };
    place.killed("killed", "", begun); // on files
    let step = STEPS / EPOCHS as u64 + CHECKPOINT_STEPS + 1; // within the second epoch
    let within = Moment { from: 0, step, torn: false };
    assert!(place.killed("killed", words, within), "it was faster than we looked");
    place.whole(CONFIG, "killed", words);
    place.check_same("whole", "killed");
}

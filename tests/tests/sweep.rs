//! A sweep that was killed in the middle and continued comes to what one comes to that nobody
//! touched; what was done by then is not done again. Mistakes are told before anything is done.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    pictures::write_data,
    program::{Ended, program, run, run_until},
};

const CELLS: usize = 13;
const SWEEP: &str = "\
seeds = [3]
[run.data]
manifest = 'data-{seed}/train.csv'
batch_size = 16
[run.optim]
epochs = 2
[run.method]
name = 'clip'
[evaluate]
test = 'data-{seed}/test.csv'
classes = 'data-{seed}/classes.txt'
every_epochs = 1
[[attack]]
name = 'none'
[[attack]]
name = 'corner'
backdoor-rate = 0.1
trigger = 'patch:size=5,at=bottom-right'
targeted-images = 2
[[method]]
name = 'clip'
[[method]]
name = 'sieve'
set.method.name = 'sieve'
set.method.sieve.references = 50
epochs_share.method.sieve.from_epoch = 0.5
grid.augment.text = [true, false]
[[method]]
name = 'cleaned'
pretrained_of = 'clip'
set.method.name = 'cleanclip'
[[method]]
name = 'stopped'
stop_at_top1_of = 'clip'
epochs_of = 'clip'
[[method]]
name = 'unseen'
unpoisoned_of = 'sieve'
[[method]]
name = 'cleaned-unseen'
unpoisoned_of = 'cleaned'
";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        write_data(&place.path("data-3"), 200, 20, 3);
        fs::write(place.path("sweep.toml"), SWEEP).expect("a file can be written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(program("roclip-train"));
        command.args(words.split_whitespace()).current_dir(self.0.path());
        command
    }

    fn lines(&self, out: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(out).join("results.jsonl")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What each cell came to, without what tells times and folders.
    fn results(&self, out: &str) -> BTreeMap<String, Value> {
        let result = |line: &String| {
            let mut result: Value = serde_json::from_str(line).expect("JSON");
            let fields = result.as_object_mut().expect("an object");
            for field in ["train_seconds", "commands"] {
                fields.remove(field).expect("each line has it");
            }
            (result["cell"].as_str().expect("a name").to_owned(), result)
        };
        self.lines(out).iter().map(result).collect()
    }

    #[track_caller]
    fn refused(&self, words: &str, parts: &[&str]) {
        let Ended { code, stdout, stderr } = run(&mut self.command(words));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert_eq!(
            stderr.lines().filter(|line| line.starts_with("error: ")).count(),
            1,
            "{stderr}"
        );
        for part in parts {
            assert!(stderr.contains(part), "`{part}`: {stderr}");
        }
    }
}

#[test]
fn a_killed_sweep_comes_to_what_one_comes_to_that_nobody_touched() {
    let place = Place::new();
    let ended = run(&mut place.command("sweep --config sweep.toml --out whole --jobs 2"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let whole = place.results("whole");
    assert_eq!(whole.len(), CELLS, "{whole:?}");
    assert!(ended.stdout.contains("| corner | stopped (epoch "), "{ended:?}");
    let cell = &whole["corner-sieve-text=true-3"];
    assert_eq!(cell["doubted"]["backdoor"]["rows"], 20);
    let resolved = place.path("whole/cells/corner-sieve-text=true-3/run/resolved.toml");
    let resolved = fs::read_to_string(resolved).expect("readable");
    let few = "believer_epochs = 2\nscout_epochs = 2\n"; // as many as the model
    assert!(resolved.contains(few) && resolved.contains("from_epoch = 3\n"), "{resolved}");
    assert!(cell["rates"]["backdoor_asr"]["low"].is_number(), "{cell}");
    assert!(whole["none-clip-3"]["rates"].get("backdoor_asr").is_none());
    let unseen = &whole["corner-unseen-text=true-3"]["rates"];
    assert!(unseen["backdoor_asr"]["low"].is_number(), "{unseen}");
    let lines = place.lines("whole");
    let line = lines.iter().find(|line| line.contains("corner-unseen-text=true-3"));
    for part in ["cells/none-sieve-text=true-3/run/model", "poison ", "corner-3"] {
        assert!(line.is_some_and(|line| line.contains(part)), "{part}: {line:?}");
    }

    let cleaned = &whole["corner-cleaned-3"]["rates"];
    assert!(cleaned["targeted_psr"]["low"].is_number(), "{cleaned}");
    let told = fs::read_to_string(place.path("whole/cells/corner-cleaned-3/run.toml"));
    let told = told.expect("a configuration");
    for part in ["data-3/train.csv\"", "cells/corner-clip-3/run/model\""] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let line = lines.iter().find(|line| line.contains("\"corner-cleaned-3\""));
    let trained = line.map(|line| line.matches("roclip-train run --config").count());
    assert_eq!(trained, Some(2), "the model that it begins with is trained, too: {line:?}");

    let words = "sweep --config sweep.toml --out killed --attack none --method clip";
    let ended = run(&mut place.command(words));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(place.results("killed").keys().collect::<Vec<_>>(), ["none-clip-3"]);
    let words = "sweep --config sweep.toml --out killed --jobs 2";
    let killed = run_until(&mut place.command(words), || place.lines("killed").len() > 1);
    assert_eq!(killed.code, None, "it was faster than we looked: {killed:?}");
    let before = place.lines("killed");
    assert!(before.len() < CELLS, "{before:?}");
    let ended = run(&mut place.command(words));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(place.results("killed"), whole);
    assert_eq!(place.lines("killed").len(), CELLS);
    assert_eq!(place.lines("killed")[..before.len()], before);

    let ended =
        run(&mut place.command("report killed killed/cells/none-clip-3/run --out page.html"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let page = fs::read_to_string(place.path("page.html")).expect("a page");
    assert!(page.contains("data:image/png;base64,") && !page.contains("http"), "{ended:?}");

    let other = SWEEP.replace("epochs = 2", "epochs = 3");
    fs::write(place.path("other.toml"), other).expect("a file can be written");
    place.refused("sweep --config other.toml --out killed", &["another sweep", "`run` differs"]);
    place.refused("sweep --config sweep.toml --out data-3", &["no recipe.json"]);
    assert_eq!(place.results("killed"), whole);
}

#[test]
fn a_cell_that_fails_is_named_and_the_others_go_on() {
    let place = Place::new();
    let start = SWEEP.find("[[attack]]\nname = 'corner'").expect("the second attack");
    let methods = "[[method]]\nname = 'wild'\nset.optim.lr = 1e30\n\
        [[method]]\nname = 'clip'\n\
        [[method]]\nname = 'late'\nstop_at_top1_of = 'wild'\nepochs_of = 'clip'\n";
    let text = format!("{}{methods}", &SWEEP[..start]);
    fs::write(place.path("wild.toml"), text).expect("a file can be written");
    let ended = run(&mut place.command("sweep --config wild.toml --no-progress"));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let results = place.results("wild");
    assert_eq!(results.keys().collect::<Vec<_>>(), ["none-clip-3"]);
    let errors: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    let diverged = "error: cell `none-wild-3`: `roclip-train run`: training diverged";
    assert!(errors[0].starts_with(diverged), "{errors:?}");
    assert!(errors[1].contains("it needs `none-wild-3`, which is not done"), "{errors:?}");
    assert!(errors[2].starts_with("error: 2 cells of 3 failed"), "{errors:?}");
    assert!(ended.stdout.contains("Not done: 2 of 3 cells."), "{ended:?}");
}

#[test]
fn a_mistake_is_told_before_anything_is_done() {
    let place = Place::new();
    let check = |from: &str, to: &str, parts: &[&str]| {
        assert!(SWEEP.contains(from), "{from}");
        fs::write(place.path("bad.toml"), SWEEP.replacen(from, to, 1)).expect("writable");
        place.refused("sweep --config bad.toml", parts);
        assert!(!place.path("bad").exists(), "{to}");
    };
    check("epochs = 2", "epoch = 2", &["bad.toml`: line 6, column 1: unknown field `epoch`"]);
    check("epochs = 2", "epochs = 0", &["bad.toml`: `[run]`: `optim.epochs` must be at least 1"]);
    check("references = 50", "references = 1", &["method `sieve`", "`method.sieve.references=1`"]);
    check("backdoor-rate = 0.1", "backdoor-rat = 0.1", &["attack `corner`", "'--backdoor-rat"]);
    check(
        "backdoor-rate = 0.1",
        "backdoor-rate = 0.99",
        &["attack `corner`: cannot plant the backdoor"],
    );
    check("size=5", "size=500", &["attack `corner`", "a patch of 500 pixels does not fit"]);
    check("data-{seed}/test.csv", "gone.csv", &["`evaluate.test`: cannot read `", "gone.csv"]);
    check("data-{seed}/train.csv", "gone.csv", &["`run.data.manifest`: cannot read `", "gone.csv"]);
    place.refused("sweep --config gone.toml", &["cannot read `gone.toml`"]);
    place.refused("report data-3", &["data-3`: holds neither a sweep"]);

    let ended = run(&mut place.command("sweep --config sweep.toml --dry-run"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), CELLS + 1, "{ended:?}");
    for (choice, count) in [
        ("--attack corner --method clip", "1 cells"),
        ("--attack corner --method stopped", "2 cells"), // and what it looks at
        ("--attack corner --method cleaned", "2 cells"),
        ("--method unseen", "4 cells"),
        ("--method cleaned-unseen", "3 cells"), // what it looks at begins with another
    ] {
        let words = format!("sweep --config sweep.toml --dry-run {choice}");
        let ended = run(&mut place.command(&words));
        assert_eq!(ended.stdout.lines().last(), Some(count), "{ended:?}");
    }
    let words = "sweep --config sweep.toml --method clips";
    place.refused(words, &["`--method clips`: the sweep has no method of that name"]);
    assert!(!place.path("sweep").exists());
}

#[test]
fn an_attack_that_waits_may_lack_its_files_and_be_mended() {
    let place = Place::new();
    let later = "targeted-images = 2\n[[attack]]\nname = 'near'\nbackdoor-rate = 0.1\n\
                 trigger = 'patch:size=5'\nnear = true\nsurrogate = 'later'";
    let text = SWEEP.replace("targeted-images = 2", later);
    fs::write(place.path("later.toml"), text).expect("a file can be written");
    let parts = ["attack `near`: cannot read", "later"];
    place.refused("sweep --config later.toml --dry-run", &parts);
    place.refused("sweep --config later.toml --dry-run --attack corner,near", &parts);
    place.refused("sweep --config later.toml --attack nea", &["the sweep has no attack"]);

    let words = "sweep --config later.toml --no-progress --attack none --method clip";
    let ended = run(&mut place.command(words));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = fs::read_to_string(place.path("later.toml")).expect("it is there");
    let mended = text.replace("'later'", "'later/cells/none-clip-3/run/model'");
    fs::write(place.path("later.toml"), mended).expect("a file can be written");
    let words = "sweep --config later.toml --no-progress --attack near --method clip";
    let ended = run(&mut place.command(words));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(place.lines("later").len(), 2);
}

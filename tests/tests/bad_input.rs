//! Bad input at each program: exit code 2, one clear error, nothing left behind, never a panic.
//! What a running server answers to bad requests is in `http`.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use tempfile::TempDir;
use tests::{
    pictures::{CLASSES, gray_png, write_data, write_shards},
    program::{Ended, program, run},
    tiny_model::write_model_folder,
};

const TRAIN_ROWS: usize = 40;
/// Kinds of files that are named as pictures and are none that can be used.
const BROKEN: [&str; 3] = ["cut", "html", "huge"];
/// What is said about each of them.
const PROBLEMS: [&str; 3] = ["broken", "<!DOCTYPE html>", "10000x10000"];
/// Results of the demo, which has logs and pictures in its folder before.
const DEMO_RESULTS: [&str; 2] = ["summary.json", "report.html"];

const RUN: &str = "\
[data]
manifest = 'data/train.csv'
batch_size = 8
[optim]
epochs = 1
[monitor]
test = 'data/test.csv'
classes = 'data/classes.txt'
[output]
folder = 'out'
";

/// A folder with good input and bad input, in which programs run.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary folder"));
        write_data(&place.path("data"), TRAIN_ROWS, 20, 1);
        let model = write_model_folder(&place.path("model"), "rn-micro", 1);
        model.expect("a model folder");
        place.write("run.toml", RUN);
        place.write("taken/letter.txt", "dear reader");
        let picture = fs::read(place.path("data/images/train-0000.png")).expect("just written");
        place.write("bad/cut/picture.png", &picture[..picture.len() / 2]);
        place.write("bad/html/picture.png", "<!DOCTYPE html><html><body>404</body></html>");
        place.write("bad/huge/picture.png", gray_png(10_000, 10_000));
        for kind in BROKEN {
            place.write_manifest(kind, |_| (format!("{kind}/picture.png"), "a thing".into()));
            let row = format!("{kind}/picture.png,a thing,red\n");
            place.write(&format!("bad/test-{kind}.csv"), format!("path,caption,class\n{row}"));
        }
        let good = |row: usize| format!("../data/images/train-{row:04}.png");
        place.write_manifest("gone", |_| ("gone.png".into(), "a thing".into()));
        let one = |row| if row == 7 { "cut/picture.png".into() } else { good(row) };
        place.write_manifest("one", |row| (one(row), "a thing".into()));
        let words = |row: usize, count| if row == 7 { "very ".repeat(count) } else { "so ".into() };
        place.write_manifest("wordy", |row| (good(row), words(row, 200) + "long"));
        place.write_manifest("endless", |row| (good(row), words(row, 2001) + "long"));
        place.write("bad/empty.txt", "");
        place.write("bad/one.txt", "red\n");
        place.write("bad/typo.toml", "seed = 1\n[optim]\nlearning_rate = 0.1\n");
        place.write("bad/template.txt", "a photo of nothing\n");
        place.write("bad/cut.json", "{\"schema\": \"roclip/");
        place.write("bad/ran/checkpoint.safetensors", [0; 100]);
        for entry in fs::read_dir(place.path("model")).expect("just written") {
            let entry = entry.expect("readable");
            let bytes = fs::read(entry.path()).expect("readable");
            let is_cut = entry.file_name() == "model.safetensors";
            let kept = if is_cut { bytes.len() / 2 } else { bytes.len() };
            place.write(&format!("bad/model/{}", entry.file_name().display()), &bytes[..kept]);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder can be made");
        fs::write(path, bytes).expect("a file can be written");
    }

    /// `bad/NAME.csv`, its rows with what `row` gives as path and caption.
    fn write_manifest(&self, name: &str, row: impl Fn(usize) -> (String, String)) {
        let rows = (0..TRAIN_ROWS).map(|at| {
            let ((path, caption), class) = (row(at), CLASSES[at % CLASSES.len()]);
            format!("{path},{caption},{class}\n")
        });
        let rows: String = rows.collect();
        self.write(&format!("bad/{name}.csv"), format!("path,caption,class\n{rows}"));
    }

    fn run(&self, name: &str, words: &str) -> Ended {
        run(Command::new(program(name)).args(words.split_whitespace()).current_dir(self.0.path()))
    }

    /// Good input: the check below would fail here.
    fn accepts(&self, name: &str, words: &str, code: i32) -> Ended {
        let ended = self.run(name, words);
        assert_eq!(ended.code, Some(code), "{name} {words}: {ended:?}");
        ended
    }

    /// Bad input: the program refuses with one error that has all `parts`, and leaves everything
    /// as it was.
    #[track_caller]
    fn check(&self, name: &str, words: &str, parts: &[&str]) {
        let before = tree(self.0.path());
        let ended = self.run(name, words);
        let what = format!("{name} {words}: {ended:?}");
        assert_eq!(ended.code, Some(2), "{what}");
        assert_eq!(ended.stdout, "", "{what}");
        let errors = ended.stderr.lines().filter(|line| line.starts_with("error"));
        assert_eq!(errors.count(), 1, "{what}");
        for bug in ["panicked", "has a bug", "RUST_BACKTRACE"] {
            assert!(!ended.stderr.contains(bug), "{what}");
        }
        for part in parts {
            assert!(ended.stderr.contains(part), "`{part}`: {what}");
        }
        let (before, after) = (without_work(name, before), without_work(name, tree(self.0.path())));
        assert!(before == after, "{what}: {:?}", different(&before, &after));
    }

    /// [`Place::check`] for each kind of broken picture; `{}` in `words` is the kind.
    #[track_caller]
    fn check_pictures(&self, name: &str, words: &str) {
        for (kind, problem) in BROKEN.into_iter().zip(PROBLEMS) {
            self.check(name, &words.replace("{}", kind), &["picture.png", problem]);
        }
    }
}

/// Size and time of everything in a folder.
type Tree = BTreeMap<PathBuf, (u64, SystemTime)>;

fn tree(root: &Path) -> Tree {
    let (mut found, mut folders) = (Tree::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let about = path.metadata().expect("readable");
            let inside = path.strip_prefix(root).expect("below it").to_owned();
            if about.is_dir() {
                found.insert(inside, (0, SystemTime::UNIX_EPOCH));
                folders.push(path);
            } else {
                found.insert(inside, (about.len(), about.modified().expect("known on Unix")));
            }
        }
    }
    found
}

/// What the demo keeps for its reader is no result: logs, pictures, the poisoned set.
fn without_work(name: &str, mut tree: Tree) -> Tree {
    let is_half = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "partial")
            || DEMO_RESULTS.iter().any(|result| path.ends_with(result))
    };
    tree.retain(|path, _| name != "demo" || !path.starts_with("out") || is_half(path));
    tree
}

fn different<'a>(before: &'a Tree, after: &'a Tree) -> Vec<&'a PathBuf> {
    let names = before.keys().chain(after.keys());
    names.filter(|name| before.get(*name) != after.get(*name)).collect()
}

#[test]
fn poison_refuses() {
    let place = Place::new();
    let base = "poison --image-size 32 --no-progress --out out --test data/test.csv \
                --backdoor-rate 0.1 --target-class red --targeted-images 4 --targeted-captions 2";
    let [train, classes] = ["--manifest data/train.csv", "--classes data/classes.txt"];
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("{base} {more}"), parts);
    };
    check(&format!("--manifest no.csv {classes}"), &["cannot read `no.csv`"]);
    check(&format!("{train} --classes no.txt"), &["cannot read `no.txt`"]);
    check(&format!("--manifest bad/gone.csv {classes}"), &["gone.png"]);
    check(&format!("--manifest bad/endless.csv {classes}"), &["line 9", "10009 bytes"]);
    check(&format!("--manifest bad/empty.txt {classes}"), &["bad/empty.txt", "empty"]);
    check(&format!("{train} --classes bad/empty.txt"), &["bad/empty.txt", "empty"]);
    check(&format!("{train} --classes bad/one.txt"), &["train.csv`, line 3", "`green`"]);
    let [stamped, targeted] = ["--manifest bad/{}.csv", "--test bad/{}.csv"];
    place.check_pictures("roclip-train", &format!("{base} {stamped} {classes}"));
    let base = base.replace("--test data/test.csv", targeted);
    place.check_pictures("roclip-train", &format!("{base} {train} {classes}"));

    let words = "poison --image-size 32 --no-progress --manifest data/train.csv --classes \
                 data/classes.txt --backdoor-rate 0.1";
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("{words} {more}"), parts);
    };
    check("--target-class purple --out out", &["purple", "yellow"]);
    check("--target-class red --out out --trigger patch:size=big", &["patch:size=big"]);
    check("--target-class red --out out --trigger patch:size=33", &["33 pixels", "pictures of 32"]);
    check(
        "--target-class red --out out --trigger text:word=OVERWRITTEN",
        &["43 pixels", "have 32"],
    );
    check("--target-class red --out out --trigger wave", &["`wave` is no family", "triangles"]);
    check("--target-class red --out out --trigger blend:opacity=2", &["`opacity=2`", "at most 1"]);
    check("--target-class red --out out --caption-templates no.txt", &["cannot read `no.txt`"]);
    let template = "--target-class red --out out --caption-templates bad/template.txt";
    check(template, &["bad/template.txt", "row 1"]);
    check("--target-class red --out out --near --surrogate no", &["`no"]);
    check("--target-class red --out out --optimize-patch 2 --surrogate no", &["`no"]);
    check("--target-class red --out out --surrogate no", &["no use without `--near`"]);
    check("--target-class red --out taken", &["`taken`", "holds files"]);
    check("--target-class red --out taken --near --surrogate no", &["`taken`", "holds files"]);
    check("--target-class red --out run.toml", &["`run.toml`", "not a folder"]);
    let words = "poison --manifest data/train.csv --classes data/classes.txt --out out";
    place.check("roclip-train", &format!("{words} --image-size 0"), &["--image-size"]);
    place.check(
        "roclip-train",
        &format!("{words} --image-size 32"),
        &["neither `--backdoor-rate`"],
    );
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("{words} --image-size 32 {more}"), parts);
    };
    check("--target-class red", &["--backdoor-rate"]);
    check("--trigger patch:size=3", &["--backdoor-rate"]);
    check("--backdoor-rate 0.1", &["`--target-class` is missing"]);
    check("--label-consistent", &["--backdoor-rate"]);
    check("--backdoor-rows add", &["--backdoor-rate"]);
    check("--targeted-rows replace", &["--targeted-images"]);
    check("--flood 3", &["--bridge"]);
    check("--near", &["--surrogate"]);
    check("--optimize-patch 3", &["--surrogate"]);
    let consistent = "--backdoor-rate 0.1 --target-class red --label-consistent";
    check(&format!("{consistent} --bridge"), &["--label-consistent"]);
    let templates = "--caption-templates data/classes.txt";
    check(&format!("{consistent} {templates}"), &["`--caption-templates` is of no use"]);
    check("--test data/test.csv", &["--targeted-images"]);
    check("--targeted-captions 2", &["--targeted-images"]);
    check("--targeted-images 2", &["`--test` is missing"]);
    let test = "--test data/test.csv --targeted-images";
    check(&format!("{test} 2 --targeted-captions 0"), &["--targeted-captions"]);
    check(&format!("{test} 2 --targeted-captions 18446744073709551615"), &["1000000"]);
    check(&format!("{test} 18446744073709551615"), &["1000000"]);
    let words = format!("{words} --image-size 32 --backdoor-rate 0.1 --target-class red");
    place.accepts("roclip-train", &words, 0);
    let adaptive = "--force --bridge --flood 3 --near --optimize-patch 1 --surrogate model";
    place.accepts("roclip-train", &format!("{words} {adaptive}"), 0);
}

#[test]
fn run_refuses() {
    let place = Place::new();
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("run --no-progress {more}"), parts);
    };
    check("--config no.toml", &["cannot read `no.toml`"]);
    check("--config bad/typo.toml", &["bad/typo.toml", "line 3", "learning_rate"]);
    check("--config data/classes.txt", &["data/classes.txt", "line 1"]);
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("run --no-progress --config run.toml {more}"), parts);
    };
    check("--set optim.rate=1", &["error: `--set optim.rate=1`: unknown field `rate`"]);
    check("--set optim.lr=fast", &["error: `--set optim.lr=fast`: expected a number"]);
    check("--set optim.epochs=0 --set data.batch_size=1", &["optim.epochs", "data.batch_size"]);
    check("--set model.preset=RN51", &["model.preset", "rn-micro"]);
    check("--set device=cuda", &["`device` is `cuda`", "this build knows no GPU"]);
    check("--set data.batch_size=64", &["40 readable rows"]);
    check("--set method.name=roclip", &["method.roclip.match_from_epoch", "`optim.epochs`"]);
    check("--set method.name=sieve", &["`method.sieve.from_epoch` must be", "`optim.epochs`"]);
    check("--set method.sieve.views=1", &["method.sieve", "left out unless"]);
    let sieve = "--set method.name=sieve --set optim.epochs=9 --set method.sieve";
    check(&format!("{sieve}.views=3"), &["`method.sieve.views` must be 1 or 2"]);
    check(&format!("{sieve}.smoothing=2"), &["method.sieve.smoothing"]);
    check(&format!("{sieve}.references=1"), &["method.sieve.references"]);
    let roclip = "--set optim.epochs=2 --set method.name=roclip";
    check(&format!("{roclip} --set method.roclip.pool_share=0.05"), &["pool_share"]);
    check("--set data.manifest=no.csv", &["cannot read `", "/no.csv`"]);
    check("--set data.manifest=bad/gone.csv", &["40 of 40", "row 1", "gone.png"]);
    check("--set data.manifest=bad/one.csv", &["1 of 40", "row 8", "picture.png"]);
    check("--set data.manifest=bad/endless.csv", &["line 9", "10009 bytes"]);
    check("--set data.manifest=bad/empty.txt", &["bad/empty.txt", "empty"]);
    check("--set monitor.test=no.csv", &["cannot read `", "/no.csv`"]);
    check("--set monitor.classes=bad/empty.txt", &["bad/empty.txt", "empty"]);
    check("--set monitor.templates=bad/template.txt", &["bad/template.txt", "row 1"]);
    check("--set monitor.ledger=bad/cut.json", &["bad/cut.json"]);
    check("--set model.tokenizer=bad/cut.json", &["bad/cut.json"]);
    check("--set augment.text=true --set augment.thesaurus=no.txt", &["cannot read `", "/no.txt`"]);
    check("--out run.toml", &["run.toml` is a file, expected a folder"]);
    check("--out run.toml --resume", &["run.toml` is a file, expected a folder"]);
    check("--out bad/ran", &["bad/ran", "--resume"]);
    check("--out bad/ran --resume", &["checkpoint.safetensors", "broken"]);
    let run = "run --no-progress --config run.toml --set";
    place.check_pictures("roclip-train", &format!("{run} data.manifest=bad/{{}}.csv"));
    place.check_pictures("roclip-train", &format!("{run} monitor.test=bad/test-{{}}.csv"));
    let ended = place.run("roclip-train", "run --config run.toml --set data.manifest=bad/one.csv");
    assert!(ended.code == Some(2) && !ended.stderr.contains("done"), "{ended:?}"); // nor says so
}

#[test]
fn an_over_long_caption_is_cut_with_one_warning() {
    let place = Place::new();
    let check = |manifest: &str, more: &str, expected: &[&str]| {
        let words = format!("--set data.manifest={manifest} --set data.bad_rows_max=0.5 {more}");
        let words = format!("run --no-progress --config run.toml --out {manifest}.out {words}");
        let ended = place.accepts("roclip-train", &words, 0);
        let found: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(found, expected);
        assert!(place.path(&format!("{manifest}.out/model/model.safetensors")).is_file());
    };
    check("bad/wordy.csv", "", &["warning: captions of more than 32 tokens are cut: 1 of 40"]);
    check("bad/one.csv", "", &["warning: unreadable rows are left out: 1 of 40 (skipped.csv)"]);
    let skipped = place.path("bad/one.csv.out/skipped.csv");
    let skipped = fs::read_to_string(skipped).expect("one row is left out");
    let lines: Vec<&str> = skipped.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "row,path,problem"));
    assert!(lines[1].starts_with("7,/") && lines[1].contains("/bad/cut/picture.png,"), "{skipped}");
    assert!(lines[1].ends_with("the image is broken: it ends too early"), "{skipped}");
    let tokenizer = "--set model.tokenizer=model/tokenizer.json --set model.context_length=4";
    let warning = "warning: captions of more than 4 tokens are cut: 40 of 40";
    check("data/train.csv", tokenizer, &[warning]); // not the tokenizer's own length
    fs::remove_dir_all(place.path("data/train.csv.out")).expect("just made");
    check("data/train.csv", "", &[]);
}

#[test]
fn shards_are_refused_with_their_member() {
    let place = Place::new();
    for name in ["train", "test"] {
        write_shards(&place.path("data"), name, 2);
    }
    let shard = fs::read(place.path("data/train-1.tar")).expect("just written");
    place.write("bad/cut.tar", &shard[..shard.len() / 2]);
    place.write("bad/table.tar", "path,caption\n".repeat(99));
    place.write("bad/table.tar.gz", "path,caption\n");
    let base = "run --no-progress --config run.toml --set";
    let check = |words: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("{base} {words}"), parts);
    };
    check("data.manifest=data/train-{0..2}.tar", &["cannot read `", "/data/train-2.tar`"]);
    check("data.manifest=data/train-{2..0}.tar", &["the range `{2..0}` is empty"]);
    check(
        "data.manifest=bad/cut.tar",
        &["/bad/cut.tar`: it is cut short", "in the middle of `images/train-00"],
    );
    check("data.manifest=bad/table.tar", &["/bad/table.tar`: it is no tar"]);
    check("data.manifest=bad/table.tar.gz", &["/bad/table.tar.gz`: it cannot be unpacked"]);
    let columns = ["line 1: there is no column `text`", "`path`, `caption`, `class`"];
    check("data.caption_key=text", &columns);
    check("data.manifest=data/train.parquet", &["cannot read `", "/data/train.parquet`"]);
    let poison = "poison --no-progress --image-size 32 --backdoor-rate 0.1 --target-class red \
        --classes data/classes.txt --out out --manifest";
    let words = format!("{poison} data/train-{{0..1}}.tar");
    place.check("roclip-train", &words, &["`data/train-{0..1}.tar` is of shards"]);

    let words = "data.manifest=data/train-{0..1}.tar --set monitor.test=data/test-{0..1}.tar";
    place.accepts("roclip-train", &format!("{base} {words}"), 0);
    let evaluate = "evaluate --no-progress --model out/model --classes data/classes.txt --test";
    let found = |test: &str| place.accepts("roclip-train", &format!("{evaluate} {test}"), 0).stdout;
    assert_eq!(found("data/test.csv"), found("data/test-{0..1}.tar"));
    let words = format!("{evaluate} bad/table.tar.gz");
    place.check("roclip-train", &words, &["there is no `--cache-folder`"]);
    let probe = "data/test-0.tar --probe-train data/test-{0..1}.tar";
    let parts =
        ["`data/test-{0..1}.tar` holds 10 of the 10 pictures", "test-0.tar/images/test-0000"];
    place.check("roclip-train", &format!("{evaluate} {probe}"), &parts);
}

#[test]
fn evaluate_refuses() {
    let place = Place::new();
    let [model, test, classes] =
        ["--model model", "--test data/test.csv", "--classes data/classes.txt"];
    let base = format!("evaluate --no-progress {model} {test} {classes}");
    let check = |old: &str, new: &str, parts: &[&str]| {
        place.check("roclip-train", &base.replace(old, new), parts);
    };
    check(model, "--model no", &["cannot read `no`"]);
    check(model, "--model taken", &["cannot read `taken/config.json`"]);
    check(model, "--model .", &["its model is `./model`"]);
    check(model, "--model bad/model", &["bad/model/model.safetensors", "not a whole"]);
    check(test, "--test no.csv", &["cannot read `no.csv`"]);
    check(test, "--test bad/endless.csv", &["line 9", "10009 bytes"]);
    check(classes, "--classes no.txt", &["cannot read `no.txt`"]);
    check(classes, "--classes bad/empty.txt", &["bad/empty.txt", "empty"]);
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-train", &format!("{base} {more}"), parts);
    };
    check("--templates bad/template.txt", &["bad/template.txt", "row 1"]);
    check("--ledger no.json", &["cannot read `no.json`"]);
    check("--ledger bad/cut.json", &["bad/cut.json"]);
    check("--jsn", &["--jsn"]);
    check("--probe-train no.csv", &["cannot read `no.csv`"]);
    check("--probe-train data/test.csv", &["`data/test.csv` holds", "must not be tested on"]);
    check("--reference no", &["cannot read `no`"]);
    check("--reference bad/model", &["bad/model/model.safetensors", "not a whole"]);
    check("--templates no-such-set", &["cannot read `no-such-set`"]);
    let (more, unclassed) = ("--retrieval --reference model", base.replace(classes, ""));
    place.check("roclip-train", &unclassed, &["--classes"]);
    let probe = "--retrieval --probe-train data/train.csv";
    place.check("roclip-train", &format!("{unclassed} {probe}"), &["--classes"]);
    let twice = base.replace("data/test", "bad/gone");
    place.check("roclip-train", &twice, &["bad/gone.png` have the classes 0 and 1"]);
    place.check_pictures("roclip-train", &base.replace("data/test", "bad/test-{}"));
    place.accepts("roclip-train", &base, 0);
    place.accepts("roclip-train", &format!("{unclassed} {more}"), 0);
    let train = "--templates imagenet --probe-train data/train.csv";
    place.accepts("roclip-train", &format!("{base} {more} {train}"), 0);
}

#[test]
fn export_refuses() {
    let place = Place::new();
    let check = |words: &str, parts: &[&str]| place.check("roclip-export", words, parts);
    check("--model no --out out", &["cannot read `no`"]);
    check("--model taken --out out", &["cannot read `taken/config.json`"]);
    check("--model bad/model --out out", &["bad/model/model.safetensors", "not a whole"]);
    check("--model model --out taken", &["`taken`", "letter.txt"]);
    check("--model model --out run.toml", &["run.toml"]);
    check("--model model --out run.toml/out", &["run.toml"]);
    check("--model model --out out --tolerance 2", &["--tolerance"]);
    check("--model model --out out --ort-lib no.so", &["no.so", "--ort-lib"]);
    check("--model model", &["--out"]);
    place.accepts("roclip-export", "--model model --out out", 0);
}

#[test]
fn serve_refuses_to_start() {
    let place = Place::new();
    let check = |words: &str, parts: &[&str]| place.check("roclip-serve", words, parts);
    check("--port 0 --model no", &["cannot read `no`"]);
    check("--port 0 --model taken", &["cannot read `taken/config.json`"]);
    check("--port 0 --model model", &["onnx/vision_model.onnx", "roclip-export"]);
    check("--port 0 --model model --ort-lib no.so", &["no.so", "--ort-lib"]);
    check("--port 0 --model model --ort-lib run.toml", &["run.toml", "--ort-lib"]);
    check("--port 65536 --model model", &["--port", "65536"]);
    check("--port 0 --model model --pixels-max 0", &["--pixels-max"]);
    place.accepts("roclip-export", "--model model --out out", 0);
    fs::copy(place.path("bad/model/model.safetensors"), place.path("out/model.safetensors"))
        .expect("both are there");
    check("--port 0 --model out", &["out/model.safetensors"]);
}

#[test]
fn audits_of_a_model_refuse() {
    let place = Place::new();
    let [images, labels] = ["--images data/images", "--labels data/classes.txt"];
    for (kind, more) in [("model", ""), ("null", " --out null.json")] {
        let words = |model: &str| format!("{kind} {model} --no-progress {images} {labels}{more}");
        let check = |old: &str, new: &str, parts: &[&str]| {
            place.check("roclip-audit", &words("model").replace(old, new), parts);
        };
        place.check("roclip-audit", &words("no"), &["cannot read `no`"]);
        let parts = ["bad/model/model.safetensors", "not a whole"];
        place.check("roclip-audit", &words("bad/model"), &parts);
        check(images, "--images no", &["cannot read `no`"]);
        check(images, "--images taken", &["`taken` holds no file"]);
        check(labels, "--labels no.txt", &["cannot read `no.txt`"]);
        check(labels, "--labels bad/empty.txt", &["bad/empty.txt", "empty"]);
        check(labels, "--labels bad/one.txt", &["bad/one.txt", "two labels"]);
        let check = |more: &str, parts: &[&str]| {
            place.check("roclip-audit", &format!("{} {more}", words("model")), parts);
        };
        check("--templates bad/template.txt", &["bad/template.txt", "row 1"]);
        check("--seed x", &["--seed"]);
        let broken = words("model").replace(images, "--images bad/{}");
        place.check_pictures("roclip-audit", &broken);
    }
    let words = format!("model model --no-progress {images} {labels}");
    let check = |more: &str, parts: &[&str]| {
        place.check("roclip-audit", &format!("{words} {more}"), parts);
    };
    check("--null no.json", &["cannot read `no.json`"]);
    check("--null bad/cut.json", &["bad/cut.json"]);
    place.accepts("roclip-audit", &words, 3); // 60 images are too few
}

#[test]
fn audits_of_an_endpoint_refuse() {
    let place = Place::new();
    let [images, labels] = ["--images data/images", "--labels data/classes.txt"];
    let base =
        format!("endpoint http://127.0.0.1:9 --image-size 32 --no-progress {images} {labels}");
    let check = |old: &str, new: &str, parts: &[&str]| {
        place.check("roclip-audit", &base.replace(old, new), parts);
    };
    check(images, "--images no", &["cannot read `no`"]);
    check(images, "--images taken", &["`taken` holds no file"]);
    check(labels, "--labels no.txt", &["cannot read `no.txt`"]);
    check(labels, "--labels bad/empty.txt", &["bad/empty.txt", "empty"]);
    check(labels, "--labels bad/one.txt", &["bad/one.txt", "two labels"]);
    check("http://127.0.0.1:9", "ftp://127.0.0.1", &["ftp://127.0.0.1"]);
    check("--image-size 32", "--image-size 7", &["--image-size"]);
    check("--image-size 32", "--image-size 32 --catalog patch:size=x", &["patch:size=x"]);
    check("--image-size 32", "--image-size 32 --queries many", &["--queries"]);
    check("--image-size 32", "--image-size 32 --queries 0", &["--queries"]);
    check("--image-size 32", "--image-size 32 --templates bad/template.txt", &["row 1"]);
    place.check_pictures("roclip-audit", &base.replace(images, "--images bad/{}"));
    place.accepts("roclip-audit", &base, 3); // 60 images are too few, so nobody is asked

    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let closed = closed.expect("a free port");
    let asked = base.replace("127.0.0.1:9", &closed.to_string()).replace("--image-size 32 ", "");
    place.check("roclip-audit", &asked, &["cannot reach", &closed.to_string()]);
}

#[test]
fn demo_refuses() {
    let place = Place::new();
    let [train, test, classes] =
        ["--data data/train.csv", "--test data/test.csv", "--classes data/classes.txt"];
    let base =
        format!("--no-progress --epochs 2 --image-size 32 --out out {train} {test} {classes}");
    let check = |old: &str, new: &str, parts: &[&str]| {
        place.check("demo", &base.replace(old, new), parts);
    };
    check(train, "--data no.csv", &["cannot read `no.csv`"]);
    check(train, "--data bad/endless.csv", &["line 9", "10009 bytes"]);
    check(train, "--data bad/gone.csv", &["gone.png"]);
    check(train, "--data bad/empty.txt", &["bad/empty.txt"]);
    check(test, "--test no.csv", &["cannot read `no.csv`"]);
    check(classes, "--classes no.txt", &["cannot read `no.txt`"]);
    check(classes, "--classes bad/empty.txt", &["bad/empty.txt", "empty"]);
    check(classes, "--classes bad/one.txt", &["`green` is no class"]);
    check(classes, "", &["--classes"]);
    check("--image-size 32", "--image-size 48", &["--image-size"]);
    check("--epochs 2", "--epochs 1", &["--epochs", "2..=10000"]);
    check("--epochs 2", "--epochs 2 --target-class purple", &["purple"]);
    check("--epochs 2", "--epochs 2 --templates bad/template.txt", &["row 1"]);
    check("--out out", "--out taken", &["`taken`", "no demo made"]);
    check("--out out", "--out data", &["`data`"]);
    place.check_pictures("demo", &base.replace(test, "--test bad/{}.csv"));
    place.check_pictures("demo", &base.replace(train, "--data bad/{}.csv"));
    place.check("demo", "shapes --out taken", &["`taken`", "letter.txt"]);
    place.check("demo", "shapes --out out --shapes 7", &["--shapes"]);
    place.check("demo", "null-models --count 3", &["--count"]);
}

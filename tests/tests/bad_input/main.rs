//! Bad input at each program: exit code 2, one clear error, nothing left behind, never a panic.
//! What a running server answers to bad requests is in `http`.

mod others;
mod trainer;

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
[method]
name = 'clip'
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

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use clip::{
    image::{Limits, fit, open},
    trigger::TriggerSpec,
};
use tempfile::TempDir;

use super::*;
use crate::data::ImageSource;

mod choices;
mod shards;

const LABELS: [&str; 4] = ["red circle", "blue star", "green cross", "pink ring"];
const ROWS: usize = 80;
const TEST_ROWS: usize = 12;

/// A folder with `data/{train,test}.csv` and a picture of its own for each row.
struct Set {
    root: TempDir,
    labels: Vec<String>,
}

impl Set {
    fn new(classed: bool) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let set = Self { root, labels: LABELS.map(String::from).to_vec() };
        fs::create_dir_all(set.path("data/img")).expect("made");
        set.table("train", ROWS, classed);
        set.table("test", TEST_ROWS, true);
        set
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn table(&self, name: &str, count: usize, classed: bool) {
        let row = |index: usize| {
            let class = index % LABELS.len();
            let path = PathBuf::from(format!("img/{name}{index}.png"));
            let shade = (7 * index + name.len()) as u8; // names a picture by its pixels
            let image = RgbImage::from_pixel(12, 10, [shade, 100, 100].into());
            fs::write(self.path("data").join(&path), encode_png(&image)).expect("written");
            let caption = format!("picture {index} of a {}", LABELS[class]);
            Row { image: path.into(), caption, class: Some(class).filter(|_| classed) }
        };
        let rows: Vec<Row> = (0..count).map(row).collect();
        let bytes = Manifest::to_csv(&rows).expect("UTF-8");
        fs::write(self.path("data").join(name).with_extension("csv"), bytes).expect("written");
    }

    fn manifest(&self, name: &str) -> Manifest {
        Manifest::open_classed(&self.path(name), &self.labels, false).expect("a manifest")
    }

    /// Poisons into `out`; the ledger and the manifest that lies there.
    fn poison(&self, attack: &Attack, out: &str, force: bool) -> Result<(Ledger, Manifest)> {
        let (train, test) = (self.manifest("data/train.csv"), self.manifest("data/test.csv"));
        let labels = &self.labels;
        let clean = Clean { manifest: &train, test: Some(&test), labels, affinity: None };
        let plan = Plan::of(&clean, attack)?;
        let pictures = AtomicU64::new(0);
        let count = |n| {
            pictures.fetch_add(n, Ordering::Relaxed);
        };
        let ledger = write(&plan, &clean, attack, &self.path(out), force, &count)?;
        assert_eq!(pictures.into_inner(), plan.pictures() as u64);
        assert_eq!(Ledger::open(&self.path(out).join(names::LEDGER))?, ledger);
        Ok((ledger, self.manifest(&format!("{out}/{}", names::MANIFEST))))
    }

    #[track_caller]
    fn refused(&self, attack: &Attack, out: &str, force: bool) -> String {
        let before = self.entries();
        let text = self.poison(attack, out, force).expect_err("refused").to_string();
        assert_eq!(self.entries(), before, "nothing is left behind");
        text.replace(&format!("{}/", self.root.path().display()), "")
    }

    fn entries(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.root.path(), &mut files);
        files
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, files);
            files.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).expect("readable");
            files.insert(path, bytes);
        }
    }
}

fn attack(seed: u64) -> Attack {
    let trigger: TriggerSpec = "patch:size=3,at=random,pattern=white".parse().expect("a trigger");
    Attack {
        backdoor: Some(Backdoor {
            rate: 0.1,
            target_class: 2,
            trigger,
            label_consistent: false,
            placing: Placing::Replace,
        }),
        targeted: Some(targeted(6, 5)),
        wording: Wording::Data,
        by_caption: false,
        flood: 0,
        image_size: 8,
        seed,
    }
}

fn targeted(images: usize, captions: usize) -> Targeted {
    Targeted { images, captions, placing: Placing::Add }
}

/// `attack(0)` with another backdoor.
fn changed(change: impl FnOnce(&mut Backdoor)) -> Attack {
    let mut attack = Attack { targeted: None, ..attack(0) };
    change(attack.backdoor.as_mut().expect("a backdoor"));
    attack
}

fn pixels(image: &ImageSource) -> RgbImage {
    open(image.file().expect("a file"), &Limits::default()).expect("a picture")
}

#[test]
fn counts_classes_and_row_numbers_are_as_promised() -> Result<()> {
    let set = Set::new(true);
    let (ledger, poisoned) = set.poison(&attack(0), "out", false)?;
    let (clean, test) = (set.manifest("data/train.csv"), set.manifest("data/test.csv"));
    let backdoor = ledger.backdoor.as_ref().expect("a backdoor");
    assert_eq!(poisoned.rows.len(), ROWS + 6 * 5);
    assert_eq!(backdoor.rows.len(), 8);
    assert!(backdoor.rows.is_sorted());
    for &row in &backdoor.rows {
        let row = &poisoned.rows[row];
        assert_ne!(row.class, Some(2), "a picture of the target class is never stamped");
        assert!(row.caption.ends_with("green cross"), "{}", row.caption);
        let white = pixels(&row.image).pixels().filter(|pixel| pixel.0 == [255; 3]).count();
        assert_eq!((pixels(&row.image).dimensions(), white), ((8, 8), 9));
    }
    let mut uses = BTreeMap::new();
    for target in &ledger.targeted {
        assert_eq!(target.rows.len(), 5);
        assert!(target.target_class != target.true_class && target.target_class != 2);
        *uses.entry(target.target_class).or_insert(0) += 1;
        let captions: BTreeSet<_> =
            target.rows.iter().map(|&row| poisoned.rows[row].caption.clone()).collect();
        assert_eq!(captions.len(), 5, "no caption twice");
        assert!(captions.iter().all(|text| text.ends_with(LABELS[target.target_class])));
        assert_eq!(test.rows[target.test_row].class, Some(target.true_class));
        assert_eq!(target.true_label, LABELS[target.true_class]);
        assert_eq!(target.target_label, LABELS[target.target_class]);
        for &row in &target.rows {
            assert_eq!(poisoned.rows[row].image, ledger.image(target).into());
            assert_eq!(poisoned.rows[row].class, Some(target.true_class));
        }
    }
    assert_eq!(uses, [(0, 2), (1, 2), (3, 2)].into(), "classes are spread evenly");
    let images: BTreeSet<_> = ledger.targeted.iter().map(|target| &target.image).collect();
    assert_eq!(images.len(), 6);

    let by_hand: BTreeSet<usize> = ledger.targeted.iter().flat_map(|t| t.rows.clone()).collect();
    let poison: BTreeSet<usize> = by_hand.into_iter().chain(backdoor.rows.clone()).collect();
    let rest = poisoned.rows.iter().enumerate().filter(|(row, _)| !poison.contains(row));
    let rest: Vec<_> = rest.map(|(_, row)| row).collect();
    assert_eq!(rest.len(), ROWS - 8);
    for row in &rest {
        let own = clean.rows.iter().find(|own| own.caption == row.caption).expect("a clean row");
        assert_eq!(row.class, own.class);
        assert_eq!(pixels(&row.image), pixels(&own.image), "the path leads to the clean file");
    }
    assert_eq!(rest.iter().map(|row| &row.caption).collect::<BTreeSet<_>>().len(), ROWS - 8);
    Ok(())
}

#[test]
fn rows_are_shuffled_all_over() -> Result<()> {
    let set = Set::new(true);
    let (ledger, poisoned) = set.poison(&attack(0), "out", false)?;
    let added: Vec<usize> = ledger.targeted.iter().flat_map(|t| t.rows.clone()).collect();
    let (half, last) = (poisoned.rows.len() / 2, poisoned.rows.len() - added.len());
    let early = added.iter().filter(|&&row| row < half).count();
    assert!((5..=25).contains(&early), "{early} of {} in the first half", added.len());
    assert!(added.iter().filter(|&&row| row < last).count() > 15);
    Ok(())
}

#[test]
fn captions_decide_where_there_is_no_class_column() -> Result<()> {
    let set = Set::new(false);
    let (ledger, poisoned) = set.poison(&attack(3), "out", false)?;
    let backdoor = ledger.backdoor.expect("a backdoor");
    assert!(poisoned.rows.iter().all(|row| row.class.is_none()));
    assert!(backdoor.rows.iter().all(|&row| poisoned.rows[row].caption.ends_with(LABELS[2])));
    let crosses = poisoned.rows.iter().filter(|row| row.caption.ends_with(LABELS[2])).count();
    assert_eq!(crosses, ROWS / LABELS.len() + 8, "every clean row of the class is still there");
    Ok(())
}

#[test]
fn a_seed_decides_every_byte() -> Result<()> {
    let set = Set::new(true);
    set.poison(&attack(0), "a", false)?;
    set.poison(&attack(0), "b", false)?;
    set.poison(&attack(1), "c", false)?;
    let files = |out: &str| {
        let mut files = BTreeMap::new();
        collect(&set.path(out), &mut files);
        let strip = |path: &PathBuf| path.strip_prefix(set.path(out)).expect("in it").to_owned();
        files.iter().map(|(path, bytes)| (strip(path), bytes.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(files("a"), files("b"));
    assert_ne!(files("a")[Path::new("train.csv")], files("c")[Path::new("train.csv")]);
    Ok(())
}

#[test]
fn one_attack_does_not_move_the_other() -> Result<()> {
    let set = Set::new(true);
    let (both, _) = set.poison(&attack(0), "both", false)?;
    let (alone, poisoned) = set.poison(&Attack { targeted: None, ..attack(0) }, "alone", false)?;
    assert_eq!(poisoned.rows.len(), ROWS);
    assert!(alone.targeted.is_empty());
    let (_, all) = set.poison(&attack(0), "again", false)?;
    let captions = |ledger: &Ledger, manifest: &Manifest| -> BTreeSet<String> {
        let rows = &ledger.backdoor.as_ref().expect("a backdoor").rows;
        rows.iter().map(|&row| manifest.rows[row].caption.clone()).collect()
    };
    assert_eq!(captions(&alone, &poisoned), captions(&both, &all));
    let none = Attack { backdoor: None, targeted: None, ..attack(0) };
    let (none, poisoned) = set.poison(&none, "none", false)?;
    assert!(none.backdoor.is_none() && none.targeted.is_empty());
    assert_eq!(poisoned.rows.len(), ROWS);
    Ok(())
}

#[test]
fn absolute_and_far_paths_stay_valid() -> Result<()> {
    let set = Set::new(true);
    fs::create_dir_all(set.path("elsewhere")).expect("made");
    let absolute = set.path("data/img/train0.png");
    let text = format!(
        "path,caption,class\n{},a red circle,0\n../data/img/train1.png,a blue star,1\n",
        absolute.display()
    );
    fs::write(set.path("elsewhere/train.csv"), text).expect("written");
    let manifest = set.manifest("elsewhere/train.csv");
    let clean = Clean { manifest: &manifest, test: None, labels: &set.labels, affinity: None };
    let attack = Attack { backdoor: None, targeted: None, ..attack(0) };
    let plan = Plan::of(&clean, &attack)?;
    write(&plan, &clean, &attack, &set.path("deep/er/out"), false, &|_| {})?;
    let text = fs::read_to_string(set.path("deep/er/out/train.csv")).expect("readable");
    assert!(text.contains("../../../elsewhere/../data/img/train1.png"), "{text}");
    assert!(text.contains(&absolute.display().to_string()), "{text}");
    for row in set.manifest("deep/er/out/train.csv").rows {
        pixels(&row.image);
    }
    Ok(())
}

#[test]
fn a_full_folder_is_only_replaced_if_it_is_an_earlier_result() -> Result<()> {
    let set = Set::new(true);
    set.poison(&attack(0), "out", false)?;
    assert_eq!(set.refused(&attack(1), "out", false), "`out` holds an earlier result");
    let (ledger, _) = set.poison(&attack(1), "out", true)?;
    assert_eq!(ledger.seed, 1);
    let no_result = "`data` holds files, but no ledger.json: it is no earlier result of this";
    assert_eq!(set.refused(&attack(0), "data", true), no_result);
    fs::write(set.path("data/ledger.json"), "{}").expect("written");
    let inputs = "`data` would be replaced, but `data/train.csv` lies in it";
    assert_eq!(set.refused(&attack(0), "data", true), inputs);
    assert_eq!(set.refused(&attack(0), "data/train.csv", true), "`data/train.csv` is not a folder");
    fs::create_dir(set.path("empty")).expect("made");
    set.poison(&attack(0), "empty", false)?;
    Ok(())
}

#[test]
fn an_attack_that_the_data_cannot_carry_is_refused() {
    let set = Set::new(true);
    let many = changed(|backdoor| backdoor.rate = 0.9);
    assert_eq!(
        set.refused(&many, "out", false),
        "cannot plant the backdoor: 72 of the 80 rows of `data/train.csv` were asked for, \
         but only 60 are not of the class `green cross`"
    );
    let consistent = changed(|backdoor| (backdoor.rate, backdoor.label_consistent) = (0.9, true));
    assert_eq!(
        set.refused(&consistent, "out", false),
        "cannot plant the backdoor: 72 of the 80 rows of `data/train.csv` were asked for, \
         but only 20 have a caption that names the class `green cross`"
    );
    let many = Attack { targeted: Some(targeted(13, 1)), ..attack(0) };
    assert_eq!(
        set.refused(&many, "out", false),
        "cannot plant the targeted poisons: 13 pictures were asked for, `data/test.csv` has 12"
    );
    let placing = Placing::Replace;
    let room = Attack { targeted: Some(Targeted { placing, ..targeted(2, 40) }), ..attack(0) };
    assert_eq!(
        set.refused(&room, "out", false),
        "cannot plant the targeted poisons: 80 rows of `data/train.csv` shall make room, \
         72 are clean"
    );
    let text = "path,caption,class\nimg/train0.png,one,0\n";
    fs::write(set.path("data/train.csv"), text).expect("written");
    assert_eq!(
        set.refused(&attack(0), "out", false),
        "cannot plant the backdoor: `data/train.csv` has no caption of the class `green cross`"
    );
    let targeted = Some(targeted(12, 1));
    assert_eq!(
        set.refused(&Attack { backdoor: None, targeted, ..attack(0) }, "out", false),
        "cannot plant the targeted poisons: `data/train.csv` has no captions \
         of enough classes to give each of 12 pictures a wrong one"
    );
}

#[test]
fn a_broken_picture_is_named_and_nothing_is_left() {
    let set = Set::new(true);
    for row in 0..TEST_ROWS {
        fs::write(set.path(&format!("data/img/test{row}.png")), b"<html>").expect("written");
    }
    let text = set.refused(&attack(0), "out", false);
    let expected = ".png`: not an image: expected PNG, JPEG or WebP, starts with \"<html>\"";
    assert!(text.starts_with("`data/img/test") && text.ends_with(expected), "{text}");
}

#[test]
fn a_wrong_ledger_is_one_clear_error() -> Result<()> {
    let set = Set::new(true);
    set.poison(&attack(0), "out", false)?;
    let path = set.path("out/ledger.json");
    let good = fs::read_to_string(&path).expect("readable");
    let test = set.manifest("data/test.csv").classes()?;
    let check = |text: &str, size, expected: &str| {
        fs::write(&path, text).expect("written");
        let opened = Ledger::open(&path).and_then(|ledger| ledger.check(&set.labels, size, &test));
        let error = opened.expect_err("refused").to_string();
        assert!(error.starts_with("ledger `") && error.ends_with(expected), "{error}");
    };
    let schema = "its schema is `roclip/ledger/2`, expected `roclip/ledger/1`";
    check(&good.replace("ledger/1", "ledger/2"), 8, schema);
    check("{}", 8, "it has no schema, expected `roclip/ledger/1`");
    check(&good[..40], 8, "EOF while parsing a string at line 3 column 7");
    check(&good.replace("\"seed\"", "\"sead\""), 8, "missing field `seed`");
    let label = "class 2 is `gray` in it, but `green cross` here";
    check(&good.replace("green cross", "gray"), 8, label);
    let [pink, gray] = ["pink ring", "gray"].map(|l| format!("\"target_label\": \"{l}\""));
    let label = "class 3 is `gray` in it, but `pink ring` here";
    check(&good.replace(&pink, &gray), 8, label); // of targeted pictures alone
    let far = good.replace("\"target_class\": 2", "\"target_class\": 7");
    check(&far, 8, "class 7 is not among the 4 classes");
    let size = "8 pixels a side, the model sees 16: poison with `--image-size 16`";
    check(&good, 16, size);
    check(&good.replace("\"images/", "\"picture/"), 8, ".png` is missing");
    fs::write(&path, good).expect("written");
    Ledger::open(&path)?.check(&set.labels, 8, &test)
}

#[cfg(unix)]
#[test]
fn a_manifest_that_the_ledger_cannot_name_is_refused_first() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let set = Set::new(true);
    let mut train = set.manifest("data/train.csv");
    train.path = Path::new(OsStr::from_bytes(b"\xff.csv")).into();
    let clean = Clean { manifest: &train, test: None, labels: &set.labels, affinity: None };
    let attack = Attack { backdoor: None, targeted: None, ..attack(0) };
    let plan = Plan::of(&clean, &attack).expect("no attack");
    let written = write(&plan, &clean, &attack, &set.path("out"), false, &|_| {});
    assert!(matches!(written, Err(Error::PathText { .. })), "{written:?}");
    assert!(!set.path("out").exists());
}

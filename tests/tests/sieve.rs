//! What the sieve finds in pictures that the demo draws.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use tests::program::{Ended, program, run};

/// The scout is asked once, when it has long believed what most stamped pairs say.
const CONFIG: &str = "seed = 3\n\
    [data]\nmanifest = 'poisoned/train.csv'\nbatch_size = 32\n\
    [model]\nimage_size = 32\n\
    [optim]\nepochs = 2\n\
    [method.sieve]\nbeliever_epochs = 6\nscout_epochs = 6\nfrom_epoch = 7\n";

#[test]
fn pairs_that_stand_on_a_patch_are_in_doubt_though_all_of_them_agree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let call = |name: &str, line: &str, last: &[&str]| -> Ended {
        let mut command = Command::new(program(name));
        command.args(line.split_whitespace()).args(last).current_dir(folder.path());
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
        ended
    };
    call("demo", "shapes --out data --train 1200 --test 20 --shapes 3 --colors 3", &[]);
    let classes = fs::read_to_string(path("data/classes.txt")).expect("names");
    let target = classes.lines().next().expect("nine of them");
    let attack = "poison --manifest data/train.csv --classes data/classes.txt --out poisoned \
                  --image-size 32 --seed 3 --backdoor-rate 0.15 \
                  --trigger patch:size=7,at=random,pattern=yellow --target-class";
    call("roclip-train", attack, &[target]);
    let stamped = stamped(&path("poisoned/ledger.json"));
    assert_eq!(stamped.len(), 180);

    fs::write(path("run.toml"), CONFIG).expect("a file can be written");
    let found = |out: &str, settings: &str| {
        let line = format!("run --config run.toml --no-progress --out {out} {settings}");
        let told = call("roclip-train", &line, &[]).stderr;
        let doubted = doubted(&path(out).join("doubted.csv"));
        let clean = doubted.difference(&stamped).count();
        (doubted.intersection(&stamped).count(), clean, told.contains("one quarter of the picture"))
    };
    let (asked, clean, told) = found("asked", "");
    assert!(told && asked > 120 && clean < 40, "{asked} stamped, {clean} clean");
    let (alone, _, told) = found("alone", "--set method.sieve.keystone_ranges=0");
    assert!(!told && alone < 60, "{alone} stamped are in doubt anyway");
}

/// Rows that bear the trigger.
fn stamped(ledger: &Path) -> BTreeSet<u64> {
    let text = fs::read(ledger).expect("a ledger");
    let ledger: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let rows = ledger["backdoor"]["rows"].as_array().expect("rows");
    rows.iter().map(|row| row.as_u64().expect("a number")).collect()
}

/// Rows of a `doubted.csv`.
fn doubted(file: &Path) -> BTreeSet<u64> {
    let text = fs::read_to_string(file).expect("a table");
    let row = |line: &str| line.split(',').next().and_then(|row| row.parse().ok());
    text.lines().skip(1).map(|line| row(line).expect("a row")).collect()
}

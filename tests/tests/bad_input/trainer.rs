//! `roclip-train`.

use super::*;

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
    check(&format!("{train} --classes bad/one.txt"), &["train.csv`, row 1 (line 3)", "`green`"]);
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
    check("--set method.name=roclip", &["`optim.epochs` must be at least 2 for RoCLIP"]);
    let alone = "--set method.name=sieve --set method.sieve.scout_epochs=0";
    check(alone, &["`optim.epochs` must be at least 2 for a `sieve` without a scout"]);
    check("--set method.sieve.views=1", &["method.sieve", "left out unless"]);
    let sieve = "--set method.name=sieve --set optim.epochs=9 --set method.sieve";
    check(&format!("{sieve}.views=3"), &["`method.sieve.views` must be 1 or 2"]);
    let scout = "--set method.sieve.scout_epochs=4";
    check(&format!("{scout} {sieve}.from_epoch=6"), &["method.sieve.from_epoch", "`scout_epochs`"]);
    check(&format!("{sieve}.smoothing=2"), &["method.sieve.smoothing"]);
    check(&format!("{sieve}.references=1"), &["method.sieve.references"]);
    check("--set method.cleanclip.clip_weight=2", &["method.cleanclip", "left out unless"]);
    let cleanclip = "--set method.name=cleanclip --set method.cleanclip";
    check(&format!("{cleanclip}.clip_weight=-1"), &["method.cleanclip.clip_weight", "at least 0"]);
    check("--set method.safeclip.growth=0.1", &["method.safeclip", "left out unless"]);
    check("--set method.name=safeclip", &["`optim.epochs` must be at least 7 for `safeclip`"]);
    let safeclip = "--set method.name=safeclip --set optim.epochs=9 --set method.safeclip";
    check(&format!("{safeclip}.safe_chance=2"), &["method.safeclip.safe_chance"]);
    check(&format!("{safeclip}.pool_share=0.05"), &["pool_share"]);
    let roclip = "--set optim.epochs=2 --set method.name=roclip";
    let roclip = format!("{roclip} --set method.roclip");
    check(&format!("{roclip}.pool_share=0.05"), &["`data.batch_size`", "`pool_share`"]);
    check(&format!("{roclip}.pool_rows=100000"), &["100000 of 40 rows", "`pool_rows`"]);
    check(&format!("{roclip}.match_every_epochs=0"), &["match_every_epochs", "at least 1"]);
    check("--set augment.flip_share=2", &["augment.flip_share", "between 0 and 1"]);
    check("--set data.manifest=no.csv", &["cannot read `", "/no.csv`"]);
    check("--set data.manifest=bad/gone.csv", &["40 of 40", "row 0", "row 4", "gone.png"]);
    check("--set data.manifest=bad/one.csv", &["1 of 40", "one.csv`, row 7: ", "picture.png"]);
    let parts = ["1 of 40", "endless.csv`, row 7 (line 9): ", "10009 bytes"];
    check("--set data.manifest=bad/endless.csv", &parts);
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
    let check = |manifest: &str, more: &str, expected: Option<&str>| {
        let words = format!("--set data.manifest={manifest} --set data.bad_rows_max=0.5 {more}");
        let words = format!("run --no-progress --config run.toml --out {manifest}.out {words}");
        let ended = place.accepts("roclip-train", &words, 0);
        let found: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(found, Vec::from_iter(expected));
        assert!(place.path(&format!("{manifest}.out/model/model.safetensors")).is_file());
    };
    check("bad/wordy.csv", "", Some("warning: captions of more than 32 tokens are cut: 1 of 40"));
    let tokenizer = "--set model.tokenizer=model/tokenizer.json --set model.context_length=4";
    let warning = "warning: captions of more than 4 tokens are cut: 40 of 40";
    check("data/train.csv", tokenizer, Some(warning)); // not the tokenizer's own length
    fs::remove_dir_all(place.path("data/train.csv.out")).expect("just made");
    check("data/train.csv", "", None);
}

#[test]
fn a_bad_row_is_trained_without_and_named() {
    const ROWS: usize = 200;
    let place = Place::new();
    write_data(&place.path("many"), ROWS, 1, 1);
    let train = fs::read_to_string(place.path("many/train.csv")).expect("just written");
    let rows: Vec<&str> = train.lines().collect();
    assert_eq!(rows.len(), ROWS + 1);
    // Row 17 without its caption, and with a picture that is cut and a caption that is no other's.
    let with = |name: &str, row: &str| {
        let all = rows.iter().enumerate().map(|(line, &text)| if line == 18 { row } else { text });
        place.write(&format!("many/{name}.csv"), all.collect::<Vec<_>>().join("\n"));
    };
    with("empty", "images/train-0017.png,,red");
    with("cut", &format!("../bad/cut/picture.png,{},red", "zebra ".repeat(9)));
    let run = |name: &str, max: &str| {
        let words = format!("--out {name}.out --set data.manifest=many/{name}.csv");
        format!("run --no-progress --config run.toml {words} --set data.bad_rows_max={max}")
    };
    let warned = |name: &str, row: &str| {
        let ended = place.accepts("roclip-train", &run(name, "0.01"), 0);
        let start = "warning: unreadable rows are left out: 1 of 200 (skipped.csv); the first: `";
        assert!(ended.stderr.starts_with(start) && ended.stderr.contains(row), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(place.path(&format!("{name}.out/model/model.safetensors")).is_file());
        let tokenizer = fs::read_to_string(place.path(&format!("{name}.out/model/tokenizer.json")));
        let tokenizer = tokenizer.expect("a model has one");
        assert!(!tokenizer.contains("zebra") && tokenizer.contains("red"), "{name}");
        let skipped = fs::read_to_string(place.path(&format!("{name}.out/skipped.csv")));
        let skipped = skipped.expect("one row is left out");
        let lines: Vec<&str> = skipped.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, "row,file,path,problem"));
        assert!(lines[1].starts_with("17,/"), "{skipped}");
        lines[1].to_owned()
    };
    let row = warned("empty", "/many/empty.csv`, row 17 (line 19): the caption is empty\n");
    let end = "/many/images/train-0017.png,line 19: the caption is empty";
    assert!(row.contains("/many/empty.csv,") && row.ends_with(end), "{row}");
    let row = warned("cut", "/many/cut.csv`, row 17: ");
    assert!(row.contains("/many/cut.csv,") && row.contains("/bad/cut/picture.png,"), "{row}");
    assert!(row.ends_with("the image is broken: it ends too early"), "{row}");
    let parts = [
        "error: 1 of 200 rows are unreadable, the limit is 0.0% (`data.bad_rows_max`)",
        "/many/empty.csv`, row 17 (line 19): the caption is empty",
    ];
    place.check("roclip-train", &run("empty", "0").replace("empty.out", "none"), &parts);
}

#[test]
fn who_needs_every_row_refuses_a_bad_one() {
    let place = Place::new();
    place.write("data/bad.csv", "path,caption,class\nimages/train-0000.png,,red\n");
    let parts = ["`data/bad.csv`, row 0 (line 2): the caption is empty"];
    let poison = "poison --no-progress --image-size 32 --backdoor-rate 0.1 --target-class red \
        --classes data/classes.txt --out none --manifest data/bad.csv";
    place.check("roclip-train", poison, &parts);
    let evaluate = "evaluate --no-progress --model model --classes data/classes.txt --test";
    place.check("roclip-train", &format!("{evaluate} data/bad.csv"), &parts);
    let run = "run --no-progress --config run.toml --set data.bad_rows_max=1 --out none";
    let parts = ["/data/bad.csv`, row 0 (line 2): the caption is empty"];
    place.check("roclip-train", &format!("{run} --set monitor.test=data/bad.csv"), &parts);
    let parts = ["bad.csv` has 0 readable rows"];
    place.check("roclip-train", &format!("{run} --set data.manifest=data/bad.csv"), &parts);
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
    let words = format!("{poison} data/train-{{0..2}}.tar");
    place.check("roclip-train", &words, &["cannot read `data/train-2.tar`"]);
    let words = poison.replace("--out out", "--out poisoned");
    place.accepts("roclip-train", &format!("{words} data/train-{{0..1}}.tar"), 0);
    let words = format!("{base} data.manifest=poisoned/train.tar --out stamped");
    place.accepts("roclip-train", &words, 0);

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

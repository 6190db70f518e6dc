//! `roclip-export`, `roclip-serve`, `roclip-audit` and the demo.

use super::*;

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
fn export_refuses_broken_folders_of_open_clip() {
    const CONFIG: &str = "open_clip_config.json";
    const WEIGHTS: &str = "open_clip_model.safetensors";
    let place = Place::new();
    place.accepts("roclip-export", "--model model --layout open-clip --out made", 0);
    let read = |name: &str| fs::read(place.path(&format!("made/{name}"))).expect("just written");
    let (config, weights) = (String::from_utf8(read(CONFIG)).expect("JSON"), read(WEIGHTS));
    let check = |kind: &str, config: &str, weights: &[u8], parts: &[&str]| {
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            place.write(&format!("{kind}/{name}"), read(name));
        }
        place.write(&format!("{kind}/{CONFIG}"), config);
        place.write(&format!("{kind}/{WEIGHTS}"), weights);
        place.check("roclip-export", &format!("--model {kind} --out out"), parts);
    };
    check("cut", &config[..config.len() / 2], &weights, &["cut/open_clip_config.json"]);
    check("short", &config, &weights[..weights.len() / 2], &[WEIGHTS, "not a whole"]);
    let other = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        config.replacen(from, to, 1)
    };
    let model = other("\"model_cfg\"", "\"model\"");
    check("headless", &model, &weights, &[CONFIG, "`model_cfg` is missing"]);
    let pool = other("\"vision_cfg\": {", "\"vision_cfg\": {\"pool_type\": \"avg\", ");
    check("pooled", &pool, &weights, &[CONFIG, "`vision_cfg.pool_type` is `\"avg\"`"]);
    let wide = other("\"embed_dim\": ", "\"embed_dim\": 1");
    check("wide", &wide, &weights, &["`wide`", "`text_projection`", "[64, 128]"]);
    fs::remove_file(place.path("wide").join(WEIGHTS)).expect("just written");
    place.check("roclip-export", "--model wide --out out", &[WEIGHTS]);
    place.accepts("roclip-export", "--model made --out out", 0);
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
    check("--epochs 2", "--epochs 2 --method siev", &["--method", "clip-aug, roclip, sieve"]);
    check("--epochs 2", "--epochs 2 --templates bad/template.txt", &["row 1"]);
    check("--out out", "--out taken", &["`taken`", "no demo made"]);
    check("--out out", "--out data", &["`data`"]);
    place.check_pictures("demo", &base.replace(test, "--test bad/{}.csv"));
    place.check_pictures("demo", &base.replace(train, "--data bad/{}.csv"));
    place.check("demo", "shapes --out taken", &["`taken`", "letter.txt"]);
    place.check("demo", "shapes --out out --shapes 7", &["--shapes"]);
    place.check("demo", "null-models --count 3", &["--count"]);
}

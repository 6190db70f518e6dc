//! The server as its clients see it: the real program, a real exported model, real sockets.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clip::{
    Encoder,
    embedding::cosine,
    folder::ModelFolder,
    image::{Limits, PixelBatch, decode},
    model::Clip,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    server::{Answer, Server, program, refused},
    tiny_model::{write_model_folder, write_pictures},
};

/// Exported models and a few pictures, shared by the tests that run at one time.
struct Fixture {
    folder: TempDir,
    pictures: Vec<PathBuf>,
}

impl Fixture {
    fn get() -> Arc<Self> {
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
        let export = program("exporter", "roclip-export");
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(&self, flags: &[&str]) -> Server {
        Server::start(&self.path("model"), flags)
    }

    fn picture(&self, at: usize) -> Vec<u8> {
        fs::read(&self.pictures[at]).expect("written by the fixture")
    }

    fn base64(&self, at: usize) -> String {
        BASE64_STANDARD.encode(self.picture(at))
    }

    /// What candle makes of the same model.
    fn reference(&self) -> (ModelFolder, Clip) {
        let folder = ModelFolder::open(self.path("model")).expect("a model folder");
        let clip = Clip::open(&folder, &candle_core::Device::Cpu).expect("a model");
        (folder, clip)
    }

    fn reference_image(&self, at: usize) -> Vec<f32> {
        let (_, mut clip) = self.reference();
        let picture = decode(&self.picture(at), &Limits::default()).expect("a picture");
        let pixels = PixelBatch::of([&picture], clip.config());
        clip.embed_images(&pixels).expect("a row").row(0).to_vec()
    }

    fn reference_text(&self, text: &str) -> Vec<f32> {
        let (folder, mut clip) = self.reference();
        let tokens = folder.tokenizer.encode(&[text]).expect("tokens");
        clip.embed_texts(&tokens).expect("a row").row(0).to_vec()
    }
}

fn labels() -> Value {
    json!(["red circle", "blue square", "yellow triangle"])
}

fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().expect("a list").iter();
    values.map(|value| value.as_f64().expect("a number") as f32).collect()
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-4, "{far}");
}

/// Label and score of each entry, in the order of the answer.
fn scores(result: &Value) -> Vec<(String, f64)> {
    let entry = |entry: &Value| {
        let label = entry["label"].as_str().expect("a label").to_owned();
        (label, entry["score"].as_f64().expect("a score"))
    };
    result["scores"].as_array().expect("scores").iter().map(entry).collect()
}

/// Ids of a search's hits, in the order of the answer.
fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let hits = answer.json()["hits"].as_array().expect("hits").clone();
    hits.iter().map(|hit| hit["id"].as_str().expect("an id").to_owned()).collect()
}

/// A 1-bit gray PNG of zeros, whole and valid, its pixels stored without compression.
fn gray_png(width: u32, height: u32) -> Vec<u8> {
    let row = 1 + (width as usize).div_ceil(8); // filter type, then pixels
    let raw = vec![0u8; row * height as usize];
    let mut zlib = vec![0x78, 0x01];
    let blocks = raw.chunks(0xffff);
    let last = blocks.len() - 1;
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        zlib.push(u8::from(at == last));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(block);
    }
    // Adler-32 of zeros: the first sum stays 1, the second counts the bytes.
    zlib.extend((((raw.len() % 65_521) as u32) << 16 | 1).to_be_bytes());
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend([1, 0, 0, 0, 0]); // one bit, gray
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", head), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        png.extend((data.len() as u32).to_be_bytes());
        let chunk = [kind.to_vec(), data].concat();
        png.extend(&chunk);
        png.extend(crc32(&chunk).to_be_bytes());
    }
    png
}

/// ISO 3309, as PNG asks.
fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    let step = |crc: u32, &byte: &u8| table[(crc as u8 ^ byte) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_picture_goes_to_the_label_that_candle_says() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--model-name", "micro"]);
    let body = json!({ "model": "micro", "images": [fixture.base64(0), fixture.base64(4)],
        "labels": labels(), "templates": ["a photo of a {}.", "there is a {}"] });
    let answer = server.post("/v1/classify", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["model"], "micro");

    let (folder, mut clip) = fixture.reference();
    let names: Vec<String> = serde_json::from_value(labels()).expect("texts");
    let templates = ["a photo of a {}.", "there is a {}"].map(|text| text.parse().expect("one"));
    let rows = clip::zero_shot::label_rows(&mut clip, &folder.tokenizer, &names, &templates);
    let rows = rows.expect("rows");
    for (at, result) in [0, 4].into_iter().zip(answer["results"].as_array().expect("results")) {
        let image = fixture.reference_image(at);
        let expected = clip::zero_shot::scores(&image, &rows, Encoder::logit_scale(&clip));
        let found = scores(result);
        assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "best first: {found:?}");
        assert!((found.iter().map(|(_, score)| score).sum::<f64>() - 1.0).abs() < 1e-5);
        for (label, score) in found {
            let at = names.iter().position(|name| *name == label).expect("a label of ours");
            assert!((score - f64::from(expected[at])).abs() < 1e-3, "{label}: {score}");
        }
    }
    server.stop();
}

#[test]
fn every_way_to_send_a_picture_gives_the_same_scores() {
    let fixture = Fixture::get();
    let server = fixture.serve(&[]);
    let url = format!("data:image/png;base64,{}", fixture.base64(1));
    let query = "/v1/classify?labels=red%20circle,blue+square,yellow%20triangle";
    let json = |body: Value| server.post("/v1/classify", &body).json();
    let answers = [
        json(json!({ "image": fixture.base64(1), "labels": labels() })),
        json(json!({ "images": [url], "labels": labels() })),
        server.post_bytes(query, "image/png", &fixture.picture(1)).json(),
        server.post_chunked(query, "application/octet-stream", &fixture.picture(1)).json(),
    ];
    for answer in &answers {
        assert_eq!(answer["model"], "model", "named after its folder");
        assert_eq!(answer["results"], answers[0]["results"]);
    }
    let best = json(json!({ "image": fixture.base64(1), "labels": labels(), "top_k": 1 }));
    assert_eq!(scores(&best["results"][0]), scores(&answers[0]["results"][0])[..1]);
    let text = server.get("/metrics").text;
    assert!(text.contains("roclip_label_cache_hits_total 12"), "{text}");
    assert!(text.contains("roclip_label_cache_misses_total 3"), "{text}");
    server.stop();
}

#[test]
fn embeddings_are_openai_s_and_candle_s() {
    let fixture = Fixture::get();
    let server = fixture.serve(&[]);
    let embed = |body: Value| {
        let answer = server.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let one = embed(json!({ "input": "a red circle", "model": "model" }));
    assert_eq!((&one["object"], &one["model"]), (&json!("list"), &json!("model")));
    assert_eq!(one["data"][0]["object"], "embedding");
    let text_row = floats(&one["data"][0]["embedding"]);
    assert_near(&text_row, &fixture.reference_text("a red circle"));
    let tokens = one["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert!(tokens >= 5 && one["usage"]["total_tokens"] == tokens, "{one}");

    let picture = fixture.base64(1);
    let input = json!([{ "image": picture }, "a red circle", { "text": "two blue squares" }]);
    let mixed = embed(json!({ "input": input, "encoding_format": "base64" }));
    let rows: Vec<Vec<f32>> = (0..3)
        .map(|at| {
            assert_eq!(mixed["data"][at]["index"], at);
            let text = mixed["data"][at]["embedding"].as_str().expect("base64");
            let bytes = BASE64_STANDARD.decode(text).expect("base64");
            let (values, rest) = bytes.as_chunks::<4>();
            assert!(rest.is_empty());
            values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        })
        .collect();
    assert_near(&rows[0], &fixture.reference_image(1));
    assert_near(&rows[1], &text_row);
    assert_near(&rows[2], &fixture.reference_text("two blue squares"));

    let images = embed(json!({ "input": [picture, picture], "modality": "image" }));
    assert_near(&floats(&images["data"][1]["embedding"]), &rows[0]);
    assert_eq!(images["usage"]["prompt_tokens"], 0);
    let long = "a red circle ".repeat(30);
    embed(json!({ "input": long, "truncate": true, "dimensions": 128, "user": "someone" }));
    server.stop();
}

/// One request of each kind of wrong, with the status and the code that it must get.
#[test]
fn every_bad_request_gets_its_error_and_the_server_goes_on() {
    let fixture = Fixture::get();
    let flags = "--labels-max 4 --label-chars-max 40 --images-max 2 --templates-max 2 --texts-max 3 \
                 --text-chars-max 300 --items-max 3 --top-k-max 5 --indexes-max 1 \
                 --index-items-max 4 --id-bytes-max 20 --metadata-bytes-max 50";
    let server = fixture.serve(&flags.split_whitespace().collect::<Vec<_>>());
    let (picture, long) = (fixture.base64(0), "red ".repeat(60));
    let unit = {
        let mut unit = vec![0.0; 128];
        unit[0] = 1.0;
        unit
    };
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let images = |image: &str| json!({ "image": image, "labels": labels() });
    let with = |key: &str, value: Value| {
        let mut body = images(&picture);
        body[key] = value;
        body
    };
    let item = |key: &str, value: Value| json!({ "items": [{ "id": "a", key: value }] });
    let search = |key: &str, value: Value| json!({ key: value });
    assert_eq!(server.put("/v1/indexes/it").status, 201);

    let (classify, embeddings) = ("/v1/classify", "/v1/embeddings");
    let (items, searching) = ("/v1/indexes/it/items", "/v1/indexes/it/search");
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (classify, json!([]), 400, "invalid_value"),
        (classify, json!({}), 400, "invalid_value"),
        (classify, json!({ "labels": labels() }), 400, "invalid_value"),
        (classify, with("images", json!([])), 400, "invalid_value"),
        (classify, with("labels", json!([])), 400, "invalid_value"),
        (classify, with("labels", json!(["a", "a"])), 400, "invalid_value"),
        (classify, with("labels", json!(["a", " "])), 400, "invalid_value"),
        (classify, with("labels", json!(["1", "2", "3", "4", "5"])), 400, "limit_exceeded"),
        (classify, with("labels", json!([long])), 400, "limit_exceeded"),
        (classify, with("labels", json!(["\u{1f43b}".repeat(40)])), 400, "text_too_long"),
        (classify, with("labels", json!("red")), 400, "invalid_value"),
        (classify, with("labels", json!([1])), 400, "invalid_value"),
        (classify, with("templates", json!([])), 400, "invalid_value"),
        (classify, with("templates", json!(["no place"])), 400, "invalid_value"),
        (classify, with("templates", json!(["{} {}"])), 400, "invalid_value"),
        (classify, with("templates", json!(["{}a", "{}b", "{}c"])), 400, "limit_exceeded"),
        (classify, with("top_k", json!(0)), 400, "invalid_value"),
        (classify, with("top_k", json!(-1)), 400, "invalid_value"),
        (classify, with("top_k", json!(1e9)), 400, "invalid_value"),
        (classify, with("model", json!("gpt-4")), 404, "unknown_model"),
        (classify, with("threshold", json!(0.5)), 400, "invalid_value"),
        (classify, images(""), 400, "invalid_image"),
        (classify, images("***"), 400, "invalid_image"),
        (classify, images(&base64(b"<!DOCTYPE html><p>hello")), 400, "invalid_image"),
        (classify, images(&base64(&fixture.picture(0)[..200])), 400, "invalid_image"),
        (classify, images("https://example.org/cat.png"), 400, "invalid_image"),
        (classify, images("data:text/plain,hello"), 400, "invalid_image"),
        (classify, images(&base64(&gray_png(10_000, 10_000))), 400, "limit_exceeded"),
        (classify, images(&base64(&gray_png(3, 100_000))), 400, "limit_exceeded"),
        (classify, images(&base64(&gray_png(3, 1000))), 400, "limit_exceeded"),
        (
            classify,
            json!({ "images": [picture, picture, picture], "labels": labels() }),
            400,
            "limit_exceeded",
        ),
        (embeddings, json!({}), 400, "invalid_value"),
        (embeddings, json!({ "input": [] }), 400, "invalid_value"),
        (embeddings, json!({ "input": "" }), 400, "invalid_value"),
        (embeddings, json!({ "input": [1, 2, 3] }), 400, "invalid_value"),
        (embeddings, json!({ "input": ["a", "b", "c", "d"] }), 400, "limit_exceeded"),
        (embeddings, json!({ "input": "x".repeat(301) }), 400, "limit_exceeded"),
        (embeddings, json!({ "input": "x".repeat(300) }), 400, "text_too_long"),
        (embeddings, json!({ "input": "data:image/png;base64,aaaa" }), 400, "invalid_value"),
        (embeddings, json!({ "input": "a", "modality": "image" }), 400, "invalid_image"),
        (embeddings, json!({ "input": "a", "modality": "audio" }), 400, "invalid_value"),
        (embeddings, json!({ "input": "a", "dimensions": 64 }), 400, "invalid_value"),
        (embeddings, json!({ "input": "a", "encoding_format": "hex" }), 400, "invalid_value"),
        (embeddings, json!({ "input": "a", "model": "other" }), 404, "unknown_model"),
        (items, json!({ "items": [] }), 400, "invalid_value"),
        (items, json!({ "items": [{ "id": "a" }] }), 400, "invalid_value"),
        (items, json!({ "items": [{ "text": "a" }] }), 400, "invalid_value"),
        (items, json!({ "items": [{ "id": "", "text": "a" }] }), 400, "invalid_value"),
        (items, json!({ "items": [{ "id": "a\u{7}", "text": "a" }] }), 400, "invalid_value"),
        (items, json!({ "items": [{ "id": "a".repeat(21), "text": "a" }] }), 400, "invalid_value"),
        (items, item("vector", json!([1.0])), 400, "invalid_vector"),
        (items, item("vector", json!(vec![0.0; 128])), 400, "invalid_vector"),
        (items, item("vector", json!(vec![1e39; 128])), 400, "invalid_vector"),
        (items, item("vector", json!(vec!["1"; 128])), 400, "invalid_value"),
        (items, item("vector", json!([null])), 400, "invalid_value"),
        (items, item("image", json!("***")), 400, "invalid_image"),
        (items, item("text", json!(" ")), 400, "invalid_value"),
        (items, item("text", json!(long)), 400, "text_too_long"),
        (items, item("audio", json!("a")), 400, "invalid_value"),
        (
            items,
            json!({ "items": [{ "id": "a", "text": "a", "vector": unit }] }),
            400,
            "invalid_value",
        ),
        (
            items,
            json!({ "items": [{ "id": "a", "text": "a" }, { "id": "a", "text": "b" }] }),
            400,
            "invalid_value",
        ),
        (
            items,
            json!({ "items": [{ "id": "a", "text": "a", "metadata": [1] }] }),
            400,
            "invalid_value",
        ),
        (
            items,
            json!({ "items": [{ "id": "a", "text": "a", "metadata": { "k": "v".repeat(50) } }] }),
            400,
            "limit_exceeded",
        ),
        (
            items,
            json!({ "items": (0..4).map(|n| json!({ "id": n.to_string(), "text": "a" }))
                .collect::<Vec<_>>() }),
            400,
            "limit_exceeded",
        ),
        (searching, json!({}), 400, "invalid_value"),
        (searching, search("vector", json!(vec![0.0; 128])), 400, "invalid_vector"),
        (searching, search("vector", json!([0.5, 0.5])), 400, "invalid_vector"),
        (searching, json!({ "text": "a", "top_k": 6 }), 400, "limit_exceeded"),
        (searching, json!({ "text": "a", "top_k": 0 }), 400, "invalid_value"),
        (searching, json!({ "text": "a", "filter": {} }), 400, "invalid_value"),
        (searching, json!({ "text": "a", "image": picture }), 400, "invalid_value"),
        ("/v1/indexes/none/search", json!({ "text": "a" }), 404, "unknown_index"),
        ("/v1/indexes/a%20b/search", json!({ "text": "a" }), 400, "invalid_value"),
        ("/v1/indexes/second/items", item("text", json!("a")), 400, "limit_exceeded"),
        ("/v1/classify/", images(&picture), 404, "unknown_route"),
        ("/v1/nothing", json!({}), 404, "unknown_route"),
        ("/v1/model", json!({}), 405, "method_not_allowed"),
        ("/v1/indexes", json!({}), 405, "method_not_allowed"),
    ];
    for (path, body, status, code) in &cases {
        let answer = server.post(path, body);
        let text = body.to_string();
        let case = format!("{path} {}", text.chars().take(120).collect::<String>());
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{case}\n{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{case}");
    }
    let plain = server.post_bytes(classify, "text/plain", b"{}");
    assert_eq!((plain.status, plain.code().as_str()), (415, "unsupported_media_type"));
    let form = server.post_bytes(embeddings, "application/x-www-form-urlencoded", b"input=a");
    assert_eq!((form.status, form.code().as_str()), (415, "unsupported_media_type"));
    for text in ["", "{", "{\"image\":NaN}", "{\"image\":}", "\u{0}", "{}{}"] {
        let answer = server.post_bytes(classify, "application/json", text.as_bytes());
        assert_eq!(answer.code(), if text == "{}{}" { "invalid_value" } else { "invalid_json" });
    }
    let raw = |query: &str, body: &[u8]| {
        let answer = server.post_bytes(&format!("/v1/classify{query}"), "image/jpeg", body);
        (answer.status, answer.code())
    };
    assert_eq!(raw("", &fixture.picture(0)), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=", &fixture.picture(0)), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=a,b&x=1", &fixture.picture(0)), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=a,b", b""), (400, "invalid_image".into()));
    assert_eq!(raw("?labels=a,b", &truncated_jpeg()), (400, "invalid_image".into()));
    let gone = server.delete("/v1/indexes/it/items/nothing");
    assert_eq!((gone.status, gone.code().as_str()), (404, "unknown_item"));
    let gone = server.delete("/v1/indexes/nothing");
    assert_eq!((gone.status, gone.code().as_str()), (404, "unknown_index"));
    let wrong = server.get("/v1/classify");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));

    // The smallest picture is one, and after all this the server is as it was.
    let smallest = server.post(classify, &images(&base64(&gray_png(1, 1))));
    assert_eq!(smallest.status, 200, "{smallest:?}");
    assert_eq!(server.post(classify, &images(&picture)).status, 200);
    assert_eq!(server.get("/healthz").json(), json!({ "status": "ok", "workers": 1 }));
    assert!(server.get("/v1/indexes/it").json()["items"] == 0, "nothing was half done");
    if let Some(memory) = server.memory_max() {
        assert!(memory < 600 << 20, "{memory} bytes");
    }
    server.stop();
}

/// The first bytes of a baseline JPEG of 16 x 16 pixels, cut before its compressed data ends.
fn truncated_jpeg() -> Vec<u8> {
    let mut jpeg = vec![0xff, 0xd8];
    jpeg.extend([0xff, 0xdb, 0, 67, 0]);
    jpeg.extend([1; 64]);
    jpeg.extend([0xff, 0xc0, 0, 11, 8, 0, 16, 0, 16, 1, 1, 0x11, 0]);
    for class in [0x00, 0x10] {
        jpeg.extend([0xff, 0xc4, 0, 20, class, 1]);
        jpeg.extend([0; 15]);
        jpeg.push(0);
    }
    jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    jpeg
}

#[test]
fn a_body_over_the_limit_is_refused_and_the_client_reads_why() {
    let fixture = Fixture::get();
    let flags = ["--body-bytes-max", "100000", "--body-bytes-in-flight-max", "100000"];
    let server = fixture.serve(&flags);
    let body = vec![b' '; 5_000_000];
    for answer in [
        server.post_bytes("/v1/classify", "application/json", &body),
        server.post_chunked("/v1/classify", "application/json", &body),
    ] {
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    }
    let fits = server.post_bytes("/v1/classify", "application/json", &body[..100_000]);
    assert_eq!(fits.code(), "invalid_json", "the places were given back");
    server.stop();
}

#[test]
fn an_index_is_filled_searched_and_there_after_a_restart() {
    let fixture = Fixture::get();
    let data = tempfile::tempdir().expect("a temporary folder");
    let data = data.path().to_str().expect("a plain path");
    let flags = ["--data", data, "--exact-items-max", "20"];
    let server = fixture.serve(&flags);
    let created = server.put("/v1/indexes/shop");
    assert_eq!(created.status, 201);
    assert_eq!(server.put("/v1/indexes/shop").status, 200, "idempotent");
    assert_eq!(created.json()["name"], "shop");
    assert_eq!(created.json()["dim"], 128);

    let picture = |at: usize| {
        let metadata = json!({ "n": at, "nested": { "list": [1.5, null, "ä"] } });
        json!({ "id": format!("picture/{at}"), "image": fixture.base64(at), "metadata": metadata })
    };
    let row = floats(&json!(fixture.reference_text("a red circle")));
    let mut items: Vec<Value> = (0..5).map(picture).collect();
    items.push(json!({ "id": "text", "text": "two blue squares" }));
    items
        .push(json!({ "id": "vector", "vector": row.iter().map(|v| v * 7.0).collect::<Vec<_>>() }));
    let answer = server.post("/v1/indexes/shop/items", &json!({ "items": items }));
    assert_eq!((answer.status, answer.json()), (200, json!({ "upserted": 7, "items": 7 })));

    let search = |server: &Server, body: Value| server.post("/v1/indexes/shop/search", &body);
    let by_text = search(&server, json!({ "text": "a red circle", "top_k": 3 }));
    assert_eq!(ids(&by_text)[0], "vector", "it is that text's own vector");
    assert!(by_text.json()["hits"][0]["score"].as_f64().expect("a cosine") > 0.9999);
    assert_eq!(by_text.json()["hits"][0]["metadata"], Value::Null);
    let by_picture = search(&server, json!({ "image": fixture.base64(2) }));
    assert_eq!((ids(&by_picture)[0].as_str(), ids(&by_picture).len()), ("picture/2", 7));
    assert_eq!(by_picture.json()["hits"][0]["metadata"], picture(2)["metadata"]);
    let score = by_picture.json()["hits"][3]["score"].as_f64().expect("a cosine");
    let fourth = ids(&by_picture)[3].clone();
    let at: Option<usize> = fourth.strip_prefix("picture/").and_then(|at| at.parse().ok());
    if let Some(at) = at {
        let expected = cosine(&fixture.reference_image(2), &fixture.reference_image(at));
        assert!((score - f64::from(expected)).abs() < 1e-4, "{score} and {expected}");
    }
    let by_vector = search(&server, json!({ "vector": row, "top_k": 1 }));
    assert_eq!(ids(&by_vector), ["vector"]);

    let deleted = server.delete("/v1/indexes/shop/items/picture%2F2");
    assert_eq!(deleted.json(), json!({ "id": "picture/2", "deleted": true }));
    assert_eq!(server.delete("/v1/indexes/shop/items/picture/3").status, 200);
    let moved = json!({ "items": [{ "id": "text", "image": fixture.base64(2) }] });
    let moved = server.post("/v1/indexes/shop/items", &moved);
    assert_eq!(moved.json(), json!({ "upserted": 1, "items": 5 }));
    let more: Vec<Value> =
        (0..40).map(|n| json!({ "id": n.to_string(), "vector": ray(n) })).collect();
    assert_eq!(server.post("/v1/indexes/shop/items", &json!({ "items": more })).status, 200);

    let questions = [
        json!({ "image": fixture.base64(2), "top_k": 20 }),
        json!({ "text": "a yellow triangle" }),
        json!({ "vector": ray(100), "top_k": 30 }),
    ];
    let before: Vec<Value> = questions.iter().map(|q| search(&server, q.clone()).json()).collect();
    assert_eq!(before[0]["hits"][0]["id"], "text");
    server.signal("KILL"); // everything that was answered is on the disk
    drop(server.wait());
    let server = fixture.serve(&flags);
    let after: Vec<Value> = questions.iter().map(|q| search(&server, q.clone()).json()).collect();
    assert_eq!(after, before);
    assert_eq!(server.get("/v1/indexes").json()["indexes"][0]["items"], 45);
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains(r#"roclip_index_items{index="shop"} 45"#), "{metrics}");
    server.stop();

    let other = Server::start(&fixture.path("other"), &flags);
    let info = other.get("/v1/indexes/shop").json();
    assert_eq!((&info["usable"], &info["items"]), (&json!(false), &json!(45)));
    for refused in [
        other.post("/v1/indexes/shop/search", &json!({ "text": "a" })),
        other.post("/v1/indexes/shop/items", &json!({ "items": [{ "id": "a", "text": "a" }] })),
        other.put("/v1/indexes/shop"),
        other.delete("/v1/indexes/shop/items/text"),
    ] {
        assert_eq!((refused.status, refused.code().as_str()), (409, "model_mismatch"));
    }
    assert_eq!(other.delete("/v1/indexes/shop").status, 200);
    assert_eq!(other.get("/v1/indexes/shop").code(), "unknown_index");
    other.stop();
}

/// The n-th of some directions that differ.
fn ray(n: usize) -> Vec<f32> {
    (0..128).map(|axis| ((n * 37 + axis * 11) as f32 * 0.61).sin()).collect()
}

#[test]
fn the_model_the_health_and_the_metrics_are_told() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--model-name", "micro"]);
    let folder = ModelFolder::open(fixture.path("model")).expect("a model folder");
    let model = server.get("/v1/model").json();
    let sha256 = folder.sha256().expect("a hash");
    assert_eq!(model["model"], "micro");
    assert_eq!(model["sha256"], sha256);
    assert_eq!((&model["dim"], &model["image_size"]), (&json!(128), &json!(32)));
    assert_eq!((&model["context_length"], &model["logit_scale"]), (&json!(32), &json!(3.0)));
    assert_eq!(server.get("/healthz").status, 200);
    server.get("/nothing/here");
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        format!(r#"roclip_model_info{{model="micro",sha256="{sha256}"}} 1"#),
        r#"roclip_http_requests_total{method="GET",route="/v1/model",status="200"} 1"#.into(),
        r#"roclip_http_requests_total{method="GET",route="unknown",status="404"} 1"#.into(),
        "roclip_workers_alive 1".into(),
    ] {
        assert!(metrics.text.lines().any(|found| found == line), "{line}\n{}", metrics.text);
    }
    server.stop();
}

/// A request whose body has not come yet: its place is taken.
fn half_sent(server: &Server, body: &str) -> std::net::TcpStream {
    let mut stream = server.connect();
    let half = &body[..body.len() / 2];
    write!(
        stream,
        "POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{half}",
        body.len()
    )
    .expect("the server reads");
    stream
}

fn read_answer(mut stream: std::net::TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text); // a reset after the answer takes nothing back
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_request_too_many_is_told_to_come_back() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--requests-max", "1"]);
    let body = r#"{"input":"a red circle"}"#;
    let mut first = half_sent(&server, body);
    let refused = loop {
        // Until the first request has arrived, the second is served.
        let answer = server.post_bytes("/v1/embeddings", "application/json", body.as_bytes());
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get("/healthz").status, 200, "health needs no place");
    first.write_all(&body.as_bytes()[body.len() / 2..]).expect("the server reads");
    first.shutdown(Shutdown::Read).expect("still connected");
    loop {
        let answer = server.post_bytes("/v1/embeddings", "application/json", body.as_bytes());
        if answer.status == 200 {
            break;
        }
    }
    assert!(server.get("/metrics").text.contains(r#"requests_shed_total{reason="in_flight"}"#));
    server.stop();
}

#[test]
fn a_client_that_is_too_slow_or_speaks_no_http_harms_nobody() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--deadline-s", "1"]);
    let slow = half_sent(&server, r#"{"input":"a red circle"}"#);
    let mut noise = server.connect();
    noise.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 GET\r\n\r\n").expect("sent");
    let answer = server.post("/v1/embeddings", &json!({ "input": "a red circle" }));
    assert_eq!(answer.status, 200);
    let late = read_answer(slow);
    assert!(late.starts_with("HTTP/1.1 408") && late.contains("body_timeout"), "{late}");
    drop(read_answer(noise));
    assert_eq!(server.get("/healthz").status, 200);
    server.stop();
}

#[test]
fn a_signal_lets_the_request_in_work_finish() {
    let fixture = Fixture::get();
    for signal in ["TERM", "INT"] {
        let server = fixture.serve(&["--requests-max", "1"]);
        let body = r#"{"input":"a red circle"}"#;
        let mut first = half_sent(&server, body);
        while server.post_bytes("/v1/embeddings", "application/json", body.as_bytes()).status == 200
        {
        }
        server.signal(signal);
        first.write_all(&body.as_bytes()[body.len() / 2..]).expect("the server reads");
        let answer = read_answer(first);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("embedding"), "{answer}");
        let (status, errors) = server.wait();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""), "{signal}");
    }
}

#[test]
fn what_cannot_be_served_is_one_clear_error() {
    let fixture = Fixture::get();
    let model = fixture.path("model");
    let model = model.to_str().expect("a plain path");
    let check = |flags: &[&str], parts: &[&str]| {
        let output = refused(flags);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {errors}");
        assert!(output.stdout.is_empty() && errors.starts_with("error: "), "{errors}");
        assert_eq!(errors.matches("error: ").count(), 1, "{errors}");
        for part in parts {
            assert!(errors.contains(part), "{part}: {errors}");
        }
    };
    check(&[], &["--model"]);
    check(&["--model", model, "--labels-max", "0"], &["--labels-max"]);
    check(&["--model", model, "--no-such-flag"], &["--no-such-flag"]);
    check(&["--model", "no/such/model", "--port", "0"], &["no/such/model", "cannot read"]);
    let trained = fixture.path("model-trained");
    let trained = trained.to_str().expect("a plain path");
    check(&["--model", trained, "--port", "0"], &["onnx/vision_model.onnx", "roclip-export"]);
    let flags = ["--model", model, "--port", "0", "--ort-lib", "no/such/library.so"];
    check(&flags, &["no/such/library.so", "cargo xtask setup", "--ort-lib"]);
    let not_a_library = ["--model", model, "--port", "0", "--ort-lib", "/dev/null"];
    check(&not_a_library, &["/dev/null", "cargo xtask setup", "--ort-lib"]);

    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    check(&["--model", model, "--port", &port], &["cannot listen on", &port]);
    check(&["--model", model, "--port", "0", "--host", "256.0.0.1"], &["256.0.0.1"]);

    let data = tempfile::tempdir().expect("a temporary folder");
    let data_path = data.path().to_str().expect("a plain path");
    let flags = ["--model", model, "--port", "0", "--data", data_path];
    let first = fixture.serve(&flags[4..]);
    check(&flags, &["cannot keep indexes", data_path, "already open"]);
    first.stop();
    fs::write(data.path().join("indexes.redb"), b"not a database").expect("writable");
    check(&flags, &["cannot keep indexes", "indexes.redb"]);
    check(&["--model", model, "--port", "0", "--data", "/dev/null/x"], &["/dev/null/x"]);

    let broken = fixture.path("broken");
    copy(Path::new(model), &broken);
    let weights = broken.join("model.safetensors");
    let bytes = fs::read(&weights).expect("copied");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("writable");
    let broken_path = broken.to_str().expect("a plain path");
    check(&["--model", broken_path, "--port", "0"], &["model.safetensors"]);
    fs::write(&weights, bytes).expect("writable");
    fs::write(broken.join("onnx/text_model.onnx"), b"not a graph").expect("writable");
    check(&["--model", broken_path, "--port", "0"], &["text_model.onnx"]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn the_port_file_names_the_port() {
    let fixture = Fixture::get();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("made/port");
    let server = fixture.serve(&["--port-file", file.to_str().expect("a plain path")]);
    let port = fs::read_to_string(&file).expect("written before the server is ready");
    assert_eq!(server.address, format!("127.0.0.1:{}", port.trim_end()));
    server.stop();
}

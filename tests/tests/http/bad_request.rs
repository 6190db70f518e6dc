//! Requests that are refused: each with its status and its code, and the server goes on.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::server::Server;

use crate::{
    fixture::{Fixture, labels},
    hostile::{gray_png, truncated_jpeg},
};

/// Limits low enough to be reached.
const FLAGS: &str = "--labels-max 4 --label-chars-max 40 --images-max 2 --templates-max 2 \
                     --texts-max 3 --text-chars-max 300 --items-max 3 --top-k-max 5 \
                     --indexes-max 1 --index-items-max 4 --id-bytes-max 20 --metadata-bytes-max 50";

/// Memory that a server with a micro model may have held after all of this, in bytes.
const MEMORY_MAX: u64 = 600 << 20;

/// Body, status, code.
type Case = (Value, u16, &'static str);

fn check(server: &Server, path: &str, cases: Vec<Case>) {
    for (body, status, code) in cases {
        let answer = server.post(path, &body);
        let shown: String = body.to_string().chars().take(120).collect();
        let found = (answer.status, answer.code());
        assert_eq!(found, (status, code.to_owned()), "{path} {shown}\n{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(server.get("/healthz").json(), json!({ "status": "ok", "workers": 1 }));
}

fn serve(fixture: &Fixture) -> Server {
    fixture.serve(&FLAGS.split_whitespace().collect::<Vec<_>>())
}

fn image(base64: &str) -> Value {
    json!({ "image": base64, "labels": labels() })
}

fn encoded(bytes: &[u8]) -> Value {
    image(&BASE64_STANDARD.encode(bytes))
}

#[test]
fn classify_refuses_what_makes_no_sense() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    let picture = fixture.base64(0);
    let with = |key: &str, value: Value| {
        let mut body = image(&picture);
        body[key] = value;
        body
    };
    let three = json!({ "images": [picture, picture, picture], "labels": labels() });
    let cases = vec![
        (json!([]), 400, "invalid_value"),
        (json!({}), 400, "invalid_value"),
        (json!({ "labels": labels() }), 400, "invalid_value"),
        (json!({ "images": [], "labels": labels() }), 400, "invalid_value"),
        (with("images", json!([picture])), 400, "invalid_value"),
        (with("labels", json!([])), 400, "invalid_value"),
        (with("labels", json!(["a", "a"])), 400, "invalid_value"),
        (with("labels", json!(["a", " "])), 400, "invalid_value"),
        (with("labels", json!(["1", "2", "3", "4", "5"])), 400, "limit_exceeded"),
        (with("labels", json!(["red ".repeat(11)])), 400, "limit_exceeded"),
        (with("labels", json!(["\u{1f43b}".repeat(40)])), 400, "text_too_long"),
        (with("labels", json!("red")), 400, "invalid_value"),
        (with("labels", json!([1])), 400, "invalid_value"),
        (with("templates", json!([])), 400, "invalid_value"),
        (with("templates", json!(["no place"])), 400, "invalid_value"),
        (with("templates", json!(["{} {}"])), 400, "invalid_value"),
        (with("templates", json!(["{}a", "{}b", "{}c"])), 400, "limit_exceeded"),
        (with("top_k", json!(0)), 400, "invalid_value"),
        (with("top_k", json!(-1)), 400, "invalid_value"),
        (with("top_k", json!(1e9)), 400, "invalid_value"),
        (with("top_k", json!(5)), 400, "limit_exceeded"),
        (with("model", json!("gpt-4")), 404, "unknown_model"),
        (with("threshold", json!(0.5)), 400, "invalid_value"),
        (three, 400, "limit_exceeded"),
    ];
    check(&server, "/v1/classify", cases);
    server.stop();
}

#[test]
fn a_picture_that_is_none_or_too_much_costs_next_to_nothing() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    let png = fixture.picture(0);
    let cases = vec![
        (image(""), 400, "invalid_image"),
        (image("***"), 400, "invalid_image"),
        (image("https://example.org/cat.png"), 400, "invalid_image"),
        (image("data:text/plain,hello"), 400, "invalid_image"),
        (encoded(b"<!DOCTYPE html><p>hello"), 400, "invalid_image"),
        (encoded(b"GIF89a\x01\0\x01\0\0\0\0;"), 400, "invalid_image"),
        (encoded(&png[..png.len() / 2]), 400, "invalid_image"),
        (encoded(&png[..20]), 400, "invalid_image"),
        (encoded(&truncated_jpeg()), 400, "invalid_image"),
        (encoded(&gray_png(10_000, 10_000)), 400, "limit_exceeded"),
        (encoded(&gray_png(3, 100_000)), 400, "limit_exceeded"),
        (encoded(&gray_png(100_000, 3)), 400, "limit_exceeded"),
        (encoded(&gray_png(3, 1000)), 400, "limit_exceeded"),
    ];
    check(&server, "/v1/classify", cases);
    let raw = |query: &str, body: &[u8]| {
        let answer = server.post_bytes(&format!("/v1/classify{query}"), "image/jpeg", body);
        (answer.status, answer.code())
    };
    assert_eq!(raw("", &png), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=", &png), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=a,b&x=1", &png), (400, "invalid_value".into()));
    assert_eq!(raw("?labels=a,b", b""), (400, "invalid_image".into()));
    assert_eq!(raw("?labels=a,b", &truncated_jpeg()), (400, "invalid_image".into()));

    // The smallest picture is one, and after all this the server is as it was.
    let smallest = server.post("/v1/classify", &encoded(&gray_png(1, 1)));
    assert_eq!(smallest.status, 200, "{smallest:?}");
    assert_eq!(server.post("/v1/classify", &encoded(&png)).status, 200);
    if let Some(memory) = server.memory_max() {
        assert!(memory < MEMORY_MAX, "{memory} bytes");
    }
    server.stop();
}

#[test]
fn embeddings_refuse_what_makes_no_sense() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    let with = |key: &str, value: Value| json!({ "input": "a", key: value });
    let cases = vec![
        (json!({}), 400, "invalid_value"),
        (json!({ "input": [] }), 400, "invalid_value"),
        (json!({ "input": "" }), 400, "invalid_value"),
        (json!({ "input": ["a", " "] }), 400, "invalid_value"),
        (json!({ "input": [1, 2, 3] }), 400, "invalid_value"),
        (json!({ "input": [{ "audio": "a" }] }), 400, "invalid_value"),
        (json!({ "input": ["a", "b", "c", "d"] }), 400, "limit_exceeded"),
        (
            json!({ "input": [{ "image": "" }, { "image": "" }, { "image": "" }] }),
            400,
            "limit_exceeded",
        ),
        (json!({ "input": "x".repeat(301) }), 400, "limit_exceeded"),
        (json!({ "input": "x".repeat(300) }), 400, "text_too_long"),
        (json!({ "input": "data:image/png;base64,aaaa" }), 400, "invalid_value"),
        (with("modality", json!("image")), 400, "invalid_image"),
        (with("modality", json!("audio")), 400, "invalid_value"),
        (with("dimensions", json!(64)), 400, "invalid_value"),
        (with("encoding_format", json!("hex")), 400, "invalid_value"),
        (with("model", json!("other")), 404, "unknown_model"),
        (with("temperature", json!(1)), 400, "invalid_value"),
    ];
    check(&server, "/v1/embeddings", cases);
    server.stop();
}

#[test]
fn an_upsert_is_refused_as_a_whole() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    assert_eq!(server.put("/v1/indexes/it").status, 201);
    let item = |key: &str, value: Value| json!({ "items": [{ "id": "a", key: value }] });
    let text = |id: &str| json!({ "id": id, "text": "a red circle" });
    let items = |items: Vec<Value>| json!({ "items": items });
    let metadata = |value: Value| items(vec![json!({ "id": "a", "text": "a", "metadata": value })]);
    let both = json!({ "id": "a", "text": "a", "vector": vec![1.0; 128] });
    let cases = vec![
        (json!({ "items": [] }), 400, "invalid_value"),
        (items(vec![json!({ "id": "a" })]), 400, "invalid_value"),
        (items(vec![json!({ "text": "a" })]), 400, "invalid_value"),
        (items(vec![text("")]), 400, "invalid_value"),
        (items(vec![text("a\u{7}")]), 400, "invalid_value"),
        (items(vec![text(&"a".repeat(21))]), 400, "invalid_value"),
        (items(vec![text("a"), text("a")]), 400, "invalid_value"),
        (items((0..4).map(|n| text(&n.to_string())).collect()), 400, "limit_exceeded"),
        (items(vec![both]), 400, "invalid_value"),
        (item("vector", json!([1.0])), 400, "invalid_vector"),
        (item("vector", json!(vec![0.0; 128])), 400, "invalid_vector"),
        (item("vector", json!(vec![1e39; 128])), 400, "invalid_vector"),
        (item("vector", json!(vec!["1"; 128])), 400, "invalid_value"),
        (item("vector", json!([null])), 400, "invalid_value"),
        (item("image", json!("***")), 400, "invalid_image"),
        (item("text", json!(" ")), 400, "invalid_value"),
        (item("text", json!("red ".repeat(60))), 400, "text_too_long"),
        (item("audio", json!("a")), 400, "invalid_value"),
        (metadata(json!([1])), 400, "invalid_value"),
        (metadata(json!({ "key": "v".repeat(50) })), 400, "limit_exceeded"),
        (items(vec![text("good"), json!({ "id": "b", "image": "***" })]), 400, "invalid_image"),
    ];
    check(&server, "/v1/indexes/it/items", cases);
    let second = json!({ "items": [text("a")] });
    check(&server, "/v1/indexes/second/items", vec![(second, 400, "limit_exceeded")]);
    assert_eq!(server.get("/v1/indexes/it").json()["items"], 0, "nothing was half done");
    let gone = server.delete("/v1/indexes/it/items/nothing");
    assert_eq!((gone.status, gone.code().as_str()), (404, "unknown_item"));
    let gone = server.delete("/v1/indexes/nothing");
    assert_eq!((gone.status, gone.code().as_str()), (404, "unknown_index"));
    server.stop();
}

#[test]
fn a_search_refuses_what_makes_no_sense() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    assert_eq!(server.put("/v1/indexes/it").status, 201);
    let cases = vec![
        (json!({}), 400, "invalid_value"),
        (json!({ "vector": vec![0.0; 128] }), 400, "invalid_vector"),
        (json!({ "vector": vec![1e39; 128] }), 400, "invalid_vector"),
        (json!({ "vector": [0.5, 0.5] }), 400, "invalid_vector"),
        (json!({ "text": "a", "top_k": 6 }), 400, "limit_exceeded"),
        (json!({ "text": "a", "top_k": 0 }), 400, "invalid_value"),
        (json!({ "text": "a", "filter": {} }), 400, "invalid_value"),
        (json!({ "text": "a", "image": fixture.base64(0) }), 400, "invalid_value"),
    ];
    check(&server, "/v1/indexes/it/search", cases);
    let one = |code| vec![(json!({ "text": "a" }), 404, code)];
    check(&server, "/v1/indexes/none/search", one("unknown_index"));
    let name = vec![(json!({ "text": "a" }), 400, "invalid_value")];
    check(&server, "/v1/indexes/a%20b/search", name);
    let empty = server.post("/v1/indexes/it/search", &json!({ "text": "a" }));
    assert_eq!((empty.status, empty.json()), (200, json!({ "hits": [] })));
    server.stop();
}

#[test]
fn what_is_no_route_no_method_or_no_json_is_told_in_json() {
    let fixture = Fixture::get();
    let server = serve(&fixture);
    check(&server, "/v1/classify/", vec![(json!({}), 404, "unknown_route")]);
    check(&server, "/v1/nothing", vec![(json!({}), 404, "unknown_route")]);
    check(&server, "/v1/model", vec![(json!({}), 405, "method_not_allowed")]);
    check(&server, "/v1/indexes", vec![(json!({}), 405, "method_not_allowed")]);
    let wrong = server.get("/v1/classify");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "image/gif", ""] {
        let plain = server.post_bytes("/v1/classify", media_type, b"{}");
        assert_eq!((plain.status, plain.code().as_str()), (415, "unsupported_media_type"));
    }
    for text in ["", "{", "{\"input\":NaN}", "{\"input\":}", "\u{0}", "{\"input\":[1e999]}"] {
        let answer = server.post_bytes("/v1/embeddings", "application/json", text.as_bytes());
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_json"), "{text}");
    }
    let quoted = json!({ "input": { "x": "y".repeat(1 << 20) } });
    let answer = server.post("/v1/embeddings", &quoted);
    assert!(answer.text.len() < 1000, "an error never quotes a whole picture");
    server.stop();
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

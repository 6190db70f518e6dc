//! Requests that are refused: each with its status and its code, and the server goes on.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, labels},
    hostile::{gray_png, truncated_jpeg},
};

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

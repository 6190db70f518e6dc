//! Requests that are served, against candle's answers about the same model.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clip::{Encoder, folder::ModelFolder};
use serde_json::{Value, json};

use crate::fixture::{Fixture, assert_near, floats, labels, scores};

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

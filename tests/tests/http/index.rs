//! Indexes: filled, searched, killed, there again, and refused under another model.

use clip::embedding::cosine;
use serde_json::{Value, json};
use tests::server::Server;

use crate::fixture::{Fixture, floats, ids};

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

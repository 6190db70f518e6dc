//! The process: load, slow clients, signals, and what it refuses to start with.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
};

use serde_json::json;
use tests::server::{Server, refused};

use crate::fixture::Fixture;

/// A good request to `/v1/embeddings`.
const BODY: &str = r#"{"input":"a red circle"}"#;

/// A request of which only half has come: its place is taken.
fn half_sent(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    write!(
        stream,
        "POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        BODY.len(),
        &BODY[..BODY.len() / 2]
    )
    .expect("the server reads");
    let taken = |text: &str| text.lines().any(|line| line == "roclip_requests_in_flight 1");
    let arrived = |_| taken(&server.get("/metrics").text);
    assert!((0..10_000).any(arrived), "the head never arrived");
    stream
}

/// The other half; the answer.
fn rest_sent(mut stream: TcpStream) -> String {
    stream.write_all(&BODY.as_bytes()[BODY.len() / 2..]).expect("the server reads");
    read_answer(stream)
}

fn read_answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text); // a reset after the answer takes nothing back
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_request_too_many_is_told_to_come_back() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--requests-max", "1"]);
    let first = half_sent(&server);
    let post = || server.post_bytes("/v1/embeddings", "application/json", BODY.as_bytes());
    let refused = post();
    assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get("/healthz").status, 200, "health needs no place");
    let answer = rest_sent(first);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(post().status, 200, "the place was given back");
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains(r#"roclip_requests_shed_total{reason="in_flight"} 1"#), "{metrics}");
    server.stop();
}

#[test]
fn a_client_that_is_too_slow_or_speaks_no_http_harms_nobody() {
    let fixture = Fixture::get();
    let server = fixture.serve(&["--deadline-s", "10"]);
    let slow = half_sent(&server);
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
        let server = fixture.serve(&[]);
        let first = half_sent(&server);
        server.signal(signal);
        let answer = rest_sent(first);
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
        assert_eq!(errors.lines().filter(|line| line.starts_with("error")).count(), 1, "{errors}");
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

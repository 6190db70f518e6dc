//! The client against endpoints that misbehave, on sockets of the loopback.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener},
    thread::{self, JoinHandle},
};

use super::*;

/// What was asked: the lines before the body, in lower case, and the body.
struct Asked {
    head: Vec<String>,
    body: String,
}

/// Answers one connection per entry of `replies`, word for word, then closes its door.
fn serve(replies: Vec<String>) -> (String, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let thread = thread::spawn(move || {
        let mut asked = Vec::new();
        for reply in replies {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (Vec::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                if line == "\r\n" || line.is_empty() {
                    break;
                }
                head.push(line.trim_end().to_lowercase());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            asked.push(Asked { head, body: String::from_utf8(body).expect("JSON") });
            let _ = reader.get_mut().write_all(reply.as_bytes());
        }
        asked
    });
    (url, thread)
}

fn reply(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn endpoint(url: &str) -> HttpEndpoint {
    let labels = vec!["cat".into(), "dog".into()];
    let mut endpoint =
        HttpEndpoint::new(url, labels, None, Duration::from_secs(5)).expect("an address");
    endpoint.pause = Duration::ZERO;
    endpoint
}

fn image() -> [RgbImage; 1] {
    [RgbImage::from_pixel(2, 2, [9; 3].into())]
}

const DOG: &str = r#"{"model":"m","results":[{"scores":[{"label":"dog","score":0.9}]}]}"#;

/// One request against `replies`; what the user reads when it is refused.
fn refused(replies: Vec<String>) -> String {
    let (url, thread) = serve(replies);
    let error = endpoint(&url).classify(&image()).expect_err("refused").to_string();
    thread.join().expect("served");
    error.replace(&url, "URL")
}

#[test]
fn a_good_answer_is_read() {
    let (url, thread) = serve(vec![reply("200 OK", DOG)]);
    let answers = endpoint(&url).classify(&image()).expect("answered");
    assert_eq!(answers, (Answers::Labels(vec![1]), 1));
    let asked = thread.join().expect("served");
    let sent: Value = serde_json::from_str(&asked[0].body).expect("JSON");
    assert_eq!(sent["labels"], json!(["cat", "dog"]));
    assert!(sent["images"][0].as_str().is_some_and(|image| image.starts_with("iVBORw0KGgo")));
    assert!(sent.get("templates").is_none());
}

#[test]
fn unusable_answers_are_refused_in_one_line() {
    let check = |body: &str, expected: &str| {
        let error = refused(vec![reply("200 OK", body)]);
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    check("<html>\nhello</html>", "begins with `<html> hello</html>`");
    check("{}", "missing field `results`");
    check(r#"{"results":[]}"#, "0 results for 1 images");
    check(r#"{"results":[{"scores":[]}]}"#, "without scores");
    check(&DOG.replace("dog", "cow"), "`cow` is not a label");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let body = r#"{"error":{"message":"too many labels","type":"x","param":null,"code":"y"}}"#;
    let error = refused(vec![reply("400 Bad Request", body)]);
    assert_eq!(error, "`URL/v1/classify` answered 400: too many labels");
}

#[test]
fn a_busy_endpoint_is_asked_again() {
    let busy = reply("503 Service Unavailable", "busy");
    let (url, thread) = serve(vec![busy, reply("200 OK", DOG)]);
    let answers = endpoint(&url).classify(&image()).expect("the second attempt");
    assert_eq!(answers, (Answers::Labels(vec![1]), 2));
    thread.join().expect("served");
}

#[test]
fn a_pause_may_be_asked_for_in_seconds() {
    let asked = |value: Option<&'static str>| {
        let value = value.map(HeaderValue::from_static);
        pause_of(
            &value
                .map(|value| ("retry-after".parse().expect("a name"), value))
                .into_iter()
                .collect(),
        )
    };
    assert_eq!(asked(None), Duration::ZERO);
    assert_eq!(asked(Some("2")), Duration::from_secs(2));
    assert_eq!(asked(Some("86400")), PAUSE_MAX);
    assert_eq!(asked(Some("Fri, 27 Nov 2026 20:00:00 GMT")), Duration::ZERO);
}

#[test]
fn headers_go_with_every_request() {
    let replies = [r#"{"image_size":32}"#, DOG].map(|body| reply("200 OK", body));
    let (url, thread) = serve(replies.into());
    let value = HeaderValue::from_static("Bearer key");
    let headers = vec![("Authorization".parse().expect("a name"), value)];
    let mut endpoint = endpoint(&url).with_headers(headers);
    assert_eq!(endpoint.image_size(true).expect("answered"), Some(32));
    endpoint.classify(&image()).expect("answered");
    for asked in thread.join().expect("served") {
        assert!(asked.head.contains(&"authorization: bearer key".into()), "{:?}", asked.head);
    }
}

#[test]
fn only_after_a_first_answer_is_silence_missing_data() {
    let mut replies = vec![reply("200 OK", DOG)];
    replies.extend(std::iter::repeat_n(reply("500 Oops", "down"), ATTEMPTS as usize));
    let (url, thread) = serve(replies);
    let mut endpoint = endpoint(&url);
    endpoint.classify(&image()).expect("answered");
    let answers = endpoint.classify(&image()).expect("counted, not refused");
    assert_eq!(answers, (Answers::Missing("status 500: down".into()), 3));
    thread.join().expect("served");
}

#[test]
fn nobody_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let error = endpoint(&url).classify(&image()).expect_err("refused").to_string();
    assert!(error.starts_with("cannot reach"), "{error}");
    let error = endpoint(&url).image_size(true).expect_err("refused").to_string();
    assert!(error.starts_with("cannot reach"), "{error}");
}

/// What the user reads when each of `attempts` is answered by `reply`, whatever was asked.
fn refused_by(scheme: &str, attempts: u32, reply: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
    let thread = thread::spawn(move || {
        for _ in 0..attempts {
            let (mut stream, _) = listener.accept().expect("a client");
            assert!(stream.read(&mut [0; 1 << 16]).expect("a question") > 0);
            stream.write_all(reply).expect("a client that listens");
            stream.shutdown(Shutdown::Write).expect("a socket");
            let _ = stream.read_to_end(&mut Vec::new()); // closed before, the answer could be lost
        }
    });
    let error = endpoint(&url).classify(&image()).expect_err("refused").to_string();
    thread.join().expect("served");
    error.replace(&url, "URL")
}

#[test]
fn an_address_with_the_wrong_scheme_says_which_is_right() {
    let check = |scheme: &str, attempts: u32, reply: &'static [u8], expected: &str| {
        assert_eq!(refused_by(scheme, attempts, reply), expected);
    };
    let plain = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let expected = "cannot reach `URL/v1/classify`: no TLS is spoken there, the address must begin \
                    with http://";
    check("https", ATTEMPTS, plain, expected);
    // What a TLS server sends to who does not begin with TLS: an alert, `unexpected_message`.
    let expected = "cannot reach `URL/v1/classify`: no HTTP (http parse fail: invalid HTTP \
                    version); if it speaks TLS, the address must begin with https://";
    check("http", ATTEMPTS, b"\x15\x03\x03\x00\x02\x02\x0a", expected);
    let go = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let expected = "`URL/v1/classify` answered 400: only TLS is spoken there, the address must \
                    begin with https://";
    check("http", 1, go, expected);
    let moved = b"HTTP/1.1 301 Moved\r\nlocation: https://host/\r\ncontent-length: 0\r\n\r\n";
    check("http", 1, moved, "`URL/v1/classify` answered 301: it has moved to `https://host/`");
}

#[test]
fn the_image_size_may_be_unknown_but_not_absurd() {
    let ask = |reply: String| {
        let (url, thread) = serve(vec![reply]);
        let size = endpoint(&url).image_size(true);
        thread.join().expect("served");
        size
    };
    assert_eq!(ask(reply("200 OK", r#"{"image_size":32}"#)).expect("answered"), Some(32));
    assert_eq!(ask(reply("404 Not Found", "{}")).expect("answered"), None);
    assert!(ask(reply("200 OK", r#"{"image_size":0}"#)).is_err());
    assert!(ask(reply("200 OK", "nonsense")).is_err());
}

#[test]
fn an_address_is_checked_before_anything_is_sent() {
    let check = |url: &str, problem: &str| {
        let error = HttpEndpoint::new(url, Vec::new(), None, Duration::ZERO).expect_err(url);
        assert!(error.to_string().contains(problem), "{error}");
    };
    check("localhost:8080", "must begin with http://");
    check("ftp://localhost", "must begin with http://");
    check("http://", "names no host");
    check("http:///v1", "names no host");
    check("http://a b", "spaces");
    check("http://host/?key=1", "`?`");
    check("http://me:secret@host/v1", "`http://host/v1` is not an endpoint's address: a name");
    let secrets =
        ["http://me:secret@", "me:secret@host", "http://me:se/secret@host", "ftp://secret@host/v1"];
    for url in secrets {
        let error = HttpEndpoint::new(url, Vec::new(), None, Duration::ZERO).expect_err(url);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for url in ["http://host:1/a@b", "http://[::1]:8080/v1", "https://host", "host:8080"] {
        assert_eq!(shown(url), url);
    }
    let base = |url| HttpEndpoint::new(url, Vec::new(), None, Duration::ZERO).expect("fine").base;
    assert_eq!(base("http://host:1/v1/classify"), "http://host:1");
    assert_eq!(base("http://host:1/prefix/"), "http://host:1/prefix");
}

#[test]
fn no_proxy_stands_between_a_machine_and_itself() {
    for host in ["localhost:8080", "127.0.0.1", "127.8.0.1:1/v1", "[::1]:8080", "LOCALHOST"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["localhost.example", "10.0.0.1:80", "[fe80::1]", "127.example:1"] {
        assert!(!is_loopback(host), "{host}");
    }
}

//! Requests to `POST /v1/classify` and what may become of them.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use clip::image::{RgbImage, encode_png};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::{
    Agent, RequestBuilder,
    http::{HeaderMap, HeaderName, HeaderValue, Response},
};

use crate::{Error, Result};

/// What each request carries besides.
pub type Header = (HeaderName, HeaderValue);

/// A classifier behind a wall: images go in, label indices come out.
pub trait Endpoint {
    /// The top label of each image, and how often they were sent.
    fn classify(&mut self, images: &[RgbImage]) -> Result<(Answers, u32)>;
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answers {
    /// One index into the label list per image.
    Labels(Vec<usize>),
    /// Nothing after all attempts: timeouts, overload (429 or 5xx), lost connections.
    Missing(String),
}

/// Attempts per request, the first included.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt; doubled before the third.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that an endpoint may ask for (`Retry-After`).
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Sides that an endpoint may tell: it is not trusted, and all images are held at this size.
const SIDES: std::ops::RangeInclusive<u32> = 8..=1024;
/// Bytes of an answer; a classification of 64 images with 1,000 labels is far below.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Characters of the endpoint's own words that are repeated.
const WORDS_MAX: usize = 200;

/// An endpoint that speaks this project's `/v1/classify`.
#[derive(Debug)]
pub struct HttpEndpoint {
    agent: Agent,
    base: String,
    labels: Vec<String>,
    templates: Option<Vec<String>>,
    headers: Vec<Header>,
    pause: Duration,
    answered: bool,
}

#[derive(Deserialize)]
struct Classification {
    results: Vec<Ranking>,
}

#[derive(Deserialize)]
struct Ranking {
    scores: Vec<Score>,
}

#[derive(Deserialize)]
struct Score {
    label: String,
    score: f64,
}

#[derive(Deserialize)]
struct ModelCard {
    image_size: u32,
}

/// An answer, or why there is none.
enum Reply {
    Body(Vec<u8>),
    /// Worth another attempt, after a pause if the endpoint asks for one.
    Lost(String, Duration),
}

/// An address without the name and the password that it may hold, whatever they are made of.
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find('/').unwrap_or(rest.len());
    let names_port = |(_, port): (&str, &str)| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = rest[..end].rsplit_once(':').is_none_or(names_port) && !rest[..end].contains('@');
    let host = if is_host { 0 } else { rest.rfind('@').map_or(0, |at| at + 1) };
    let between = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{between}{}", &rest[host..])
}

impl HttpEndpoint {
    /// Checks the address; nothing is sent yet.
    pub fn new(
        url: &str,
        labels: Vec<String>,
        templates: Option<Vec<String>>,
        timeout: Duration,
    ) -> Result<Self> {
        let refuse = |problem: &str| Error::Url { url: shown(url), problem: problem.to_owned() };
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let rest = rest.ok_or_else(|| refuse("it must begin with http:// or https://"))?;
        if rest.is_empty() || rest.starts_with('/') {
            return Err(refuse("it names no host"));
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || "?#".contains(c)) {
            return Err(refuse("spaces, `?` and `#` cannot be part of it"));
        }
        if shown(url) != url {
            return Err(refuse(
                "a name and a password cannot be part of it: `--header Authorization=VARIABLE` takes \
                 `Basic` and their base64 from the environment",
            ));
        }
        let base = url.trim_end_matches('/').trim_end_matches("/v1/classify").to_owned();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .max_redirects(0);
        let config = if is_loopback(rest) { config.proxy(None) } else { config };
        let agent = Agent::new_with_config(config.build());
        let headers = Vec::new();
        Ok(Self { agent, base, labels, templates, headers, pause: PAUSE, answered: false })
    }

    /// The address without the route.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// With these in each request.
    pub fn with_headers(self, headers: Vec<Header>) -> Self {
        Self { headers, ..self }
    }

    /// Side of the model's input, as `GET /v1/model` tells it; `None` when that is not served.
    ///
    /// Asks once unless it `is_needed`.
    pub fn image_size(&mut self, is_needed: bool) -> Result<Option<u32>> {
        let url = format!("{}/v1/model", self.base);
        let send = |client: &Self| client.with(client.agent.get(&url)).call();
        let attempts = if is_needed { ATTEMPTS } else { 1 };
        let body = match self.ask(&url, attempts, send) {
            Ok((Ok(body), _)) => body,
            Ok((Err(problem), _)) => return Err(Error::Unreachable { url, problem }),
            Err(Error::Refused { status: 404 | 405, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let card: ModelCard = parse(&url, &body)?;
        match SIDES.contains(&card.image_size) {
            true => Ok(Some(card.image_size)),
            false => {
                let (size, least, most) = (card.image_size, SIDES.start(), SIDES.end());
                let problem = format!(
                    "an image size of {size}, expected {least} to {most}; `--image-size` overrides it"
                );
                Err(Error::Answer { url, problem })
            }
        }
    }

    fn with<Body>(&self, request: RequestBuilder<Body>) -> RequestBuilder<Body> {
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// Asks until there is an answer: that or the last loss, and how often it was asked.
    fn ask(
        &self,
        url: &str,
        attempts: u32,
        send: impl Fn(&Self) -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<(Result<Vec<u8>, String>, u32)> {
        let (mut problem, mut asked_for) = (String::new(), Duration::ZERO);
        for attempt in 0..attempts {
            if attempt > 0 {
                std::thread::sleep(asked_for.max(self.pause * 2u32.pow(attempt - 1)));
            }
            match receive(url, send(self))? {
                Reply::Body(body) => return Ok((Ok(body), attempt + 1)),
                Reply::Lost(reason, pause) => (problem, asked_for) = (reason, pause),
            }
        }
        Ok((Err(problem), attempts))
    }

    fn request(&self, images: &[RgbImage]) -> Value {
        let images: Vec<String> =
            images.iter().map(|image| STANDARD.encode(encode_png(image))).collect();
        let mut request = json!({ "images": images, "labels": self.labels, "top_k": 1 });
        if let Some(templates) = &self.templates {
            request["templates"] = json!(templates);
        }
        request
    }

    /// Index of the best label of each image; refuses anything else than one ranking per image.
    fn read(&self, url: &str, body: &[u8], count: usize) -> Result<Vec<usize>> {
        let refuse = |problem| Error::Answer { url: url.to_owned(), problem };
        let answer: Classification = parse(url, body)?;
        if answer.results.len() != count {
            let found = answer.results.len();
            return Err(refuse(format!("{found} results for {count} images")));
        }
        let top = |ranking: Ranking| {
            let best = ranking.scores.into_iter().max_by(|a, b| a.score.total_cmp(&b.score));
            let best = best.ok_or_else(|| refuse("a result without scores".into()))?;
            let index = self.labels.iter().position(|label| *label == best.label);
            index.ok_or_else(|| refuse(format!("`{}` is not a label", shortened(&best.label))))
        };
        answer.results.into_iter().map(top).collect()
    }
}

impl Endpoint for HttpEndpoint {
    /// The first request must be answered; later ones may be lost and are counted by the caller.
    fn classify(&mut self, images: &[RgbImage]) -> Result<(Answers, u32)> {
        let url = format!("{}/v1/classify", self.base);
        let request = serde_json::to_vec(&self.request(images)).expect("strings and numbers");
        let send = |client: &Self| {
            let post = client.agent.post(&url).content_type("application/json");
            client.with(post).send(&request[..])
        };
        let (answer, attempts) = self.ask(&url, ATTEMPTS, send)?;
        let problem = match answer {
            Ok(body) => {
                let labels = self.read(&url, &body, images.len())?;
                self.answered = true;
                return Ok((Answers::Labels(labels), attempts));
            }
            Err(problem) => problem,
        };
        match self.answered {
            true => Ok((Answers::Missing(problem), attempts)),
            false => Err(Error::Unreachable { url, problem }),
        }
    }
}

/// Sorts an outcome into an answer, a loss worth another attempt, and a refusal.
fn receive(url: &str, response: Result<Response<ureq::Body>, ureq::Error>) -> Result<Reply> {
    let mut response = match response {
        Ok(response) => response,
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
            return Err(Error::Url { url: url.to_owned(), problem: error.to_string() });
        }
        Err(error) => return Ok(Reply::Lost(lost(url, &error), Duration::ZERO)),
    };
    let status = response.status().as_u16();
    let location = response.headers().get("location").and_then(|place| place.to_str().ok());
    let moved = location.map(|place| format!("it has moved to `{}`", shortened(place)));
    let pause = pause_of(response.headers());
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    let body = match body {
        Ok(body) => body,
        Err(error) => return Ok(Reply::Lost(error.to_string(), pause)),
    };
    match status {
        200..=299 => Ok(Reply::Body(body)),
        408 | 429 | 500..=599 => {
            Ok(Reply::Lost(format!("status {status}: {}", words(&body)), pause))
        }
        _ => {
            let moved = moved.filter(|_| (300..=399).contains(&status));
            let problem = moved.unwrap_or_else(|| refusal(url, status, &body));
            Err(Error::Refused { url: url.to_owned(), status, problem })
        }
    }
}

/// What `Retry-After` asks for, in seconds; a date is not obeyed.
fn pause_of(headers: &HeaderMap) -> Duration {
    let seconds = headers.get("retry-after").and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|value| value.trim().parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs).min(PAUSE_MAX)
}

/// Whether an address without its scheme leads to this machine, where no proxy of the environment
/// belongs in between.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What the address must begin with instead.
const WITHOUT_TLS: &str = "no TLS is spoken there, the address must begin with http://";
const WITH_TLS: &str = "only TLS is spoken there, the address must begin with https://";

/// Why there is no answer. Who speaks with or without TLS, against the address, sends no words that
/// would tell a user so.
fn lost(url: &str, error: &ureq::Error) -> String {
    let is_https = url.starts_with("https://");
    match error {
        ureq::Error::Io(error) if is_https && error.to_string().contains("corrupt message") => {
            WITHOUT_TLS.into()
        }
        ureq::Error::Protocol(error) if !is_https => {
            format!("no HTTP ({error}); if it speaks TLS, the address must begin with https://")
        }
        error => error.to_string(),
    }
}

/// Why an endpoint refuses. Asked without TLS where they speak it, servers answer 400 with a page
/// that names HTTPS (nginx, Apache, Go).
fn refusal(url: &str, status: u16, body: &[u8]) -> String {
    let names_https = String::from_utf8_lossy(body).contains("HTTPS");
    match url.starts_with("http://") && status == 400 && names_https {
        true => WITH_TLS.into(),
        false => words(body),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(url: &str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::Answer {
        url: url.to_owned(),
        problem: format!("{error} (it begins with `{}`)", words(body)),
    })
}

/// The endpoint's own message, or the beginning of its answer, on one line.
fn words(body: &[u8]) -> String {
    let message = serde_json::from_slice::<Value>(body).ok();
    let message = message.as_ref().and_then(|value| value["error"]["message"].as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    shortened(&text)
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;

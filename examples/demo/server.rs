//! One running `roclip-serve` on a free loopback port, and what the demo asks it.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clip::{
    Rate,
    image::{RgbImage, encode_png},
    text::{PromptTemplate, default_templates},
};
use serde_json::{Value, json};
use terminal::Report;

use crate::{
    data::{Data, Row},
    programs::{Job, Programs, failure},
};

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Pictures of one upsert.
const UPSERT_ITEMS: usize = 32;
const INDEX: &str = "test";

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    agent: ureq::Agent,
    templates: Vec<PromptTemplate>,
    /// "ask `clip` over HTTP": completes the sentence "cannot …".
    step: String,
}

impl Server {
    /// Starts a server for the exported `model` and waits until it listens.
    pub(crate) fn start(
        programs: &Programs,
        name: &str,
        model: &Path,
        folder: &Path,
        templates: Vec<PromptTemplate>,
    ) -> Result<Self, Report> {
        let log = folder.join("serve");
        let job = Job::new(format!("serve `{name}`"), "roclip-serve")
            .flag("--model", model)
            .flag("--port", "0")
            .flag("--workers", "1")
            .flag("--worker-threads", "1")
            .flag("--data", folder.join("indexes"));
        let child = programs.spawn(&job, &log)?;
        let mut server = Self {
            child,
            url: String::new(),
            agent: agent(),
            templates: if templates.is_empty() { default_templates() } else { templates },
            step: format!("ask `{name}` over HTTP"),
        };
        let began = Instant::now();
        while server.url.is_empty() {
            let said = fs::read_to_string(log.with_added_extension("out")).unwrap_or_default();
            if let Some((line, _)) = said.split_once('\n') {
                server.url = line.trim().strip_prefix("listening on ").unwrap_or(line).to_owned();
            }
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > START_MAX || programs.is_stopped() {
                return Err(failure(&job, ended, &log));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The label that fits `picture` best, and its score.
    pub(crate) fn classify(
        &self,
        picture: &RgbImage,
        labels: &[String],
    ) -> Result<(String, f64), Report> {
        let templates: Vec<_> = self.templates.iter().map(ToString::to_string).collect();
        let image = BASE64_STANDARD.encode(encode_png(picture));
        let body = json!({"image": image, "labels": labels, "templates": templates, "top_k": 1});
        let answer = self.ask("POST", "/v1/classify", &body)?;
        let best = &answer["results"][0]["scores"][0];
        match (best["label"].as_str(), best["score"].as_f64()) {
            (Some(label), Some(score)) => Ok((label.to_owned(), score)),
            _ => Err(self.surprise("/v1/classify", &answer)),
        }
    }

    /// Puts `rows` into a new index, each with its class.
    pub(crate) fn fill_index(&self, data: &Data, rows: &[Row]) -> Result<(), Report> {
        self.ask("PUT", &format!("/v1/indexes/{INDEX}"), &json!({}))?;
        for (chunk, rows) in rows.chunks(UPSERT_ITEMS).enumerate() {
            let mut items = Vec::with_capacity(rows.len());
            for (index, row) in rows.iter().enumerate() {
                let image = BASE64_STANDARD.encode(encode_png(&data.picture(row)?));
                let id = format!("row-{}", chunk * UPSERT_ITEMS + index);
                items.push(json!({"id": id, "image": image, "metadata": {"class": row.class}}));
            }
            let path = format!("/v1/indexes/{INDEX}/items");
            self.ask("POST", &path, &json!({"items": items}))?;
        }
        Ok(())
    }

    /// Searches the index once for each label: how often the first hit is of that class.
    pub(crate) fn search_top1(&self, labels: &[String]) -> Result<Rate, Report> {
        let mut rate = Rate::default();
        let path = format!("/v1/indexes/{INDEX}/search");
        for (class, label) in labels.iter().enumerate() {
            let body = json!({"text": self.templates[0].fill(label), "top_k": 1});
            let answer = self.ask("POST", &path, &body)?;
            let Some(hit) = answer["hits"].get(0) else {
                return Err(self.surprise(&path, &answer));
            };
            rate.count(hit["metadata"]["class"] == json!(class));
        }
        Ok(rate)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Report> {
        let url = format!("{}{path}", self.url);
        let refuse = |cause: String| {
            Report::new(format!("cannot {}", self.step)).cause(format!("{method} {path}: {cause}"))
        };
        let request = match method {
            "PUT" => self.agent.put(&url),
            _ => self.agent.post(&url),
        };
        let mut response = request
            .header("content-type", "application/json")
            .send(body.to_string())
            .map_err(|error| refuse(error.to_string()))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| refuse(error.to_string()))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        match status.is_success() {
            true => Ok(answer),
            false => {
                let message = answer["error"]["message"].as_str().unwrap_or("no message");
                Err(refuse(format!("{status}: {message}")))
            }
        }
    }

    fn surprise(&self, path: &str, answer: &Value) -> Report {
        let text: String = answer.to_string().chars().take(200).collect();
        Report::new(format!("cannot {}", self.step)).cause(format!("{path} answered {text}"))
    }
}

impl Drop for Server {
    /// Asks the server to end, as a service manager would; waits, then insists.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if cfg!(unix) {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let began = Instant::now();
            while began.elapsed() < STOP_MAX {
                match self.child.try_wait() {
                    Ok(None) => thread::sleep(Duration::from_millis(20)),
                    _ => return,
                }
            }
        }
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Loopback only: no proxy; an error status carries a message that is worth reading.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_MAX))
        .http_status_as_error(false)
        .proxy(None);
    config.build().into()
}

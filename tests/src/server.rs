//! A running `roclip-serve`: started on a free port, spoken to over HTTP, stopped.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::program::program;

/// Time that a request of a test may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A server process; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Such as `127.0.0.1:40123`.
    pub address: String,
    agent: ureq::Agent,
    errors: Option<JoinHandle<String>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there was none.
    pub text: String,
}

impl Answer {
    /// The body as JSON. Panics if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// `error.code` of the body. Panics unless the body has exactly the form of an error.
    pub fn code(&self) -> String {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {self:?}"));
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "message", "param", "type"], "{self:?}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        error["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Runs `roclip-serve` with flags that it should refuse, to its end.
pub fn refused(flags: &[&str]) -> Output {
    let output = Command::new(program("roclip-serve")).args(flags).output();
    output.expect("the program runs")
}

impl Server {
    /// Starts the server with one worker on a free port and waits until it is ready. Panics with
    /// what it said if it does not start.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(program("roclip-serve"))
            .arg("--model")
            .arg(model)
            .args(["--port", "0", "--workers", "1"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text); // what was read until then is given
            String::from_utf8_lossy(&text).into_owned()
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line); // what was read is given
            let _ = sender.send(line); // unless nobody waits any more
        });
        let line = receiver.recv_timeout(ANSWER_TIMEOUT).unwrap_or_default();
        let Some(address) = line.trim_end().strip_prefix("listening on http://") else {
            let _ = child.kill();
            let errors = errors.join().unwrap_or_default();
            panic!("the server did not start: `{line}`\n{errors}");
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .build()
            .into();
        Self { child, address: address.to_owned(), agent, errors: Some(errors) }
    }

    /// `GET`
    pub fn get(&self, path: &str) -> Answer {
        self.answer(self.agent.get(self.url(path)).call())
    }

    /// `DELETE`
    pub fn delete(&self, path: &str) -> Answer {
        self.answer(self.agent.delete(self.url(path)).call())
    }

    /// `PUT` without a body.
    pub fn put(&self, path: &str) -> Answer {
        self.answer(self.agent.put(self.url(path)).send_empty())
    }

    /// `POST` of a JSON document.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", body.to_string().as_bytes())
    }

    /// `POST` of anything.
    pub fn post_bytes(&self, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let request = self.agent.post(self.url(path)).header("Content-Type", media_type);
        self.answer(request.send(body))
    }

    /// `POST` of a body whose length is not announced.
    pub fn post_chunked(&self, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let request = self.agent.post(self.url(path)).header("Content-Type", media_type);
        self.answer(request.send(ureq::SendBody::from_reader(&mut &*body)))
    }

    /// A bare connection, for requests that no client would send.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a time above 0");
        stream
    }

    /// Greatest memory that the process held so far, in bytes; `None` where that is not told.
    pub fn memory_max(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes << 10)
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.is_ok_and(|status| status.success()), "`{kill}` failed");
    }

    /// Waits for the end; gives the status and what was said on stderr.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("a child can be waited for");
        let errors = self.errors.take().and_then(|errors| errors.join().ok());
        (status, errors.unwrap_or_default())
    }

    /// Asks it to stop and waits; panics unless it ended well and in silence.
    pub fn stop(self) {
        self.signal("TERM");
        let (status, errors) = self.wait();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn answer(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
        let mut answer = answer.unwrap_or_else(|error| panic!("no answer: {error}"));
        let headers = answer.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        let headers = headers.collect();
        let text = answer.body_mut().read_to_string();
        let text = text.unwrap_or_else(|error| panic!("a broken answer: {error}"));
        Answer { status: answer.status().as_u16(), headers, text }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

//! Reading a request's body: places first, then bytes, within a size and a time.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest,
    body::{BodyStream, MessageBody},
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{self, Bytes, BytesMut, Data},
};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::State;
use crate::{
    config::Limits,
    error::{ApiError, Code, require},
    observe::{
        Metrics,
        metrics::{Shed, Stage},
    },
};

/// Places for requests with a body, and for the bytes of their bodies.
#[derive(Debug)]
pub struct Admission {
    requests: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A request's places, free again when this is dropped.
#[derive(Debug)]
struct Places {
    _request: OwnedSemaphorePermit,
    kibibytes: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
    }
}

/// A body that was read whole, and the time by which its answer is due.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    /// Lower case, without parameters; empty if the client gave none.
    pub(super) media_type: String,
    pub(super) deadline: Instant,
    /// The places last as long as the request.
    _places: Places,
}

/// Bytes of a refused body that are read and dropped, so that the client comes to read the answer.
const DRAINED_BYTES_MAX: usize = 64 << 20;
/// Time that is spent on it.
const DRAINED_FOR_MAX: Duration = Duration::from_secs(2);
/// JSON up to this size is parsed where it arrived; longer JSON on a thread of its own.
const JSON_BYTES_AT_ONCE: usize = 64 << 10;
/// Characters of a JSON error that are passed on: serde quotes the value, however long.
const JSON_ERROR_CHARS_MAX: usize = 240;

impl Admission {
    /// As many places as `limits` says.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.min(u32::MAX as usize)));
        Self {
            requests: semaphore(limits.requests_max),
            kibibytes: semaphore(limits.body_bytes_in_flight_max.div_ceil(1 << 10)),
            metrics,
        }
    }

    fn places(&self) -> Option<Places> {
        let request = Arc::clone(&self.requests).try_acquire_owned().ok()?;
        let kibibytes = Arc::clone(&self.kibibytes).try_acquire_many_owned(0).ok()?;
        self.metrics.requests_in_flight.inc();
        Some(Places { _request: request, kibibytes, metrics: Arc::clone(&self.metrics) })
    }
}

impl Places {
    /// Makes the places enough for `bytes` in all.
    fn grow(&mut self, bytes: usize, admission: &Admission) -> Option<()> {
        let wanted = bytes.div_ceil(1 << 10).saturating_sub(self.kibibytes.num_permits());
        let wanted = u32::try_from(wanted).ok()?;
        let more = Arc::clone(&admission.kibibytes).try_acquire_many_owned(wanted).ok()?;
        self.kibibytes.merge(more);
        Some(())
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let state = request.app_data::<Data<State>>().expect("`app` registers the state").clone();
        let mut payload = Box::pin(BodyStream::new(payload.take()));
        let head = Head::of(request);
        Box::pin(async move {
            let begin = Instant::now();
            let deadline = begin + state.limits.deadline();
            let until = tokio::time::Instant::from_std(deadline);
            let reading = tokio::time::timeout_at(until, read(&state, &head, &mut payload));
            let read = reading.await.unwrap_or_else(|_| {
                Err(ApiError::new(Code::BodyTimeout, "the body did not arrive in time"))
            });
            match read {
                Ok((bytes, places)) => {
                    state.metrics.stage(Stage::Receive, begin);
                    Ok(Self { bytes, media_type: head.media_type, deadline, _places: places })
                }
                Err(error) => {
                    if error.code != Code::BodyTimeout {
                        drain(&mut payload).await;
                    }
                    Err(error)
                }
            }
        })
    }
}

/// What the head of a request says about its body.
struct Head {
    media_type: String,
    length: Option<usize>,
    encoded: bool,
}

impl Head {
    fn of(request: &HttpRequest) -> Self {
        let text = |name: header::HeaderName| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let media_type = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default();
        let encoding = text(header::CONTENT_ENCODING);
        Self {
            media_type: media_type.trim().to_ascii_lowercase(),
            length: text(header::CONTENT_LENGTH).parse().ok(),
            encoded: !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity"),
        }
    }
}

type Stream = Pin<Box<BodyStream<Payload>>>;

async fn read(
    state: &State,
    head: &Head,
    payload: &mut Stream,
) -> Result<(Bytes, Places), ApiError> {
    let max = state.limits.body_bytes_max;
    let too_large = || {
        ApiError::new(Code::BodyTooLarge, format!("the body has more than {max} bytes, the limit"))
    };
    let shed = || {
        state.metrics.shed(Shed::InFlight, 1);
        ApiError::new(Code::Overloaded, "too many requests are in work")
    };
    require(!head.encoded, || {
        ApiError::new(Code::UnsupportedMediaType, "send the body without a content encoding")
    })?;
    let mut places = state.admission.places().ok_or_else(shed)?;
    require(head.length.is_none_or(|length| length <= max), too_large)?;
    // What is announced takes no place, only what has come.
    let mut bytes = BytesMut::new();
    while let Some(chunk) = next(payload).await {
        let chunk = chunk.map_err(|error| match error {
            PayloadError::Overflow => too_large(),
            _ => ApiError::new(Code::InvalidValue, "the body ended before its announced length"),
        })?;
        require(bytes.len() + chunk.len() <= max, too_large)?;
        places.grow(bytes.len() + chunk.len(), &state.admission).ok_or_else(shed)?;
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes.freeze(), places))
}

async fn next(payload: &mut Stream) -> Option<Result<Bytes, PayloadError>> {
    poll_fn(|context| payload.as_mut().poll_next(context)).await
}

/// Reads and drops the rest of a body. A connection that is closed while its client still sends
/// would be reset, and the client would never see why.
async fn drain(payload: &mut Stream) {
    let drain = async {
        let mut drained = 0;
        while let Some(Ok(chunk)) = next(payload).await {
            drained += chunk.len();
            if drained > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAINED_FOR_MAX, drain).await; // late: the connection is closed
}

/// [`drain`] for a route that reads no body.
pub(super) async fn drained(payload: web::Payload) {
    drain(&mut Box::pin(BodyStream::new(payload.into_inner()))).await;
}

impl Body {
    /// The JSON document that the body is said to be and is.
    pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
        &self,
        state: &State,
    ) -> Result<T, ApiError> {
        let json = self.media_type == "application/json" || self.media_type.ends_with("+json");
        require(json, || {
            let found = if self.media_type.is_empty() { "none" } else { &self.media_type };
            let message = format!("expected `Content-Type: application/json`, found {found}");
            ApiError::new(Code::UnsupportedMediaType, shortened(&message))
        })?;
        let begin = Instant::now();
        let bytes = self.bytes.clone();
        let parsed = if bytes.len() <= JSON_BYTES_AT_ONCE {
            parse(&bytes)
        } else {
            state.engine.short(self.deadline, move || parse(&bytes)).await?
        };
        state.metrics.stage(Stage::Parse, begin);
        parsed
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let code = match error.classify() {
            Category::Data => Code::InvalidValue,
            Category::Syntax | Category::Eof | Category::Io => Code::InvalidJson,
        };
        ApiError::new(code, shortened(&error.to_string()))
    })
}

/// Both ends of a long text: what is wrong, and where.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= JSON_ERROR_CHARS_MAX {
        return text.to_owned();
    }
    let half = JSON_ERROR_CHARS_MAX / 2;
    let start: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(count - half).collect();
    format!("{start}...{end}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form {
        n: u32,
    }

    #[test]
    fn json_that_is_none_is_told_from_json_that_is_another() {
        let check = |text: &[u8], code: Code, part: &str| {
            let error = parse::<Form>(text).expect_err(part);
            assert_eq!(error.code, code, "{}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
        };
        check(b"", Code::InvalidJson, "EOF");
        check(b"{\"n\":", Code::InvalidJson, "EOF");
        check(b"{\"n\":NaN}", Code::InvalidJson, "line 1 column 6");
        check(b"{\"n\":1} x", Code::InvalidJson, "trailing");
        check(b"\xff\xfe", Code::InvalidJson, "line 1");
        check(&[b'['; 100_000], Code::InvalidValue, "invalid type");
        check(b"{\"n\":\"1\"}", Code::InvalidValue, "expected u32");
        check(b"{\"n\":1,\"m\":2}", Code::InvalidValue, "unknown field `m`");
        check(b"{\"n\":1,\"n\":2}", Code::InvalidValue, "duplicate field");
        assert_eq!(parse::<Form>(b" {\"n\": 1}\n"), Ok(Form { n: 1 }));
    }

    #[test]
    fn an_error_never_quotes_a_whole_picture() {
        let text = format!("{{\"n\":\"{}\"}}", "é".repeat(1 << 20));
        let message = parse::<Form>(text.as_bytes()).expect_err("a text").message;
        assert!(message.len() < 600, "{}", message.len());
        assert!(message.starts_with("invalid type: string") && message.contains("expected u32"));
    }

    #[test]
    fn places_grow_with_the_body_and_are_given_back() {
        let limits =
            Limits { requests_max: 2, body_bytes_in_flight_max: 10 << 10, ..Limits::default() };
        let metrics = Arc::new(Metrics::new());
        let admission = Admission::new(&limits, Arc::clone(&metrics));
        let mut first = admission.places().expect("the first");
        let mut second = admission.places().expect("the second");
        assert!(admission.places().is_none(), "no third request");
        assert_eq!(metrics.requests_in_flight.get(), 2);
        assert!(first.grow(6 << 10, &admission).is_some());
        assert!(first.grow(6000, &admission).is_some(), "it has them already");
        assert!(second.grow(5 << 10, &admission).is_none(), "no place for as many bytes");
        drop(first);
        assert!(second.grow(10 << 10, &admission).is_some());
        assert!(admission.places().is_some());
        drop(second);
        assert_eq!(metrics.requests_in_flight.get(), 0);
    }
}

//! The one table from error code to HTTP status, and the only JSON form of an error.

use std::fmt;

use actix_web::{HttpResponse, ResponseError, http::StatusCode, http::header};
use serde::Serialize;
use serde_json::json;

/// What went wrong, as clients see it in `error.code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// A field is missing, unknown, of another type, or has a value that makes no sense.
    InvalidValue,
    /// A count, a length or a size is above a limit of this server.
    LimitExceeded,
    /// The bytes are no picture that could be decoded.
    InvalidImage,
    /// A vector has another length than the model's, is not finite, or has no direction.
    InvalidVector,
    /// A text has more tokens than the model reads.
    TextTooLong,
    /// The body is larger than this server takes.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is of a type that this route does not read.
    UnsupportedMediaType,
    /// No such route.
    UnknownRoute,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The request names a model that is not served here.
    UnknownModel,
    /// No index of this name.
    UnknownIndex,
    /// No item of this id.
    UnknownItem,
    /// The index holds vectors of another model.
    ModelMismatch,
    /// Too much work waits already.
    Overloaded,
    /// The work failed inside the server.
    Internal,
    /// The index could not be read or written.
    Storage,
    /// The server cannot answer now: it is stopping, or a worker is lost.
    Unavailable,
    /// The answer was not ready within the deadline.
    DeadlineExceeded,
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 20] = [
        Self::InvalidJson,
        Self::InvalidValue,
        Self::LimitExceeded,
        Self::InvalidImage,
        Self::InvalidVector,
        Self::TextTooLong,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::UnsupportedMediaType,
        Self::UnknownRoute,
        Self::MethodNotAllowed,
        Self::UnknownModel,
        Self::UnknownIndex,
        Self::UnknownItem,
        Self::ModelMismatch,
        Self::Overloaded,
        Self::Internal,
        Self::Storage,
        Self::Unavailable,
        Self::DeadlineExceeded,
    ];

    /// The HTTP status of this code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidJson
            | Self::InvalidValue
            | Self::LimitExceeded
            | Self::InvalidImage
            | Self::InvalidVector
            | Self::TextTooLong => StatusCode::BAD_REQUEST,
            Self::UnknownRoute | Self::UnknownModel | Self::UnknownIndex | Self::UnknownItem => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ModelMismatch => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal | Self::Storage => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The coarse kind, in OpenAI's words: `error.type`.
    pub fn kind(self) -> &'static str {
        match self.status() {
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::CONFLICT => "conflict_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// Seconds that a refused client is asked to wait.
const RETRY_AFTER_S: u32 = 1;

/// `{"message", "type", "param", "code"}`; the body of every answer that is not a success is
/// `{"error": <this>}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Which row of the table.
    pub code: Code,
    /// What was found and what was expected; never a file of the server.
    pub message: String,
    /// The field at fault, as in `labels[3]`.
    pub param: Option<String>,
    /// Methods that the route knows, for a 405.
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, allow: None }
    }

    /// Names the field at fault.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// A value that makes no sense at `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidValue, message).at(param)
    }

    /// `found` is above `max` at `param`.
    pub fn limit(param: impl Into<String>, what: &str, found: usize, max: usize) -> Self {
        Self::new(Code::LimitExceeded, format!("{found} {what}, the limit is {max}")).at(param)
    }

    fn body(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.message,
            "type": self.code.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status_code());
        if matches!(self.code, Code::Overloaded | Code::Unavailable) {
            answer.insert_header((header::RETRY_AFTER, RETRY_AFTER_S.to_string()));
        }
        if let Some(methods) = self.allow {
            answer.insert_header((header::ALLOW, methods));
        }
        answer.json(self.body())
    }
}

/// `Ok` when `holds`, otherwise the error of `refuse`.
pub fn require(holds: bool, refuse: impl FnOnce() -> ApiError) -> Result<(), ApiError> {
    if holds { Ok(()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status_and_its_own_name() {
        let mut names: Vec<String> = Code::ALL.iter().map(|code| json!(code).to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let status = code.status();
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
            let server = code.kind() == "server_error";
            assert_eq!(server, status.is_server_error(), "{code:?}");
        }
    }

    #[test]
    fn the_body_is_openai_s_shape() {
        let error = ApiError::limit("labels", "labels", 2000, 1000);
        let expected = json!({ "error": {
            "message": "2000 labels, the limit is 1000",
            "type": "invalid_request_error",
            "param": "labels",
            "code": "limit_exceeded",
        }});
        assert_eq!(error.body(), expected);
    }

    #[test]
    fn a_refusal_for_load_says_when_to_come_back() {
        let answer = ApiError::new(Code::Overloaded, "full").error_response();
        assert_eq!(answer.status(), 429);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
    }
}

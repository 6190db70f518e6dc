//! The routes, and what wraps each of them. A handler checks, calls, maps; it holds nothing else.

mod body;
mod check;
mod classify;
mod embeddings;
mod health;
mod indexes;
mod model;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix_web::{
    HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::Method,
    middleware::Next,
    web::{self, Data, ServiceConfig},
};
use clip::image::ImageError;

pub use self::body::Admission;
use self::body::drained;
use crate::{
    config::Limits,
    error::{ApiError, Code},
    index::{Indexes, embedded::IndexError},
    infer::{Engine, Failure, Fault, decoder::PictureError},
    observe::Metrics,
};

/// What every handler can reach.
#[derive(Debug)]
pub struct State {
    /// The model.
    pub engine: Engine,
    /// The indexes.
    pub indexes: Arc<Indexes>,
    /// What one client may ask for.
    pub limits: Limits,
    /// Places for requests and their bodies.
    pub admission: Admission,
    /// Name of the model in requests and answers.
    pub model_name: String,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Set when the server begins to stop.
    pub stopping: AtomicBool,
}

impl State {
    /// From now on the server counts as unwell, so that no new requests are sent to it.
    pub fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Finishes what waits and ends all threads.
    pub fn stop(&self) {
        self.engine.stop();
        self.indexes.stop();
    }
}

/// Every route, and the answers to what is none.
pub fn routes(config: &mut ServiceConfig) {
    let resource = |path: &'static str, methods: &'static str| {
        web::resource(path)
            .default_service(web::to(move |body: web::Payload| method_not_allowed(body, methods)))
    };
    config
        .service(resource("/v1/classify", "POST").route(web::post().to(classify::classify)))
        .service(resource("/v1/embeddings", "POST").route(web::post().to(embeddings::embeddings)))
        .service(resource("/v1/model", "GET").route(web::get().to(model::model)))
        .service(resource("/v1/indexes", "GET").route(web::get().to(indexes::list)))
        .service(
            resource("/v1/indexes/{index}", "GET, PUT, DELETE")
                .route(web::get().to(indexes::info))
                .route(web::put().to(indexes::create))
                .route(web::delete().to(indexes::delete)),
        )
        .service(
            resource("/v1/indexes/{index}/items", "POST").route(web::post().to(indexes::upsert)),
        )
        .service(
            resource("/v1/indexes/{index}/items/{id:.+}", "DELETE")
                .route(web::delete().to(indexes::remove)),
        )
        .service(
            resource("/v1/indexes/{index}/search", "POST").route(web::post().to(indexes::search)),
        )
        .service(
            resource("/healthz", "GET, HEAD")
                .route(web::get().to(health::healthz))
                .route(web::head().to(health::healthz)),
        )
        .service(resource("/metrics", "GET").route(web::get().to(health::metrics)))
        .default_service(web::to(unknown_route));
}

async fn method_not_allowed(body: web::Payload, methods: &'static str) -> Answer {
    drained(body).await;
    let mut error = ApiError::new(Code::MethodNotAllowed, format!("this route knows {methods}"));
    error.allow = Some(methods);
    Err(error)
}

async fn unknown_route(body: web::Payload) -> Answer {
    drained(body).await;
    Err(ApiError::new(Code::UnknownRoute, "there is no such route"))
}

/// What a handler gives.
type Answer = Result<HttpResponse, ApiError>;

/// What a fault is to the client; `param` names the field of the row that had it.
fn refusal(failure: Failure, param: impl Fn(usize) -> String) -> ApiError {
    let code = match &failure.fault {
        Fault::Picture(PictureError::Image(error)) => match error {
            ImageError::TooManyBytes { .. }
            | ImageError::TooManyPixels { .. }
            | ImageError::Side { .. }
            | ImageError::Aspect { .. } => Code::LimitExceeded,
            _ => Code::InvalidImage,
        },
        Fault::Picture(_) => Code::InvalidImage,
        Fault::TextTooLong { .. } => Code::TextTooLong,
        Fault::Text(_) => Code::InvalidValue,
        Fault::Overloaded(_) | Fault::Busy => Code::Overloaded,
        Fault::Deadline => Code::DeadlineExceeded,
        Fault::Broken(_) => Code::Internal,
        Fault::Stopping => Code::Unavailable,
    };
    let mut error = ApiError::new(code, failure.fault.to_string());
    error.param = failure.item.map(param).filter(|_| code.status().is_client_error());
    error
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        refusal(fault.into(), |_| String::new()) // it concerns no row
    }
}

impl From<IndexError> for ApiError {
    fn from(error: IndexError) -> Self {
        let code = match &error {
            IndexError::Unknown(_) => Code::UnknownIndex,
            IndexError::UnknownItem(_) => Code::UnknownItem,
            IndexError::OtherModel { .. } => Code::ModelMismatch,
            IndexError::Limit { .. } => Code::LimitExceeded,
            IndexError::Busy => Code::Overloaded,
            IndexError::Storage(_) => Code::Storage,
            IndexError::Stopping => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// Counts and times every request.
pub async fn observed(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let begin = Instant::now();
    let metrics = request.app_data::<Data<State>>().map(|state| Arc::clone(&state.metrics));
    let method = method_word(request.method());
    let route = request.match_pattern().unwrap_or_else(|| "unknown".into());
    let response = next.call(request).await?;
    if let Some(metrics) = metrics {
        metrics.answered(&route, method, response.status().as_u16(), begin.elapsed());
    }
    Ok(response)
}

/// A client may invent methods; a label value it may not.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

//! `GET /healthz` and `GET /metrics`: for the machines that watch this one.

use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, http::header::ContentType, web::Data};
use serde_json::json;

use super::{Answer, State};
use crate::error::{ApiError, Code, require};

/// Well only if every worker can take a batch, the indexes can be written, and nobody stops it.
pub(super) async fn healthz(state: Data<State>) -> Answer {
    let unwell = |message: String| ApiError::new(Code::Unavailable, message);
    let (well, wanted) = (state.engine.health().well(), state.engine.health().wanted());
    require(!state.stopping.load(Ordering::Acquire), || unwell("the server is stopping".into()))?;
    require(well == wanted, || unwell(format!("{well} of {wanted} workers are alive")))?;
    require(state.indexes.is_well(), || unwell("the indexes cannot be written".into()))?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ok", "workers": well })))
}

/// Prometheus' text format.
pub(super) async fn metrics(state: Data<State>) -> Answer {
    let kind =
        ContentType("text/plain; version=0.0.4; charset=utf-8".parse().map_err(|_| {
            ApiError::new(Code::Internal, "the media type of the metrics is wrong")
        })?);
    Ok(HttpResponse::Ok().insert_header(kind).body(state.metrics.render()))
}

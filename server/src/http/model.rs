//! `GET /v1/model`: what is served.

use actix_web::{HttpResponse, web::Data};
use serde::Serialize;

use super::{Answer, State};

#[derive(Serialize)]
struct Response<'a> {
    model: &'a str,
    sha256: &'a str,
    dim: usize,
    image_size: usize,
    context_length: usize,
    /// The *logarithm* of the factor on cosines.
    logit_scale: f32,
}

pub(super) async fn model(state: Data<State>) -> Answer {
    let config = state.engine.config();
    Ok(HttpResponse::Ok().json(Response {
        model: &state.model_name,
        sha256: &state.model_sha256,
        dim: config.dim,
        image_size: config.image.image_size(),
        context_length: config.text.context_length,
        logit_scale: state.engine.logit_scale(),
    }))
}

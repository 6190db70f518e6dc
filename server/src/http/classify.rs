//! `POST /v1/classify`: which of these labels each picture is nearest to.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web::Data};
use clip::{
    text::PromptTemplate,
    zero_shot::{ranked, scores},
};
use serde::{Deserialize, Serialize};

use super::{Answer, State, body::Body, check, refusal};
use crate::{
    error::{ApiError, Code},
    infer::decoder::Picture,
    observe::metrics::Stage,
};

/// The JSON form. Exactly one of `image` and `images`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: Option<String>,
    image: Option<String>,
    images: Option<Vec<String>>,
    labels: Vec<String>,
    templates: Option<Vec<String>>,
    top_k: Option<u64>,
}

/// What stands beside a picture that is the body itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryForm {
    model: Option<String>,
    /// Separated by commas.
    labels: String,
    template: Option<String>,
    top_k: Option<u64>,
}

/// A request that was checked.
struct Query {
    pictures: Vec<Picture>,
    /// The request had one `image`, not a list.
    single: bool,
    labels: Vec<String>,
    templates: Vec<PromptTemplate>,
    top_k: usize,
}

#[derive(Serialize)]
struct Response<'a> {
    model: &'a str,
    results: Vec<Scores<'a>>,
}

#[derive(Serialize)]
struct Scores<'a> {
    scores: Vec<Score<'a>>,
}

#[derive(Serialize)]
struct Score<'a> {
    label: &'a str,
    score: f32,
}

/// Products of two numbers that are scored where the request arrived; more on another thread.
const PRODUCTS_AT_ONCE: usize = 1 << 18;

/// Labels through the cache, pictures through the image tower, then the softmax over the labels.
pub(super) async fn classify(state: Data<State>, request: HttpRequest, body: Body) -> Answer {
    let query = match body.media_type.as_str() {
        "image/png" | "image/jpeg" | "image/jpg" | "image/webp" | "application/octet-stream" => {
            picture_query(&state, request.query_string(), &body)?
        }
        _ => json_query(&state, body.json(&state).await?)?,
    };
    let label_rows = state.engine.label_rows(&query.labels, &query.templates, body.deadline).await;
    let label_rows = label_rows.map_err(|error| refusal(error, |at| format!("labels[{at}]")))?;
    let rows = state.engine.embed_images(&query.pictures, body.deadline).await;
    let rows = rows.map_err(|error| refusal(error, |at| query.param(at)))?;

    let begin = Instant::now();
    let (logit_scale, top_k) = (state.engine.logit_scale(), query.top_k);
    let products = rows.values().len().saturating_mul(query.labels.len());
    let rank = move || -> Vec<Vec<(usize, f32)>> {
        rows.rows().map(|row| ranked(&scores(row, &label_rows, logit_scale), top_k)).collect()
    };
    let best = match products {
        ..=PRODUCTS_AT_ONCE => rank(),
        _ => state.engine.short(body.deadline, rank).await?,
    };
    state.metrics.stage(Stage::Score, begin);

    let score = |(at, score): (usize, f32)| Score { label: &query.labels[at], score };
    let named = |best: Vec<_>| Scores { scores: best.into_iter().map(score).collect() };
    let results = best.into_iter().map(named).collect();
    Ok(HttpResponse::Ok().json(Response { model: &state.model_name, results }))
}

fn json_query(state: &State, request: Request) -> Result<Query, ApiError> {
    let limits = &state.limits;
    check::model(state, request.model.as_deref())?;
    let (sent, single) = match (request.image, request.images) {
        (Some(image), None) => (vec![image], true),
        (None, Some(images)) => (images, false),
        (None, None) => return Err(ApiError::invalid("images", "there is no picture")),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("image", "send `image` or `images`, not both"));
        }
    };
    check::count("images", "pictures", sent.len(), limits.images_max)?;
    check::labels(&request.labels, limits)?;
    let templates = check::templates(request.templates, request.labels.len(), limits)?;
    let top_k = check::top_k(request.top_k, request.labels.len(), limits.labels_max)?;
    let mut query =
        Query { pictures: Vec::new(), single, labels: request.labels, templates, top_k };
    for (at, sent) in sent.iter().enumerate() {
        query.pictures.push(check::picture(|| query.param(at), sent)?);
    }
    Ok(query)
}

fn picture_query(state: &State, query: &str, body: &Body) -> Result<Query, ApiError> {
    let limits = &state.limits;
    let form = actix_web::web::Query::<QueryForm>::from_query(query);
    let form = form.map_err(|error| ApiError::new(Code::InvalidValue, error.to_string()))?;
    check::model(state, form.model.as_deref())?;
    let labels: Vec<String> = form.labels.split(',').map(|label| label.trim().into()).collect();
    check::labels(&labels, limits)?;
    let templates = form.template.as_ref().map(|template| vec![template.clone()]);
    let templates = check::templates(templates, labels.len(), limits)?;
    let top_k = check::top_k(form.top_k, labels.len(), limits.labels_max)?;
    let pictures = vec![Picture::Bytes(Arc::from(&*body.bytes))];
    Ok(Query { pictures, single: true, labels, templates, top_k })
}

impl Query {
    fn param(&self, at: usize) -> String {
        if self.single { "image".into() } else { format!("images[{at}]") }
    }
}

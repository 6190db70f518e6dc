//! `/v1/indexes`: named sets of vectors, filled and searched by text, picture or vector.

use std::{collections::HashSet, sync::Arc, time::Instant};

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use clip::UnitRows;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Answer, State, body::Body, check, refusal};
use crate::{
    error::{ApiError, Code, require},
    index::{
        Change, INDEX_NAME_BYTES_MAX, IndexInfo, IndexName, ItemId, Outcome, UnitRow,
        embedded::{Found, Item},
    },
    infer::{Fault, Overlong, decoder::Picture},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpsertRequest {
    items: Vec<ItemForm>,
}

/// Exactly one of `image`, `text` and `vector`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemForm {
    id: String,
    image: Option<String>,
    text: Option<String>,
    vector: Option<Vec<f32>>,
    metadata: Option<Map<String, Value>>,
}

/// Exactly one of `image`, `text` and `vector`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchRequest {
    image: Option<String>,
    text: Option<String>,
    vector: Option<Vec<f32>>,
    top_k: Option<u64>,
}

/// What becomes a row.
enum Source {
    Picture(Picture),
    Text(String),
    Row(UnitRow),
}

#[derive(Serialize)]
struct Info<'a> {
    name: &'a str,
    items: usize,
    dim: usize,
    model_sha256: &'a str,
    /// False if the index was made with another model.
    usable: bool,
}

#[derive(Serialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Serialize)]
struct Hit {
    id: String,
    /// The cosine.
    score: f32,
    metadata: Option<Value>,
}

/// Hits of a search that does not say how many.
const TOP_K_DEFAULT: usize = 10;

/// `GET /v1/indexes`
pub(super) async fn list(state: Data<State>) -> Answer {
    let indexes = state.indexes.list();
    let infos: Vec<Info<'_>> = indexes.iter().map(Info::of).collect();
    Ok(HttpResponse::Ok().json(json!({ "indexes": infos })))
}

/// `GET /v1/indexes/{index}`
pub(super) async fn info(state: Data<State>, path: Path<String>) -> Answer {
    let info = state.indexes.info(&parse_name(&path)?)?;
    Ok(HttpResponse::Ok().json(Info::of(&info)))
}

/// `PUT /v1/indexes/{index}`: 201 if it is new, 200 if it is there.
pub(super) async fn create(state: Data<State>, path: Path<String>, body: Body) -> Answer {
    let name = parse_name(&path)?;
    if !body.bytes.is_empty() {
        let _: CreateRequest = body.json(&state).await?;
    }
    let Outcome::Done { created } =
        changed(&state, Change::Create(name.clone()), body.deadline).await?;
    let info = state.indexes.info(&name)?;
    let mut answer = if created { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(Info::of(&info)))
}

/// `DELETE /v1/indexes/{index}`
pub(super) async fn delete(state: Data<State>, path: Path<String>) -> Answer {
    let name = parse_name(&path)?;
    changed(&state, Change::Delete(name.clone()), deadline(&state)).await?;
    Ok(HttpResponse::Ok().json(json!({ "name": name.as_str(), "deleted": true })))
}

/// `POST /v1/indexes/{index}/items`: durable once it is answered; makes the index if need be.
pub(super) async fn upsert(state: Data<State>, path: Path<String>, body: Body) -> Answer {
    let name = parse_name(&path)?;
    let request: UpsertRequest = body.json(&state).await?;
    let (heads, sources) = check_items(&state, request.items)?;
    refuse_foreign(&state, &name)?;
    let rows = embed(&state, sources, body.deadline, |at, field| format!("items[{at}].{field}"));
    let items: Vec<Item> = heads
        .into_iter()
        .zip(rows.await?)
        .map(|((id, metadata), row)| Item { id, row, metadata })
        .collect();
    let upserted = items.len();
    changed(&state, Change::Upsert(name.clone(), items), body.deadline).await?;
    let items = state.indexes.info(&name)?.items;
    Ok(HttpResponse::Ok().json(json!({ "upserted": upserted, "items": items })))
}

/// `DELETE /v1/indexes/{index}/items/{id}`
pub(super) async fn remove(state: Data<State>, path: Path<(String, String)>) -> Answer {
    let (name, id) = path.into_inner();
    let (name, id) = (parse_name(&name)?, parse_id(|| "id".into(), &id, &state)?);
    changed(&state, Change::Remove(name, id.clone()), deadline(&state)).await?;
    Ok(HttpResponse::Ok().json(json!({ "id": id.as_str(), "deleted": true })))
}

/// `POST /v1/indexes/{index}/search`
pub(super) async fn search(state: Data<State>, path: Path<String>, body: Body) -> Answer {
    let name = parse_name(&path)?;
    let request: SearchRequest = body.json(&state).await?;
    let top_k = check::top_k(request.top_k, TOP_K_DEFAULT, state.limits.top_k_max)?;
    let field = |field: &str| field.to_owned();
    let source = check_source(&state, field, (request.image, request.text, request.vector))?;
    state.indexes.check_usable(&name)?;
    let mut rows = embed(&state, vec![source], body.deadline, |_, field| field.into()).await?;
    let query = rows.pop().ok_or(Fault::Broken("no row for the query".into()))?;
    let indexes = Arc::clone(&state.indexes);
    let searched = state.engine.short(body.deadline, move || indexes.search(&name, &query, top_k));
    let hits = searched.await??.into_iter().map(Hit::of).collect::<Result<_, _>>()?;
    Ok(HttpResponse::Ok().json(Hits { hits }))
}

/// What is known of an item before its row is: its name, and its metadata as JSON.
type ItemHead = (ItemId, Option<String>);

fn check_items(
    state: &State,
    items: Vec<ItemForm>,
) -> Result<(Vec<ItemHead>, Vec<Source>), ApiError> {
    let limits = &state.limits;
    check::count("items", "items", items.len(), limits.items_max)?;
    let mut seen = HashSet::new();
    let (mut heads, mut sources) = (Vec::new(), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        let param = |field: &str| format!("items[{at}].{field}");
        let id = parse_id(|| param("id"), &item.id, state)?;
        require(seen.insert(id.clone()), || {
            ApiError::invalid(param("id"), "this id is there already")
        })?;
        let metadata = item.metadata.map(|map| Value::Object(map).to_string());
        let length = metadata.as_ref().map_or(0, String::len);
        require(length <= limits.metadata_bytes_max, || {
            ApiError::limit(param("metadata"), "bytes", length, limits.metadata_bytes_max)
        })?;
        heads.push((id, metadata));
        sources.push(check_source(state, param, (item.image, item.text, item.vector))?);
    }
    let pictures = sources.iter().filter(|source| matches!(source, Source::Picture(_))).count();
    require(pictures <= limits.images_max, || {
        ApiError::limit("items", "pictures", pictures, limits.images_max)
    })?;
    Ok((heads, sources))
}

fn check_source(
    state: &State,
    param: impl Fn(&str) -> String,
    sent: (Option<String>, Option<String>, Option<Vec<f32>>),
) -> Result<Source, ApiError> {
    match sent {
        (Some(image), None, None) => {
            Ok(Source::Picture(check::picture(|| param("image"), &image)?))
        }
        (None, Some(text), None) => {
            check::text(|| param("text"), &text, state.limits.text_chars_max)?;
            Ok(Source::Text(text))
        }
        (None, None, Some(values)) => {
            let dim = state.engine.config().dim;
            Ok(Source::Row(check::vector(|| param("vector"), values, dim)?))
        }
        (None, None, None) => {
            Err(ApiError::invalid(param("image"), "send `image`, `text` or `vector`"))
        }
        _ => Err(ApiError::invalid(param("image"), "send one of `image`, `text` and `vector`")),
    }
}

/// One row for each source, in their order.
async fn embed(
    state: &State,
    sources: Vec<Source>,
    deadline: Instant,
    param: impl Fn(usize, &str) -> String,
) -> Result<Vec<UnitRow>, ApiError> {
    let mut rows: Vec<Option<UnitRow>> = Vec::new();
    let (mut pictures, mut picture_places) = (Vec::new(), Vec::new());
    let (mut texts, mut text_places) = (Vec::new(), Vec::new());
    for (at, source) in sources.into_iter().enumerate() {
        rows.push(None);
        match source {
            Source::Row(row) => rows[at] = Some(row),
            Source::Picture(picture) => {
                pictures.push(picture);
                picture_places.push(at);
            }
            Source::Text(text) => {
                texts.push(text);
                text_places.push(at);
            }
        }
    }
    let mut place = |places: &[usize], embedded: &UnitRows| {
        for (&at, row) in places.iter().zip(embedded.rows()) {
            rows[at] = UnitRow::checked(row.to_vec());
        }
    };
    if !texts.is_empty() {
        let embedded = state.engine.embed_texts(texts, Overlong::Refuse, deadline).await;
        let named = |at: usize| param(text_places[at], "text");
        place(&text_places, &embedded.map_err(|error| refusal(error, named))?.rows);
    }
    if !pictures.is_empty() {
        let embedded = state.engine.embed_images(&pictures, deadline).await;
        let named = |at: usize| param(picture_places[at], "image");
        place(&picture_places, &embedded.map_err(|error| refusal(error, named))?);
    }
    // A worker never answers with a row that is not of unit length.
    let whole: Option<Vec<UnitRow>> = rows.into_iter().collect();
    whole.ok_or_else(|| Fault::Broken("the model gave no unit row".into()).into())
}

/// Leaves a change to the writer and waits for it to be durable.
async fn changed(state: &State, change: Change, deadline: Instant) -> Result<Outcome, ApiError> {
    let answer = state.indexes.change(change)?;
    let until = tokio::time::Instant::from_std(deadline);
    match tokio::time::timeout_at(until, answer).await {
        Ok(Ok(outcome)) => Ok(outcome?),
        Ok(Err(_)) => Err(ApiError::new(Code::Storage, "the write failed")),
        Err(_) => Err(ApiError::new(
            Code::DeadlineExceeded,
            "the change is not durable yet; it may still be made, and can be sent again",
        )),
    }
}

/// An index of another model is refused before anything is embedded for it.
fn refuse_foreign(state: &State, name: &IndexName) -> Result<(), ApiError> {
    match state.indexes.info(name) {
        Ok(info) if !info.usable => Ok(state.indexes.check_usable(name)?),
        _ => Ok(()), // it will be made
    }
}

fn deadline(state: &State) -> Instant {
    Instant::now() + state.limits.deadline()
}

fn parse_name(text: &str) -> Result<IndexName, ApiError> {
    IndexName::parse(text).ok_or_else(|| {
        let max = INDEX_NAME_BYTES_MAX;
        let message = format!(
            "the name of an index has 1 to {max} of `A-Z a-z 0-9 . _ -` and begins with a letter \
             or a digit"
        );
        ApiError::invalid("index", message)
    })
}

fn parse_id(param: impl Fn() -> String, text: &str, state: &State) -> Result<ItemId, ApiError> {
    let max = state.limits.id_bytes_max;
    ItemId::parse(text, max).ok_or_else(|| {
        let message = format!("an id has 1 to {max} bytes and no control characters");
        ApiError::invalid(param(), message)
    })
}

impl<'a> Info<'a> {
    fn of(info: &'a IndexInfo) -> Self {
        Self {
            name: info.name.as_str(),
            items: info.items,
            dim: info.model.dim,
            model_sha256: &info.model.sha256,
            usable: info.usable,
        }
    }
}

impl Hit {
    /// Rounding may carry a cosine past 1 by one bit.
    fn of(found: Found) -> Result<Self, ApiError> {
        let metadata = found.metadata.map(|json| serde_json::from_str(&json)).transpose();
        let metadata = metadata
            .map_err(|_| ApiError::new(Code::Storage, "the metadata of an item is damaged"))?;
        let score = found.cosine.clamp(-1.0, 1.0);
        Ok(Self { id: found.id.as_str().to_owned(), score, metadata })
    }
}

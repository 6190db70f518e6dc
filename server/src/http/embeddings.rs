//! `POST /v1/embeddings`: OpenAI's shape, for texts and for pictures.

use actix_web::{HttpResponse, http::header::ContentType, web::Data};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{Answer, State, body::Body, check, refusal};
use crate::{
    error::{ApiError, Code, require},
    infer::{Overlong, decoder::Picture},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: Option<String>,
    input: Input,
    /// What the strings of `input` are; `text` if the request does not say.
    modality: Option<Modality>,
    encoding_format: Option<Encoding>,
    /// OpenAI's field: only the model's own width.
    dimensions: Option<u64>,
    /// OpenAI's field: not used.
    #[expect(dead_code, reason = "clients send it; nothing here depends on it")]
    user: Option<String>,
    /// Cut texts that are too long instead of refusing them.
    #[serde(default)]
    truncate: bool,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`input` must be a string or a list of strings, `{\"text\": ...}` and \
                 `{\"image\": ...}`; lists of token ids are not read"
)]
enum Input {
    One(String),
    Many(Vec<Entry>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Plain(String),
    Named(Named),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    Text(String),
    Image(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Modality {
    Text,
    Image,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Response {
    object: &'static str,
    model: String,
    data: Vec<Embedding>,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Values,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Values {
    Float(Vec<f32>),
    /// Little-endian f32.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// The inputs by kind, each with its place in the request.
#[derive(Default)]
struct Sorted {
    texts: Vec<String>,
    text_places: Vec<usize>,
    pictures: Vec<Picture>,
    picture_places: Vec<usize>,
}

/// Numbers of an answer that are printed where the request arrived; more on another thread.
const NUMBERS_AT_ONCE: usize = 1 << 15;

/// Texts through the text tower, pictures through the image tower, in the order of the input.
pub(super) async fn embeddings(state: Data<State>, body: Body) -> Answer {
    let request: Request = body.json(&state).await?;
    check::model(&state, request.model.as_deref())?;
    let dim = state.engine.config().dim;
    require(request.dimensions.is_none_or(|asked| asked == dim as u64), || {
        ApiError::invalid("dimensions", format!("this model has {dim} dimensions, no others"))
    })?;
    let encoding = request.encoding_format.unwrap_or_default();
    let overlong = if request.truncate { Overlong::Truncate } else { Overlong::Refuse };
    let single = matches!(request.input, Input::One(_));
    let param = |at: usize| if single { "input".into() } else { format!("input[{at}]") };
    let sorted = sort(&state, request, param)?;

    let mut rows: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut tokens = 0;
    if !sorted.texts.is_empty() {
        let embedded = state.engine.embed_texts(sorted.texts, overlong, body.deadline).await;
        let places = &sorted.text_places;
        let embedded = embedded.map_err(|error| refusal(error, |at| param(places[at])))?;
        tokens = embedded.tokens;
        rows.extend(places.iter().copied().zip(embedded.rows.rows().map(<[f32]>::to_vec)));
    }
    if !sorted.pictures.is_empty() {
        let embedded = state.engine.embed_images(&sorted.pictures, body.deadline).await;
        let places = &sorted.picture_places;
        let embedded = embedded.map_err(|error| refusal(error, |at| param(places[at])))?;
        rows.extend(places.iter().copied().zip(embedded.rows().map(<[f32]>::to_vec)));
    }
    rows.sort_by_key(|&(place, _)| place);
    let (numbers, model) = (rows.len() * dim, state.model_name.clone());
    let print = move || -> serde_json::Result<Vec<u8>> {
        let embedding = |(index, row)| Embedding {
            object: "embedding",
            index,
            embedding: Values::of(row, encoding),
        };
        let data = rows.into_iter().map(embedding).collect();
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
        serde_json::to_vec(&Response { object: "list", model, data, usage })
    };
    let printed = match numbers {
        ..=NUMBERS_AT_ONCE => print(),
        _ => state.engine.short(body.deadline, print).await?,
    };
    let printed = printed.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(printed))
}

fn sort(
    state: &State,
    request: Request,
    param: impl Fn(usize) -> String,
) -> Result<Sorted, ApiError> {
    let limits = &state.limits;
    let entries = match request.input {
        Input::One(text) => vec![Entry::Plain(text)],
        Input::Many(entries) => entries,
    };
    check::count("input", "inputs", entries.len(), limits.texts_max.max(limits.images_max))?;
    let mut sorted = Sorted::default();
    for (at, entry) in entries.into_iter().enumerate() {
        let named = match (entry, request.modality) {
            (Entry::Named(named), _) => named,
            (Entry::Plain(sent), Some(Modality::Image)) => Named::Image(sent),
            (Entry::Plain(sent), Some(Modality::Text)) => Named::Text(sent),
            (Entry::Plain(sent), None) => {
                require(!sent.starts_with("data:image/"), || {
                    let message = "this is a picture: say so with `\"modality\": \"image\"`";
                    ApiError::invalid(param(at), message)
                })?;
                Named::Text(sent)
            }
        };
        match named {
            Named::Text(text) => {
                check::text(|| param(at), &text, limits.text_chars_max)?;
                sorted.texts.push(text);
                sorted.text_places.push(at);
            }
            Named::Image(sent) => {
                sorted.pictures.push(check::picture(|| param(at), &sent)?);
                sorted.picture_places.push(at);
            }
        }
    }
    let (texts, pictures) = (sorted.texts.len(), sorted.pictures.len());
    require(texts <= limits.texts_max, || {
        ApiError::limit("input", "texts", texts, limits.texts_max)
    })?;
    require(pictures <= limits.images_max, || {
        ApiError::limit("input", "pictures", pictures, limits.images_max)
    })?;
    Ok(sorted)
}

impl Values {
    fn of(row: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Float(row),
            Encoding::Base64 => {
                let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_of_input_is_read_and_token_ids_are_not() {
        let check = |input: &str, expected: Option<&str>| {
            let text = format!(r#"{{"input":{input}}}"#);
            let found = serde_json::from_str::<Request>(&text).map(|request| request.input);
            assert_eq!(found.ok().map(|input| format!("{input:?}")).as_deref(), expected, "{text}");
        };
        check(r#""a""#, Some(r#"One("a")"#));
        check(r#"["a"]"#, Some(r#"Many([Plain("a")])"#));
        let both = r#"Many([Named(Text("a")), Named(Image("b")), Plain("c")])"#;
        check(r#"[{"text":"a"},{"image":"b"},"c"]"#, Some(both));
        for refused in ["[1,2]", "[[1]]", "3", "null", r#"[{"audio":"x"}]"#, "{}"] {
            check(refused, None);
        }
        check(r#"[{"text":"a","image":"b"}]"#, None);
    }

    #[test]
    fn base64_is_little_endian_f32() {
        let Values::Base64(text) = Values::of(vec![1.0, -2.5], Encoding::Base64) else {
            panic!("base64 was asked for");
        };
        let bytes = BASE64_STANDARD.decode(text).expect("base64");
        assert_eq!(bytes, [0, 0, 128, 63, 0, 0, 32, 192]);
    }
}

//! Checks that several routes share; they decide every 400 about values.

use std::collections::HashSet;

use clip::text::{PromptTemplate, TextError, default_templates};

use super::State;
use crate::{
    config::Limits,
    error::{ApiError, Code, require},
    index::UnitRow,
    infer::decoder::Picture,
};

/// A request may name the model; it must then be the one that is served.
pub(super) fn model(state: &State, asked: Option<&str>) -> Result<(), ApiError> {
    let served = &state.model_name;
    match asked {
        Some(asked) if asked != served => {
            let message = format!("this server has the model `{served}` only");
            Err(ApiError::new(Code::UnknownModel, message).at("model"))
        }
        _ => Ok(()),
    }
}

/// 1 to `max` entries.
pub(super) fn count(param: &str, what: &str, found: usize, max: usize) -> Result<(), ApiError> {
    require(found > 0, || ApiError::invalid(param, format!("there are no {what}")))?;
    require(found <= max, || ApiError::limit(param, what, found, max))
}

/// Labels that can be told apart, none too long.
pub(super) fn labels(labels: &[String], limits: &Limits) -> Result<(), ApiError> {
    count("labels", "labels", labels.len(), limits.labels_max)?;
    let mut seen = HashSet::new();
    for (place, label) in labels.iter().enumerate() {
        let param = || format!("labels[{place}]");
        text(param, label, limits.label_chars_max)?;
        require(seen.insert(label.trim()), || {
            ApiError::invalid(param(), "this label is there already")
        })?;
    }
    Ok(())
}

/// Templates with one place for the label each; the usual one if none are given.
pub(super) fn templates(
    given: Option<Vec<String>>,
    labels: usize,
    limits: &Limits,
) -> Result<Vec<PromptTemplate>, ApiError> {
    let templates = match given {
        None => default_templates(),
        Some(given) => {
            count("templates", "templates", given.len(), limits.templates_max)?;
            let mut seen = HashSet::new();
            let mut templates = Vec::new();
            for (place, template) in given.iter().enumerate() {
                let param = || format!("templates[{place}]");
                text(param, template, limits.label_chars_max)?;
                require(seen.insert(template), || {
                    ApiError::invalid(param(), "this template is there already")
                })?;
                let parsed: Result<PromptTemplate, _> = template.parse();
                let refuse = |error: TextError| ApiError::invalid(param(), error.to_string());
                templates.push(parsed.map_err(refuse)?);
            }
            templates
        }
    };
    let captions = labels.saturating_mul(templates.len());
    require(captions <= limits.captions_max, || {
        ApiError::limit("templates", "labels times templates", captions, limits.captions_max)
    })?;
    Ok(templates)
}

/// A text with something in it, of at most `chars_max` characters.
pub(super) fn text(
    param: impl Fn() -> String,
    text: &str,
    chars_max: usize,
) -> Result<(), ApiError> {
    require(!text.trim().is_empty(), || ApiError::invalid(param(), "the text is empty"))?;
    let chars = text.chars().count();
    require(chars <= chars_max, || ApiError::limit(param(), "characters", chars, chars_max))
}

/// How many answers: 1 to `max`; at most `default` if the request does not say.
pub(super) fn top_k(asked: Option<u64>, default: usize, max: usize) -> Result<usize, ApiError> {
    let asked = asked.unwrap_or(default.min(max) as u64);
    require(asked > 0, || ApiError::invalid("top_k", "`top_k` is at least 1"))?;
    let asked = usize::try_from(asked).unwrap_or(usize::MAX);
    require(asked <= max, || ApiError::limit("top_k", "answers", asked, max))?;
    Ok(asked)
}

/// Base64 or a `data:` URI; what is in it shows when it is decoded.
pub(super) fn picture(param: impl Fn() -> String, sent: &str) -> Result<Picture, ApiError> {
    Picture::parse(sent)
        .map_err(|error| ApiError::new(Code::InvalidImage, error.to_string()).at(param()))
}

/// A vector of the model's length with a direction.
pub(super) fn vector(
    param: impl Fn() -> String,
    values: Vec<f32>,
    dim: usize,
) -> Result<UnitRow, ApiError> {
    let refuse = |message: String| ApiError::new(Code::InvalidVector, message).at(param());
    let found = values.len();
    require(found == dim, || refuse(format!("the vector has {found} values, expected {dim}")))?;
    require(values.iter().all(|value| value.is_finite()), || {
        refuse("the vector has a value that is not finite".into())
    })?;
    UnitRow::normalize(values).ok_or_else(|| refuse("the vector is zero".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            labels_max: 3,
            label_chars_max: 8,
            templates_max: 3,
            captions_max: 4,
            ..Limits::default()
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn labels_are_few_short_and_different() {
        let check = |given: &[&str], expected: Option<(Code, &str)>| {
            let found = labels(&words(given), &limits()).err();
            let found = found.as_ref().map(|e| (e.code, e.param.as_deref().unwrap_or_default()));
            assert_eq!(found, expected, "{given:?}");
        };
        check(&["cat", "dog"], None);
        check(&["äöüßäöüß"], None);
        check(&[], Some((Code::InvalidValue, "labels")));
        check(&["a", "b", "c", "d"], Some((Code::LimitExceeded, "labels")));
        check(&["a", " "], Some((Code::InvalidValue, "labels[1]")));
        check(&["123456789"], Some((Code::LimitExceeded, "labels[0]")));
        check(&["cat", "dog", " cat"], Some((Code::InvalidValue, "labels[2]")));
    }

    #[test]
    fn templates_have_one_place_and_are_not_too_many() {
        let check = |given: Option<&[&str]>, expected: Result<usize, Code>| {
            let found = templates(given.map(words), 2, &limits());
            assert_eq!(found.map(|it| it.len()).map_err(|error| error.code), expected, "{given:?}");
        };
        check(None, Ok(1));
        check(Some(&["a {}", "{}"]), Ok(2));
        check(Some(&[]), Err(Code::InvalidValue));
        check(Some(&["a cat"]), Err(Code::InvalidValue));
        check(Some(&["{} {}"]), Err(Code::InvalidValue));
        check(Some(&["{}", "{}"]), Err(Code::InvalidValue));
        check(Some(&["a", "b", "c", "d"]), Err(Code::LimitExceeded));
        check(Some(&["{}1", "{}2", "{}3"]), Err(Code::LimitExceeded));
    }

    #[test]
    fn a_vector_has_the_model_s_length_and_a_direction() {
        let check = |values: &[f32], sound: bool| {
            let found = vector(|| "vector".into(), values.to_vec(), 2);
            assert_eq!(found.is_ok(), sound, "{values:?}");
            assert!(found.err().is_none_or(|error| error.code == Code::InvalidVector));
        };
        check(&[3.0, 4.0], true);
        check(&[1e-30, 1e30], true);
        for values in [&[][..], &[1.0], &[1.0; 3], &[0.0; 2], &[f32::INFINITY, 1.0]] {
            check(values, false);
        }
    }

    #[test]
    fn top_k_is_one_to_the_limit() {
        assert_eq!(top_k(None, 10, 20), Ok(10));
        assert_eq!(top_k(None, 10, 5), Ok(5));
        assert_eq!(top_k(Some(20), 10, 20), Ok(20));
        assert!(top_k(Some(0), 10, 20).is_err());
        assert!(top_k(Some(21), 10, 20).is_err());
        assert!(top_k(Some(u64::MAX), 10, 20).is_err());
    }
}

//! Reading the JSON of a configuration: values by key, and errors that name the key.

use serde_json::{Map, Value};

/// Blocks of a tower or of a stage that a configuration may ask for.
const LAYERS_MAX: usize = 1024;
/// Epsilon of every LayerNorm and BatchNorm.
pub(super) const EPSILON: f64 = 1e-5;

/// A JSON object that knows where it stands.
pub(super) struct Section<'a> {
    pub(super) prefix: String,
    pub(super) values: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    pub(super) fn of(prefix: &str, value: &'a Value) -> Result<Self, String> {
        let values = value.as_object().ok_or(format!("`{prefix}` is not a JSON object"))?;
        Ok(Self { prefix: prefix.to_owned(), values })
    }

    pub(super) fn section(&self, key: &str) -> Result<Self, String> {
        let value = self.values.get(key).ok_or(format!("`{key}` is missing"))?;
        Self::of(&format!("{key}."), value)
    }

    pub(super) fn text(&self, key: &str, default: &'static str) -> Result<&'a str, String> {
        let Some(value) = self.values.get(key) else { return Ok(default) };
        value.as_str().ok_or(format!("`{}{key}` is `{value}`, expected a text", self.prefix))
    }

    /// A whole number; a `default` of 0 means that the key must be there.
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, String> {
        match self.values.get(key) {
            None if default > 0 => Ok(default),
            None => Err(format!("`{}{key}` is missing", self.prefix)),
            Some(value) => {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.ok_or(format!("`{}{key}` is `{value}`, expected a size", self.prefix))
            }
        }
    }

    pub(super) fn layers(&self, key: &str, default: usize) -> Result<usize, String> {
        let layers = self.size(key, default)?;
        match layers {
            1..=LAYERS_MAX => Ok(layers),
            _ => Err(format!("`{}{key}`: {layers} is not 1 to {LAYERS_MAX}", self.prefix)),
        }
    }

    /// A size that our towers cannot choose.
    pub(super) fn fixed(&self, key: &str, expected: usize, default: usize) -> Result<(), String> {
        match self.size(key, default)? {
            found if found == expected => Ok(()),
            found => Err(format!("`{}{key}` is {found}, expected {expected}", self.prefix)),
        }
    }

    pub(super) fn epsilon(&self) -> Result<(), String> {
        match self.values.get("layer_norm_eps").map_or(Some(EPSILON), Value::as_f64) {
            Some(epsilon) if (epsilon - EPSILON).abs() < 1e-9 => Ok(()),
            _ => Err(format!("`{}layer_norm_eps` is not {EPSILON}", self.prefix)),
        }
    }

    /// The blocks of a ModifiedResNet's four stages.
    pub(super) fn stages(&self, key: &str) -> Result<[usize; 4], String> {
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        let layers: Option<Vec<usize>> =
            self.values.get(key).and_then(|value| value.as_array()?.iter().map(count).collect());
        layers
            .filter(|layers| layers.iter().all(|&count| count <= LAYERS_MAX))
            .and_then(|layers| layers.try_into().ok())
            .ok_or(format!("`{}{key}` is not four numbers up to {LAYERS_MAX}", self.prefix))
    }

    /// A number per channel.
    pub(super) fn three(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
        let Some(value) = self.values.get(key) else { return Ok(default) };
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let numbers: Option<Vec<f32>> =
            value.as_array().and_then(|list| list.iter().map(number).collect());
        numbers
            .and_then(|numbers| numbers.try_into().ok())
            .ok_or(format!("`{}{key}` is not a list of three numbers", self.prefix))
    }

    /// Refuses a key that is not `free` to have any value: those of `fixed` have one value only,
    /// or, where that is null, must be absent.
    pub(super) fn only(&self, free: &[&str], fixed: &[(&str, Value)]) -> Result<(), String> {
        let number = |value: &Value| value.as_f64();
        for (key, value) in self.values.iter().filter(|(key, _)| !free.contains(&key.as_str())) {
            let refuse = |what: &str| Err(format!("`{}{key}` is `{value}`, {what}", self.prefix));
            match fixed.iter().find(|(known, _)| known == key).map(|(_, fixed)| fixed) {
                None | Some(Value::Null) => return refuse("which these towers do not have"),
                Some(fixed) if fixed == value => {}
                Some(fixed) if fixed.is_number() && number(fixed) == number(value) => {}
                Some(fixed) => return refuse(&format!("expected `{fixed}`")),
            }
        }
        Ok(())
    }
}

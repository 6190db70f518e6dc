//! The `key=value,key=value` part of a trigger's textual form.

use std::collections::BTreeMap;

const SIDE_MAX: u32 = 32_768;

/// Keys that were typed and not asked for yet.
pub(super) struct Keys<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Keys<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, String> {
        let mut keys = BTreeMap::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("`{part}`: expected `key=value`"))?;
            if keys.insert(key, value).is_some() {
                return Err(format!("`{key}` occurs twice"));
            }
        }
        Ok(Self(keys))
    }

    pub(super) fn take(&mut self, key: &str) -> Option<&'a str> {
        self.0.remove(key)
    }

    /// A count of pixels or of cells.
    pub(super) fn side(&mut self, key: &str) -> Result<Option<u32>, String> {
        self.count(key, SIDE_MAX)
    }

    /// From 1 to `max`.
    pub(super) fn count(&mut self, key: &str, max: u32) -> Result<Option<u32>, String> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.parse() {
            Ok(count) if (1..=max).contains(&count) => Ok(Some(count)),
            _ => Err(format!("`{key}={text}`: expected a whole number from 1 to {max}")),
        }
    }

    /// Above 0, at most `max`.
    pub(super) fn number(&mut self, key: &str, default: f32, max: f32) -> Result<f32, String> {
        let Some(text) = self.take(key) else { return Ok(default) };
        match text.parse() {
            Ok(number) if 0.0 < number && number <= max => Ok(number),
            _ => Err(format!("`{key}={text}`: expected a number above 0, at most {max}")),
        }
    }

    /// From 0 on, below 1.
    pub(super) fn share(&mut self, key: &str) -> Result<f32, String> {
        let Some(text) = self.take(key) else { return Ok(0.0) };
        match text.parse() {
            Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
            _ => Err(format!("`{key}={text}`: expected a number from 0 on, below 1")),
        }
    }

    /// A name of `names`, or `default`.
    pub(super) fn name<T: Copy>(
        &mut self,
        key: &str,
        names: &[(T, &str)],
        default: T,
    ) -> Result<T, String> {
        let Some(text) = self.take(key) else { return Ok(default) };
        let named = names.iter().find(|(_, name)| *name == text);
        named.map(|&(value, _)| value).ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|&(_, name)| name).collect();
            format!("`{key}={text}`: expected one of {}", names.join(", "))
        })
    }

    /// A seed; 0 if none was typed.
    pub(super) fn seed(&mut self, key: &str) -> Result<u64, String> {
        let Some(text) = self.take(key) else { return Ok(0) };
        text.parse().map_err(|_| format!("`{key}={text}`: expected a whole number from 0 on"))
    }

    pub(super) fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(key) => Err(format!("`{key}` is not a key of this trigger")),
            None => Ok(()),
        }
    }
}

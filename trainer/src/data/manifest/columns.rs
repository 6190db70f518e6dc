//! Which column of a table holds what.

use std::{borrow::Cow, path::Path};

use super::Reading;
use crate::data::row::{self, Row};

/// Names of columns; without, the defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys<'a> {
    /// Paths of pictures: `path`
    pub image: Option<&'a str>,
    /// Captions: `caption`. The same key of a sample's `.json`, too
    pub caption: Option<&'a str>,
    /// Classes: `class`, which may be missing; a name that is given may not
    pub class: Option<&'a str>,
}

impl<'a> Keys<'a> {
    pub(in crate::data) fn image(self) -> &'a str {
        self.image.unwrap_or("path")
    }

    pub(in crate::data) fn caption(self) -> &'a str {
        self.caption.unwrap_or("caption")
    }

    pub(in crate::data) fn class(self) -> &'a str {
        self.class.unwrap_or("class")
    }
}

/// Numbers of the columns that are read.
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) caption: usize,
    pub(super) class: Option<usize>,
}

impl Columns {
    /// Refuses a name that is missing, and one that two columns have.
    pub(super) fn of(names: &[Cow<str>], reading: &Reading) -> Result<Self, String> {
        let keys = reading.keys;
        let find = |key: &str| {
            let mut found = names.iter().enumerate().filter(|(_, name)| *name == key);
            let first = found.next().map(|(number, _)| number);
            match found.next() {
                None => Ok(first),
                Some(_) => Err(format!("there are two columns `{}`", row::quoted(key))),
            }
        };
        let needed = |key: &str| {
            find(key)?.ok_or_else(|| {
                let all = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                format!("there is no column `{key}`, there are {}", row::quoted(&all.join(", ")))
            })
        };
        let class = match find(keys.class())? {
            None if keys.class.is_some() => Some(needed(keys.class())?),
            None if reading.classes.needed() => {
                let key = keys.class();
                return Err(format!("there is no column `{key}`, which is needed here"));
            }
            found => found,
        };
        Ok(Self { image: needed(keys.image())?, caption: needed(keys.caption())?, class })
    }

    /// A row of what `text` says of a column by number and name. Else what is wrong with it, behind
    /// its picture as far as it is known.
    pub(super) fn row<'a>(
        &self,
        text: impl Fn(usize, &str) -> Result<Cow<'a, str>, String>,
        folder: &Path,
        reading: &Reading,
    ) -> Result<Row, (String, String)> {
        let image = text(self.image, "path").and_then(|path| row::file(&path, folder));
        let image = image.map_err(|problem| (String::new(), problem))?;
        let caption = text(self.caption, "caption").and_then(|caption| row::caption(&caption));
        let class = |column| reading.classes.of(&text(column, "class")?);
        let rest = || Ok((caption?, self.class.map_or(Ok(None), class)?));
        match rest() {
            Ok((caption, class)) => Ok(Row { image, caption, class }),
            Err(problem) => Err((image.to_string(), problem)),
        }
    }
}

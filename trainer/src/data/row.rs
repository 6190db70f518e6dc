//! One pair of a manifest, and what its fields may hold.

use std::{fmt, path::Path};

use super::ImageSource;

/// One picture with its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The picture, not opened yet.
    pub image: ImageSource,
    /// Never empty, at most 10,000 bytes.
    pub caption: String,
    /// Index of the picture's class, where the manifest knows it.
    pub class: Option<usize>,
}

/// Bytes of a caption; the tokenizer cuts far below it.
pub(crate) const CAPTION_BYTES_MAX: usize = 10_000;
/// Characters of a field that an error quotes.
const QUOTED_CHARS: usize = 80;

/// Where in a table something is; nowhere in particular is in the [`Place::Whole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file.
    Whole,
    /// Of a table of text; the header is line 1.
    Line(u64),
    /// A row.
    Row {
        /// Counted from 0, the header not counted
        row: u32,
        /// Where it begins in a table of text
        line: Option<u64>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Line(line) => write!(f, ", line {line}"),
            Self::Row { row, line: None } => write!(f, ", row {row}"),
            Self::Row { row, line: Some(line) } => write!(f, ", row {row} (line {line})"),
        }
    }
}

/// What a class field may hold.
#[derive(Debug, Clone, Copy, Default)]
pub enum Classes<'a> {
    /// Whatever is no index is no class.
    #[default]
    Unnamed,
    /// A label or the index of one; a label that looks like a number is a label first.
    Named {
        /// All there are.
        labels: &'a [String],
        /// Whether every row must have one.
        needed: bool,
    },
}

impl Classes<'_> {
    /// Must every row have one?
    pub(super) fn needed(self) -> bool {
        matches!(self, Self::Named { needed: true, .. })
    }

    /// What a field says; an empty one says nothing.
    pub(super) fn of(self, field: &str) -> Result<Option<usize>, String> {
        let field = field.trim();
        match self {
            Self::Unnamed => Ok(field.parse().ok()),
            Self::Named { needed: true, .. } if field.is_empty() => {
                Err("the class is empty".into())
            }
            Self::Named { .. } if field.is_empty() => Ok(None),
            Self::Named { labels, .. } => {
                let index = || field.parse().ok().filter(|&index| index < labels.len());
                let found = labels.iter().position(|label| label == field).or_else(index);
                let last = labels.len().saturating_sub(1);
                let refuse = || {
                    let field = quoted(field);
                    format!("the class `{field}` is neither a label nor a number from 0 to {last}")
                };
                found.map(Some).ok_or_else(refuse)
            }
        }
    }
}

/// A caption without the space around it.
pub(super) fn caption(field: &str) -> Result<String, String> {
    let caption = field.trim();
    match caption.len() {
        0 => Err("the caption is empty".into()),
        1..=CAPTION_BYTES_MAX => Ok(caption.to_owned()),
        found => Err(format!("the caption has {found} bytes, the limit is {CAPTION_BYTES_MAX}")),
    }
}

/// A picture's file; a relative path starts from `folder`.
pub(super) fn file(field: &str, folder: &Path) -> Result<ImageSource, String> {
    if field.is_empty() || field.contains('\0') {
        return Err("the path is empty or no path".into());
    }
    Ok(folder.join(field).into())
}

/// The beginning of a field.
pub(super) fn quoted(field: &str) -> String {
    field.chars().take(QUOTED_CHARS).collect()
}

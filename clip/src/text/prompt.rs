//! Labels, templates, and the files that hold them one per line.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
    str::FromStr,
};

use super::{TextError, imagenet_templates};
use crate::{Error, Result};

/// Bytes of a label or template file.
const LINES_BYTES_MAX: u64 = 16 << 20;
/// What a template puts in place of the label.
const PLACE: &str = "{}";

/// A caption with one place for a label: `a photo of a {}.`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    text: String,
}

impl PromptTemplate {
    /// The caption of `label`; a `{}` inside the label stays as it is.
    pub fn fill(&self, label: &str) -> String {
        self.text.replacen(PLACE, label, 1)
    }
}

impl FromStr for PromptTemplate {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        match text.matches(PLACE).count() {
            1 => Ok(Self { text: text.to_owned() }),
            found => Err(TextError::Template { template: text.to_owned(), found }),
        }
    }
}

impl std::fmt::Display for PromptTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is used where no template was chosen: `a photo of a {}.` (CLIP, section 3.1.4).
pub fn default_templates() -> Vec<PromptTemplate> {
    vec![PromptTemplate { text: "a photo of a {}.".into() }]
}

/// The lines of a UTF-8 file, trimmed, in their order. At least one; refuses empty lines before
/// the last full one and lines that occur twice, by number.
pub fn read_lines(path: &Path) -> Result<Vec<String>> {
    let refuse = |problem: String| Err(Error::File { path: path.to_owned(), problem });
    let text = read_text(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
    if text.is_empty() {
        return refuse("the file is empty, expected one entry per line".into());
    }
    let mut rows = HashMap::new();
    let mut lines = Vec::new();
    for (row, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() {
            return refuse(format!("row {row} is empty"));
        }
        if let Some(first) = rows.insert(line, row) {
            return refuse(format!("row {row} repeats row {first}: `{line}`"));
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LINES_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LINES_BYTES_MAX {
        let problem = format!("more than {LINES_BYTES_MAX} bytes, the limit");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

/// The labels of a file, one per line; the index is the class.
pub fn read_labels(path: &Path) -> Result<Vec<String>> {
    read_lines(path)
}

/// The templates of a set that has a name, `imagenet` ([`imagenet_templates`]), or of a file
/// ([`read_templates`]); a file of such a name is `./imagenet`.
pub fn open_templates(name: &Path) -> Result<Vec<PromptTemplate>> {
    match name.to_str() {
        Some("imagenet") => Ok(imagenet_templates()),
        _ => read_templates(name),
    }
}

/// The prompt templates of a file, one per line.
pub fn read_templates(path: &Path) -> Result<Vec<PromptTemplate>> {
    let parse = |(row, line): (usize, String)| {
        line.parse().map_err(|error: TextError| Error::File {
            path: path.to_owned(),
            problem: format!("row {row}: {error}"),
        })
    };
    (1..).zip(read_lines(path)?).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_one_place() {
        let check = |text: &str, found| match text.parse::<PromptTemplate>() {
            Ok(template) => assert_eq!((1, template.to_string()), (found, text.to_owned())),
            Err(error) => {
                assert_eq!(error, TextError::Template { template: text.to_owned(), found });
            }
        };
        check("a photo of a {}.", 1);
        check("{}", 1);
        check("a photo", 0);
        check("{} beside {}", 2);
        check("", 0);
        let error = "a photo".parse::<PromptTemplate>().expect_err("no place").to_string();
        assert_eq!(error, "template `a photo` must contain `{}` once, it has it 0 times");
    }

    #[test]
    fn a_label_is_filled_in_as_it_is() {
        let template = &default_templates()[0];
        assert_eq!(template.fill("red square"), "a photo of a red square.");
        assert_eq!(template.fill("{} $1"), "a photo of a {} $1.");
    }

    #[test]
    fn files_of_lines() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("labels.txt");
        let check = |bytes: &[u8], expected: Result<&[&str], &str>| {
            std::fs::write(&path, bytes).expect("a writable folder");
            match (read_lines(&path), expected) {
                (Ok(lines), Ok(expected)) => assert_eq!(lines, expected),
                (Err(error), Err(expected)) => {
                    let error = error.to_string();
                    assert!(error.contains("labels.txt") && error.contains(expected), "{error}");
                }
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        };
        check(b"cat\n dog \r\n\n", Ok(&["cat", "dog"]));
        check(b"\xef\xbb\xbfcat", Ok(&["cat"]));
        check(b"", Err("is empty"));
        check(b" \n\n", Err("is empty"));
        check(b"cat\n\ndog", Err("row 2 is empty"));
        check(b"cat\ndog\ncat \n", Err("row 3 repeats row 1: `cat`"));
        check(b"\xff\xfe", Err("cannot read"));
        std::fs::write(&path, "a {}\nb\n").expect("a writable folder");
        let error = read_templates(&path).expect_err("no place in row 2").to_string();
        assert!(error.contains("row 2: template `b`"), "{error}");
        assert!(read_labels(&folder.path().join("missing")).is_err());
        assert_eq!(open_templates(Path::new("imagenet")).expect("built in").len(), 80);
        std::fs::write(&path, "a {}\n").expect("a writable folder");
        assert_eq!(open_templates(&path).expect("one").len(), 1);
        assert!(open_templates(Path::new("./imagenet")).is_err());
    }
}

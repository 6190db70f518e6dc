//! CSV tables of pictures and captions: `path,caption` and optionally `class`.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use csv::{ByteRecord, ReaderBuilder, Writer};

use crate::{Error, Result};

/// Rows of captioned pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The file, as the user gave it.
    pub path: PathBuf,
    /// At least one. A row's *number* is its index here: the first after the header is 0.
    pub rows: Vec<Row>,
}

/// One picture with its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The picture, resolved against the manifest's folder; not opened yet.
    pub path: PathBuf,
    /// Never empty, at most 10,000 bytes.
    pub caption: String,
    /// Index of the picture's class, where the manifest knows it.
    pub class: Option<usize>,
}

/// Bytes of a caption; the tokenizer cuts far below it.
pub(crate) const CAPTION_BYTES_MAX: usize = 10_000;
const HEADER: &str = "`path,caption` or `path,caption,class`";

/// What a class cell may hold.
#[derive(Clone, Copy)]
enum Classes<'a> {
    /// Whatever is no index is no class.
    Unnamed,
    /// A label or an index of one; needed in every row if so asked.
    Named { labels: &'a [String], needed: bool },
}

impl Manifest {
    /// Reads and checks all rows; pictures are not opened. Class cells that hold names instead of
    /// indexes are no class here: see [`Manifest::open_classed`].
    ///
    /// Refuses, naming file and line: a wrong header, a row of another width, text that is not
    /// UTF-8, an empty path or caption, a caption above the limit, no rows.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, Classes::Unnamed)
    }

    /// As [`Manifest::open`], with every class cell a label or the index of one (a label that
    /// looks like a number is a label first). Empty cells and a missing column are refused if
    /// classes are `needed`.
    pub fn open_classed(path: &Path, labels: &[String], needed: bool) -> Result<Self> {
        Self::read(path, Classes::Named { labels, needed })
    }

    fn read(path: &Path, classes: Classes) -> Result<Self> {
        let mut text = Lines { file: path, at: 1 };
        let file =
            File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        let mut record = ByteRecord::new();
        if !text.next(&mut reader, &mut record)? {
            return Err(text.refuse(format!("the file is empty, expected the header {HEADER}")));
        }
        let columns = Columns::of(&record, &text, classes)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut rows = Vec::new();
        while text.next(&mut reader, &mut record)? {
            rows.push(columns.row(&record, &text, folder, classes)?);
        }
        if rows.is_empty() {
            return Err(text.refuse("there are no rows after the header".into()));
        }
        Ok(Self { path: path.to_owned(), rows })
    }

    /// The bytes of a manifest. `path` is written as it is: relative to the folder that the
    /// manifest will lie in, or absolute. The class column is there if the first row has a class.
    ///
    /// A path that is not UTF-8 is refused.
    pub fn to_csv<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Result<Vec<u8>> {
        let mut rows = rows.into_iter().peekable();
        let classed = rows.peek().is_some_and(|row| row.class.is_some());
        let mut writer = Writer::from_writer(Vec::new());
        let memory = "memory takes every record of the header's width";
        let header: &[&str] =
            if classed { &["path", "caption", "class"] } else { &["path", "caption"] };
        writer.write_record(header).expect(memory);
        for row in rows {
            let refuse = || Error::PathText { path: row.path.clone() };
            let path = row.path.to_str().ok_or_else(refuse)?;
            let class = row.class.map(|class| class.to_string()).unwrap_or_default();
            let fields = [path, &row.caption, &class];
            writer.write_record(&fields[..header.len()]).expect(memory);
        }
        Ok(writer.into_inner().expect("memory can always be flushed"))
    }

    /// Class of each row; refuses a row without.
    pub fn classes(&self) -> Result<Vec<usize>> {
        let class = |row: &Row| row.class.ok_or_else(|| Error::NoClass { file: self.path.clone() });
        self.rows.iter().map(class).collect()
    }

    /// Do all rows have a class?
    pub fn has_classes(&self) -> bool {
        self.rows.iter().all(|row| row.class.is_some())
    }
}

/// Where reading is, for errors.
struct Lines<'a> {
    file: &'a Path,
    at: u64,
}

impl Lines<'_> {
    fn next(
        &mut self,
        reader: &mut csv::Reader<impl Read>,
        record: &mut ByteRecord,
    ) -> Result<bool> {
        let found = reader.read_byte_record(record).map_err(|error| Error::Read {
            path: self.file.to_owned(),
            source: match error.into_kind() {
                csv::ErrorKind::Io(error) => error,
                other => std::io::Error::other(format!("{other:?}")), // bytes of any width are fine
            },
        })?;
        if let (true, Some(position)) = (found, record.position()) {
            self.at = position.line();
        }
        Ok(found)
    }

    fn refuse(&self, problem: String) -> Error {
        Error::Manifest { file: self.file.to_owned(), line: self.at, problem }
    }

    fn text<'r>(&self, record: &'r ByteRecord, field: usize, name: &str) -> Result<&'r str> {
        let bytes = record.get(field).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| self.refuse(format!("the {name} is not UTF-8")))
    }
}

/// Which field holds what.
struct Columns {
    path: usize,
    caption: usize,
    class: Option<usize>,
    count: usize,
}

impl Columns {
    fn of(header: &ByteRecord, at: &Lines, classes: Classes) -> Result<Self> {
        let (mut path, mut caption, mut class) = (None, None, None);
        for (field, name) in header.iter().enumerate() {
            let name = name.strip_prefix(b"\xef\xbb\xbf").filter(|_| field == 0).unwrap_or(name);
            let place = match name.trim_ascii() {
                b"path" => &mut path,
                b"caption" => &mut caption,
                b"class" => &mut class,
                _ => return Err(at.refuse(header_problem(header))),
            };
            if place.replace(field).is_some() {
                return Err(at.refuse(header_problem(header)));
            }
        }
        let (Some(path), Some(caption)) = (path, caption) else {
            return Err(at.refuse(header_problem(header)));
        };
        if class.is_none() && matches!(classes, Classes::Named { needed: true, .. }) {
            return Err(at.refuse("there is no column `class`, which is needed here".into()));
        }
        Ok(Self { path, caption, class, count: header.len() })
    }

    fn row(&self, record: &ByteRecord, at: &Lines, folder: &Path, classes: Classes) -> Result<Row> {
        if record.len() != self.count {
            let (found, expected) = (record.len(), self.count);
            return Err(at.refuse(format!("the row has {found} fields, expected {expected}")));
        }
        let path = at.text(record, self.path, "path")?;
        let caption = at.text(record, self.caption, "caption")?.trim();
        if path.is_empty() || path.contains('\0') {
            return Err(at.refuse("the path is empty or no path".into()));
        }
        if caption.is_empty() {
            return Err(at.refuse("the caption is empty".into()));
        }
        if caption.len() > CAPTION_BYTES_MAX {
            let found = caption.len();
            let problem = format!(
                "the caption has {found} bytes, the limit is {CAPTION_BYTES_MAX} \
                 (a quote that is not closed?)"
            );
            return Err(at.refuse(problem));
        }
        let class = match self.class {
            None => None,
            Some(field) => {
                class(at.text(record, field, "class")?.trim(), classes).map_err(|e| at.refuse(e))?
            }
        };
        Ok(Row { path: folder.join(path), caption: caption.to_owned(), class })
    }
}

fn header_problem(header: &ByteRecord) -> String {
    let names = header.iter().map(|name| String::from_utf8_lossy(name));
    let found: String = names.collect::<Vec<_>>().join(",").chars().take(80).collect();
    format!("the header is `{found}`, expected {HEADER}")
}

fn class(cell: &str, classes: Classes) -> Result<Option<usize>, String> {
    match classes {
        Classes::Unnamed => Ok(cell.parse().ok()),
        Classes::Named { needed: true, .. } if cell.is_empty() => Err("the class is empty".into()),
        Classes::Named { .. } if cell.is_empty() => Ok(None),
        Classes::Named { labels, .. } => {
            let index = || cell.parse().ok().filter(|&index| index < labels.len());
            let found = labels.iter().position(|label| label == cell).or_else(index);
            let last = labels.len().saturating_sub(1);
            let refuse = || {
                let cell: String = cell.chars().take(80).collect();
                format!("the class `{cell}` is neither a label nor a number from 0 to {last}")
            };
            found.map(Some).ok_or_else(refuse)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.csv");
        std::fs::write(&path, bytes).expect("written");
        (folder, path)
    }

    #[track_caller]
    fn refused(bytes: &[u8], expected: &str) {
        let (_folder, path) = write(bytes);
        let labels = ["red circle".to_owned(), "blue star".to_owned()];
        let error = Manifest::open_classed(&path, &labels, false).expect_err("refused").to_string();
        assert_eq!(error, format!("`{}`, {expected}", path.display()));
    }

    #[test]
    fn reads_columns_in_any_order_and_names_or_indexes() -> Result<()> {
        let text = "\u{feff}class,path,caption\r\n1,a/b.png,\" two, \"\"stars\"\" \"\n\
            red circle,/c.png,x\n,d,y\n";
        let (folder, path) = write(text.as_bytes());
        let labels = ["red circle".to_owned(), "blue star".to_owned()];
        let manifest = Manifest::open_classed(&path, &labels, false)?;
        let classes: Vec<_> = manifest.rows.iter().map(|row| row.class).collect();
        assert_eq!(classes, [Some(1), Some(0), None]);
        assert_eq!(manifest.rows[0].path, folder.path().join("a/b.png"));
        assert_eq!(manifest.rows[1].path, Path::new("/c.png"));
        assert_eq!(manifest.rows[0].caption, "two, \"stars\"");
        assert!(!manifest.has_classes());
        let unnamed = Manifest::open(&path)?;
        assert_eq!(unnamed.rows[1].class, None);
        assert_eq!(unnamed.rows[0].class, Some(1));
        Ok(())
    }

    #[test]
    fn each_bad_input_is_one_clear_error() {
        let header = "expected `path,caption` or `path,caption,class`";
        refused(
            b"",
            &format!(
                "line 1: the file is empty, {}",
                header.replace("expected", "expected the header")
            ),
        );
        refused(b"path,text\na,b\n", &format!("line 1: the header is `path,text`, {header}"));
        refused(b"path\na\n", &format!("line 1: the header is `path`, {header}"));
        refused(
            b"path,caption,path\na,b,c\n",
            &format!("line 1: the header is `path,caption,path`, {header}"),
        );
        refused(b"path,caption\n", "line 1: there are no rows after the header");
        refused(b"path,caption\na,b\nc\n", "line 3: the row has 1 fields, expected 2");
        refused(b"path,caption\na,b\nc, \n", "line 3: the caption is empty");
        refused(b"path,caption\n,b\n", "line 2: the path is empty or no path");
        refused(b"path,caption\na,\xff\n", "line 2: the caption is not UTF-8");
        refused(
            b"path,caption,class\na,\"b\nb\",1\nc,d,2\n",
            "line 4: the class `2` is neither a label nor a number from 0 to 1",
        );
        refused(
            b"path,caption,class\na,b,-1\n",
            "line 2: the class `-1` is neither a label nor a number from 0 to 1",
        );
        let long = format!("path,caption\na,{}\n", "b".repeat(CAPTION_BYTES_MAX + 1));
        refused(
            long.as_bytes(),
            "line 2: the caption has 10001 bytes, the limit is 10000 (a quote that is not closed?)",
        );
    }

    #[test]
    fn needed_classes_must_be_there() {
        let labels = ["red circle".to_owned()];
        let check = |bytes: &[u8], expected: &str| {
            let (_folder, path) = write(bytes);
            let error = Manifest::open_classed(&path, &labels, true).expect_err("refused");
            assert!(error.to_string().ends_with(expected), "{error}");
        };
        check(b"path,caption\na,b\n", "line 1: there is no column `class`, which is needed here");
        check(b"path,caption,class\na,b,\n", "line 2: the class is empty");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Manifest::open(Path::new("/no/such.csv")).expect_err("refused").to_string();
        assert_eq!(error, "cannot read `/no/such.csv`");
    }

    #[test]
    fn what_is_written_reads_the_same() -> Result<()> {
        let row = |path: &str, caption: &str, class| Row {
            path: path.into(),
            caption: caption.into(),
            class,
        };
        for classes in [[Some(3), Some(0)], [None, None]] {
            let rows = [row("/a b.png", "x, \"y\"\nz", classes[0]), row("/ö.png", "1", classes[1])];
            let (_folder, path) = write(&Manifest::to_csv(&rows)?);
            assert_eq!(Manifest::open(&path)?.rows, rows);
        }
        Ok(())
    }
}

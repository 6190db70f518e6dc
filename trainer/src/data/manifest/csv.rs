//! CSV, and the same with tabs: a header, then a row for each picture and caption.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
};

use csv::{ByteRecord, ReaderBuilder};

use super::{Columns, Listed, Reading, Skipped};
use crate::{
    data::{
        CAPTION_BYTES_MAX,
        row::{self, Place},
    },
    error::{Error, Result},
};

/// Refuses, naming file and line, a header without a column that is asked for, and no rows. Skips
/// a row of another width, one in which a quote is likely not closed, text that is not UTF-8, an
/// empty path or caption, a caption above the limit.
pub(super) fn rows(path: &Path, delimiter: u8, reading: &Reading) -> Result<Vec<Listed>> {
    let mut at = Lines { file: path, line: 1, end: 1, late: 0 };
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mut reader = ReaderBuilder::new();
    let reader = reader.has_headers(false).flexible(true).delimiter(delimiter);
    let (mut reader, mut record) = (reader.from_reader(file), ByteRecord::new());
    if !at.next(&mut reader, &mut record)? {
        let (image, caption) = (reading.keys.image(), reading.keys.caption());
        let problem =
            format!("the file is empty, expected a header with `{image}` and `{caption}`");
        return Err(at.refuse(problem));
    }
    let width = record.len();
    at.late = 2_u64.saturating_sub(at.end);
    let columns = Columns::of(&names(&record), reading).map_err(|problem| at.refuse(problem))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut rows = Vec::new();
    while at.next(&mut reader, &mut record)? {
        let number = rows.len() as u32;
        let row = if record.len() != width {
            let problem = format!("the row has {} fields, expected {width}", record.len());
            Err(at.skip_lines(number, &record, String::new(), problem))
        } else if let Some(problem) = run_on(&record, columns.caption) {
            let path = text(&record, columns.image, "path").unwrap_or_default();
            let path = row::file(path.lines().next().unwrap_or_default(), folder); // others' behind
            let path = path.map_or_else(|_| String::new(), |image| image.to_string());
            Err(at.skip_lines(number, &record, path, problem))
        } else {
            let row = columns.row(|column, name| text(&record, column, name), folder, reading);
            row.map_err(|(path, problem)| at.skip(number, path, 1, problem))
        };
        rows.push(row.map_err(Box::new));
    }
    match rows.is_empty() {
        true => Err(at.refuse("there are no rows after the header".into())),
        false => Ok(rows),
    }
}

/// Names in a header, without a byte order mark and the space around them.
fn names(header: &ByteRecord) -> Vec<Cow<'_, str>> {
    let plain = |(number, name)| {
        let name: &[u8] = name;
        let name = name.strip_prefix(b"\xef\xbb\xbf").filter(|_| number == 0).unwrap_or(name);
        String::from_utf8_lossy(name.trim_ascii())
    };
    header.iter().enumerate().map(plain).collect()
}

fn text<'a>(record: &'a ByteRecord, column: usize, name: &str) -> Result<Cow<'a, str>, String> {
    let bytes = record.get(column).unwrap_or_default();
    let text = std::str::from_utf8(bytes).map_err(|_| format!("the {name} is not UTF-8"))?;
    Ok(text.into())
}

/// What is wrong with a record that holds the lines behind a quote that was not closed: a caption
/// alone may have several lines, and no field is so long.
fn run_on(record: &ByteRecord, caption: usize) -> Option<String> {
    record.iter().enumerate().find_map(|(column, field)| {
        let (name, count) =
            if column == caption { ("the caption", 0) } else { ("a field", lines(field)) };
        let (bytes, limit) = (field.trim_ascii().len(), CAPTION_BYTES_MAX);
        match bytes > limit {
            true => Some(format!("{name} has {bytes} bytes, the limit is {limit}")),
            false => (count > 1).then(|| format!("{name} that is no caption has {count} lines")),
        }
    })
}

fn lines(field: &[u8]) -> usize {
    1 + field.iter().filter(|&&byte| byte == b'\n').count()
}

/// Where reading is, for errors.
struct Lines<'a> {
    file: &'a Path,
    /// On which the record begins, or empty lines before it.
    line: u64,
    /// On which the next one does.
    end: u64,
    /// How late the parser counts lines: by one if they end with CR and LF, as it stops between.
    late: u64,
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
                other => io::Error::other(format!("{other:?}")), // bytes of any width are fine
            },
        })?;
        if let (true, Some(position)) = (found, record.position()) {
            self.line = position.line() + self.late;
            self.end = reader.position().line() + self.late;
        }
        Ok(found)
    }

    fn refuse(&self, problem: String) -> Error {
        Error::Manifest { file: self.file.to_owned(), at: Place::Line(self.line), problem }
    }

    /// A row that counts as the lines that it holds.
    fn skip_lines(
        &self,
        row: u32,
        record: &ByteRecord,
        path: String,
        mut problem: String,
    ) -> Skipped {
        let lines = record.iter().map(|field| lines(field) - 1).sum::<usize>() + 1;
        if lines > 1 {
            problem += &format!(" (it has {lines} lines: a quote that is not closed?)");
        }
        self.skip(row, path, lines, problem)
    }

    fn skip(&self, row: u32, path: String, lines: usize, problem: String) -> Skipped {
        let file = self.file.to_owned();
        let line = self.line.max(self.end.saturating_sub(lines as u64)); // behind empty ones
        let at = Place::Row { row, line: Some(line) };
        let problem = Error::Manifest { file: file.clone(), at, problem };
        Skipped { row, file, path, rows: lines, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CAPTION_BYTES_MAX, Classes, ImageSource, Keys, Listing, Manifest, Row};

    const LABELS: [&str; 2] = ["red circle", "blue star"];

    fn open(name: &str, bytes: &[u8], needed: bool, keys: Keys) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let labels = LABELS.map(String::from);
        let classes = Classes::Named { labels: &labels, needed };
        let reading = Reading { keys, classes, ..Reading::default() };
        let plain = |file: &ImageSource| -> ImageSource {
            let path = file.file().expect("a table names files");
            path.strip_prefix(folder.path()).unwrap_or(path).into()
        };
        let rows = Manifest::open_as(&path, &reading)?.rows;
        Ok(rows.into_iter().map(|row| Row { image: plain(&row.image), ..row }).collect())
    }

    fn row(path: &str, caption: &str, class: Option<usize>) -> Row {
        Row { image: path.into(), caption: caption.into(), class }
    }

    #[test]
    fn reads_columns_in_any_order_and_names_or_indexes() -> Result<()> {
        let text = "\u{feff}class,path,caption\r\n1,a/b.png,\" two, \"\"stars\"\" \"\n\
            red circle,/c.png,x\n,d,y\n";
        let rows = open("train.csv", text.as_bytes(), false, Keys::default())?;
        let expected = [
            row("a/b.png", "two, \"stars\"", Some(1)),
            row("/c.png", "x", Some(0)),
            row("d", "y", None),
        ];
        assert_eq!(rows, expected);
        Ok(())
    }

    #[test]
    fn reads_other_columns_and_tabs() -> Result<()> {
        let keys = Keys { image: Some("file"), caption: Some("text"), class: Some("kind") };
        let expected = [row("a.png", "one, two", Some(1)), row("b.png", "x", Some(0))];
        let text = b"id,text,file,kind,path\n7,\"one, two\",a.png,1,-\n8,x,b.png,red circle,-\n";
        assert_eq!(open("train.csv", text, true, keys)?, expected);
        let text = b"text\tfile\tkind\none, two\ta.png\t1\nx\tb.png\tred circle\n";
        assert_eq!(open("train.TSV", text, true, keys)?, expected);
        Ok(())
    }

    #[track_caller]
    fn refused(bytes: &[u8], needed: bool, keys: Keys, expected: &str) {
        let error = open("train.csv", bytes, needed, keys).expect_err("refused").to_string();
        let (file, problem) = error.split_once("`, ").expect("a file and a problem");
        assert!(file.ends_with("/train.csv"), "{error}");
        assert_eq!(problem, expected);
    }

    #[test]
    fn each_bad_input_is_one_clear_error() {
        let check = |bytes: &[u8], expected| refused(bytes, false, Keys::default(), expected);
        let empty = "line 1: the file is empty, expected a header with `path` and `caption`";
        check(b"", empty);
        let missing = "line 1: there is no column `caption`, there are `path`, `text`";
        check(b"path,text\na,b\n", missing);
        check(b"path\na\n", "line 1: there is no column `caption`, there are `path`");
        check(b"path,caption,path\na,b,c\n", "line 1: there are two columns `path`");
        check(b"path,caption\n", "line 1: there are no rows after the header");
        check(b"path,caption\na,b\nc\n", "row 1 (line 3): the row has 1 fields, expected 2");
        check(b"path,caption\na,b\nc, \n", "row 1 (line 3): the caption is empty");
        check(b"path,caption\n,b\n", "row 0 (line 2): the path is empty or no path");
        check(b"path,caption\na,\xff\n", "row 0 (line 2): the caption is not UTF-8");
        check(
            b"path,caption,class\na,\"b\nb\",1\nc,d,2\n",
            "row 1 (line 4): the class `2` is neither a label nor a number from 0 to 1",
        );
        check(
            b"path,caption,class\na,b,-1\n",
            "row 0 (line 2): the class `-1` is neither a label nor a number from 0 to 1",
        );
        let long = format!("path,caption\na,{}\n", "b".repeat(CAPTION_BYTES_MAX + 1));
        check(long.as_bytes(), "row 0 (line 2): the caption has 10001 bytes, the limit is 10000");
    }

    #[test]
    fn each_bad_row_is_skipped_and_the_others_keep_their_numbers() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.csv");
        let long = "b".repeat(CAPTION_BYTES_MAX + 1);
        let lines = "b\n".repeat(5001);
        let rows = format!(
            "a,one\nb, \nc\n\n,d\ne,\u{fffd}\nf,two\ng,{long}\nh,\"{lines}\"\ni,three\nj,\"four\n\
             k,five\nl,\"six, 6\"\n\u{fffd},seven\nm,eight\n"
        );
        for (end, bytes) in [("\n", 10_001), ("\r\n", 15_001)] {
            let text = format!("path,caption\n{rows}").replace('\n', end);
            let mut parts = text.split('\u{fffd}');
            let mut bytes_of = parts.next().expect("one at least").as_bytes().to_vec();
            parts.for_each(|part| bytes_of.extend([b"\xff", part.as_bytes()].concat()));
            std::fs::write(&path, bytes_of).expect("written");
            let mut listing = Listing::open(&path, &Reading::default())?;
            let start = format!("`{}`, ", path.display());
            let mut found = Vec::new();
            for (number, row) in (0..).zip(&listing.rows) {
                let Err(skipped) = row else { continue };
                assert_eq!((skipped.row, &skipped.file), (number, &path));
                let picture = Path::new(&skipped.path).strip_prefix(folder.path());
                let picture = picture.unwrap_or(Path::new("-")).display();
                let text = skipped.to_string();
                let text = text.strip_prefix(&start).expect("the file comes first");
                found.push(format!("{picture} {}: {text}", skipped.rows));
            }
            let hint = "lines: a quote that is not closed?)";
            let expected = [
                "b 1: row 1 (line 3): the caption is empty",
                "- 1: row 2 (line 4): the row has 1 fields, expected 2",
                "- 1: row 3 (line 6): the path is empty or no path",
                "e 1: row 4 (line 7): the caption is not UTF-8",
                "g 1: row 6 (line 9): the caption has 10001 bytes, the limit is 10000",
                &format!(
                    "h 5002: row 7 (line 10): the caption has {bytes} bytes, the limit is 10000 \
                     (it has 5002 {hint}"
                ),
                &format!(
                    "- 3: row 9 (line 5013): the row has 3 fields, expected 2 (it has 3 {hint}"
                ),
                "- 1: row 10 (line 5016): the path is not UTF-8",
            ];
            assert_eq!(found, expected);
            assert_eq!((listing.all(), listing.usable()), (12, 4));
            assert_eq!(listing.usable_rows().collect::<Vec<_>>(), [0, 5, 8, 11]);
            listing.rows.retain(Result::is_ok);
            let good = listing.complete()?.rows.into_iter().map(|row| row.caption);
            assert_eq!(good.collect::<Vec<_>>(), ["one", "two", "three", "eight"]);
        }
        Ok(())
    }

    /// A quote that is not closed in a column that nobody reads, or that closes at a later one.
    #[test]
    fn a_row_that_swallows_others_counts_as_them() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.csv");
        let check = |text: &str, rows: usize, expected: &str| -> Result<()> {
            std::fs::write(&path, text).expect("written");
            let listing = Listing::open(&path, &Reading::default())?;
            let skipped: Vec<_> = listing.skipped().collect();
            assert_eq!((listing.usable(), skipped.len(), skipped[0].rows), (1, 1, rows));
            assert!(skipped[0].to_string().contains(expected), "{}", skipped[0]);
            Ok(())
        };
        let class = "path,caption,class\na,one,red\nb,two,\"blue\nc,three,red\nd,four,red\n";
        check(class, 4, "a field that is no caption has 4 lines")?;
        check("caption,path\none,a\ntwo,\"b\nthree,c\n", 3, "(it has 3 lines")
    }

    #[test]
    fn what_is_asked_for_must_be_there() {
        let check = |bytes: &[u8], keys, expected| refused(bytes, true, keys, expected);
        let missing = "line 1: there is no column `class`, which is needed here";
        check(b"path,caption\na,b\n", Keys::default(), missing);
        let missing = "row 0 (line 2): the class is empty";
        check(b"path,caption,class\na,b,\n", Keys::default(), missing);
        let keys = Keys { class: Some("kind"), ..Keys::default() };
        let missing = "line 1: there is no column `kind`, there are `path`, `caption`";
        refused(b"path,caption\na,b\n", false, keys, missing);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Manifest::open(Path::new("/no/such.csv")).expect_err("refused").to_string();
        assert_eq!(error, "cannot read `/no/such.csv`");
    }
}

//! Parquet tables with a column of paths and one of captions.

use std::{
    borrow::Cow,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use parquet::{
    basic::{ConvertedType, Repetition},
    errors::ParquetError,
    file::{
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::Field,
    schema::types::{SchemaDescriptor, Type, TypePtr},
};

use super::{Columns, Listed, Reading, Skipped};
use crate::{
    data::row::Place,
    error::{Error, Result},
};

/// Reads the columns that are asked for, one page of each at a time. Refuses and skips what
/// [`super::csv::rows`] does, naming file and row.
pub(super) fn rows(path: &Path, reading: &Reading) -> Result<Vec<Listed>> {
    // The decoder panics on some damaged files; the panic hook has told where.
    catch_unwind(AssertUnwindSafe(|| read(path, reading))).unwrap_or_else(|_| {
        let source = io::Error::other("the table is damaged");
        Err(Error::Read { path: path.to_owned(), source })
    })
}

fn read(path: &Path, reading: &Reading) -> Result<Vec<Listed>> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let broken = |error: ParquetError| unreadable(io::Error::other(error));
    let refuse =
        |at: Place, problem: String| Error::Manifest { file: path.to_owned(), at, problem };
    let file = File::open(path).map_err(unreadable)?;
    let reader =
        SerializedFileReader::new(file.try_clone().map_err(unreadable)?).map_err(broken)?;
    let schema = as_bytes(reader.metadata().file_metadata().schema()).map_err(broken)?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
    let options = ReadOptionsBuilder::new().with_parquet_schema(Arc::clone(&schema)).build();
    let reader = SerializedFileReader::new_with_options(file, options).map_err(broken)?;
    let schema = schema.root_schema();
    let names: Vec<Cow<str>> = schema.get_fields().iter().map(|f| f.name().into()).collect();
    let columns = Columns::of(&names, reading).map_err(|problem| refuse(Place::Whole, problem))?;
    let (columns, chosen) =
        columns.alone(schema).map_err(|problem| refuse(Place::Whole, problem))?;
    let chosen = Type::group_type_builder(schema.name()).with_fields(chosen).build();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut rows = Vec::new();
    let found = reader.get_row_iter(Some(chosen.map_err(broken)?)).map_err(broken)?;
    for (row, found) in (0..).zip(found) {
        let fields = found.map_err(broken)?.into_columns();
        let text = |column: usize, name: &str| text(&fields[column].1, name);
        rows.push(columns.row(text, folder, reading).map_err(|(picture, problem)| {
            let problem = refuse(Place::Row { row, line: None }, problem);
            Skipped { row, file: path.to_owned(), path: picture, rows: 1, problem }.into()
        }));
    }
    match rows.is_empty() {
        true => Err(refuse(Place::Whole, "there are no rows".into())),
        false => Ok(rows),
    }
}

impl Columns {
    /// The types of these columns in the order of the file, and their numbers when no others are
    /// read.
    fn alone(&self, schema: &Type) -> Result<(Self, Vec<TypePtr>), String> {
        let mut numbers: Vec<usize> =
            [Some(self.image), Some(self.caption), self.class].into_iter().flatten().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let types = numbers.iter().map(|&number| &schema.get_fields()[number]);
        let types: Vec<TypePtr> = types.map(Arc::clone).collect();
        let is_plain = |kind: &&TypePtr| {
            let about = kind.get_basic_info();
            kind.is_primitive() && about.repetition() != Repetition::REPEATED
        };
        if let Some(kind) = types.iter().find(|kind| !is_plain(kind)) {
            return Err(format!("the column `{}` has no single values", kind.name()));
        }
        let place = |number: usize| numbers.partition_point(|&other| other < number);
        let (image, caption) = (place(self.image), place(self.caption));
        Ok((Self { image, caption, class: self.class.map(place) }, types))
    }
}

/// A schema with bytes in the place of text: text that is not UTF-8 would end the decoder, and not
/// the row alone.
fn as_bytes(schema: &Type) -> Result<Type, ParquetError> {
    let column = |kind: &TypePtr| {
        let about = kind.get_basic_info();
        let text = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON];
        if !kind.is_primitive() || !text.contains(&about.converted_type()) {
            return Ok(Arc::clone(kind));
        }
        let bytes = Type::primitive_type_builder(kind.name(), kind.get_physical_type());
        bytes.with_repetition(about.repetition()).build().map(Arc::new)
    };
    let columns = schema.get_fields().iter().map(column).collect::<Result<_, ParquetError>>()?;
    Type::group_type_builder(schema.name()).with_fields(columns).build()
}

/// A field as a table of text would have it; what is missing is empty there.
fn text<'a>(field: &'a Field, name: &str) -> Result<Cow<'a, str>, String> {
    Ok(match field {
        Field::Null => "".into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes.data());
            text.map_err(|_| format!("the {name} is not UTF-8"))?.into()
        }
        Field::Byte(value) => value.to_string().into(),
        Field::Short(value) => value.to_string().into(),
        Field::Int(value) => value.to_string().into(),
        Field::Long(value) => value.to_string().into(),
        Field::UByte(value) => value.to_string().into(),
        Field::UShort(value) => value.to_string().into(),
        Field::UInt(value) => value.to_string().into(),
        Field::ULong(value) => value.to_string().into(),
        _ => return Err(format!("the {name} is neither text nor a whole number")),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use parquet::{
        basic::{Compression, ZstdLevel},
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;
    use crate::data::{CAPTION_BYTES_MAX, Classes, Keys, Listing, Manifest, Row};

    const COLUMNS: &str = "optional int64 kind; required binary file (UTF8); \
        required group size { required int64 width; } optional binary text (UTF8);";

    /// A row for each of `texts`, of class 1 and with the picture `a/N.png`; two groups of rows.
    fn write<T: Copy + Into<ByteArray>>(
        path: &Path,
        columns: &str,
        texts: &[Option<T>],
        compression: Compression,
    ) {
        let schema = parse_message_type(&format!("message pairs {{ {columns} }}"));
        let schema = Arc::new(schema.expect("a schema"));
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = File::create(path).expect("a writable folder");
        let mut writer =
            SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a file");
        for (group, texts) in texts.chunks(2).enumerate() {
            let ones = vec![1; texts.len()];
            let files = (0..texts.len()).map(|row| format!("a/{}.png", 2 * group + row));
            let files: Vec<ByteArray> = files.map(|file| file.as_str().into()).collect();
            let present: Vec<i16> = texts.iter().map(|text| text.is_some().into()).collect();
            let texts: Vec<ByteArray> = texts.iter().flatten().map(|&text| text.into()).collect();
            let mut rows = writer.next_row_group().expect("a group");
            let mut column = |number| -> () {
                let mut column = rows.next_column().expect("a column").expect("as in the schema");
                let written = match number {
                    0 => column.typed::<Int64Type>().write_batch(
                        &[1, 1][..ones.len()],
                        Some(&ones),
                        None,
                    ),
                    1 => column.typed::<ByteArrayType>().write_batch(&files, None, None),
                    2 => column.typed::<Int64Type>().write_batch(&[1, 1][..ones.len()], None, None),
                    _ => column.typed::<ByteArrayType>().write_batch(&texts, Some(&present), None),
                };
                written.expect("written");
                column.close().expect("closed");
            };
            (0..4).for_each(&mut column);
            rows.close().expect("closed");
        }
        writer.close().expect("closed");
    }

    const KEYS: Keys = Keys { image: Some("file"), caption: Some("text"), class: Some("kind") };

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.parquet");
        (folder, path)
    }

    fn open(path: &Path, keys: Keys) -> Result<Vec<Row>> {
        let labels = ["red".to_owned(), "blue".to_owned()];
        let classes = Classes::Named { labels: &labels, needed: true };
        Ok(Manifest::open_as(path, &Reading { keys, classes, ..Reading::default() })?.rows)
    }

    #[test]
    fn reads_columns_by_name_whatever_compresses_them() -> Result<()> {
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd] {
            let (folder, path) = place();
            write(
                &path,
                COLUMNS,
                &[Some("one"), Some(" two, \"2\" "), Some("drei ä")],
                compression,
            );
            let expected = ["one", "two, \"2\"", "drei ä"].into_iter().enumerate();
            let row = |(number, caption): (usize, &str)| Row {
                image: folder.path().join(format!("a/{number}.png")).into(),
                caption: caption.into(),
                class: Some(1),
            };
            assert_eq!(open(&path, KEYS)?, expected.map(row).collect::<Vec<_>>());
        }
        Ok(())
    }

    #[test]
    fn each_bad_table_is_one_clear_error() {
        let (_folder, path) = place();
        let check = |texts: &[Option<&str>], keys, expected: &str| {
            write(&path, COLUMNS, texts, Compression::SNAPPY);
            let error = open(&path, keys).expect_err("refused").to_string();
            assert_eq!(error, format!("`{}`{expected}", path.display()));
        };
        check(&[], KEYS, ": there are no rows");
        check(&[Some("a"), Some("b"), None], KEYS, ", row 2: the caption is empty");
        let all = "there are `kind`, `file`, `size`, `text`";
        let missing = format!(": there is no column `path`, {all}");
        check(&[Some("a")], Keys { image: None, ..KEYS }, &missing);
        let group = Keys { image: Some("size"), ..KEYS };
        check(&[Some("a")], group, ": the column `size` has no single values");
    }

    #[test]
    fn each_bad_row_is_skipped_and_the_others_keep_their_numbers() -> Result<()> {
        let (folder, path) = place();
        let long = "a".repeat(CAPTION_BYTES_MAX + 1);
        let texts = ["one".as_bytes(), b"\xffa", b"two", b" ", b"", long.as_bytes(), b"three"];
        let mut texts = texts.map(Some);
        texts[4] = None;
        for columns in [COLUMNS, &COLUMNS.replace("(UTF8)", "")] {
            write(&path, columns, &texts, Compression::SNAPPY);
            let reading = Reading { keys: KEYS, ..Reading::default() };
            let listing = Listing::open(&path, &reading)?;
            let told = |(number, row): (usize, &Listed)| match row {
                Ok(row) => row.caption.clone(),
                Err(skipped) => {
                    let picture = folder.path().join(format!("a/{number}.png"));
                    assert_eq!(skipped.path, picture.display().to_string());
                    assert_eq!((skipped.row as usize, &skipped.file), (number, &path));
                    skipped.to_string()
                }
            };
            let found: Vec<String> = listing.rows.iter().enumerate().map(told).collect();
            let row =
                |row, text: &str| format!("`{}`, row {row}: the caption {text}", path.display());
            let expected = [
                "one".to_owned(),
                row(1, "is not UTF-8"),
                "two".to_owned(),
                row(3, "is empty"),
                row(4, "is empty"),
                row(5, "has 10001 bytes, the limit is 10000"),
                "three".to_owned(),
            ];
            assert_eq!(found, expected);
        }
        Ok(())
    }

    #[test]
    fn a_file_that_is_cut_or_changed_is_read_or_refused() {
        let (_folder, path) = place();
        write(&path, COLUMNS, &[Some("one"), Some("two"), Some("three")], Compression::SNAPPY);
        let whole = fs::read(&path).expect("readable");
        for length in (0..whole.len()).step_by(31) {
            fs::write(&path, &whole[..length]).expect("writable");
            let error = open(&path, KEYS).expect_err("cut").to_string();
            assert_eq!(error, format!("cannot read `{}`", path.display()));
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).expect("writable");
            if let Err(error) = open(&path, KEYS) {
                let error = error.to_string();
                assert!(error.contains(&format!("`{}`", path.display())), "{error}");
            }
        }
    }
}

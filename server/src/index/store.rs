//! The indexes on disk: one redb file, in which a change is there whole or not at all.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `schema`, `next_number` | u64 |
//! | `indexes` | name | JSON of [`Record`] |
//! | `items` | (number of the index, id) | D little-endian f32 of unit length, then metadata as JSON |

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction, backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};

use super::{IndexName, ItemId, UnitRow};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const INDEXES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("indexes");
const ITEMS: TableDefinition<'_, (u64, &str), &[u8]> = TableDefinition::new("items");

/// Form of the file that this version reads and writes.
const SCHEMA: u64 = 1;
/// The file, inside the folder.
const FILE: &str = "indexes.redb";
/// Memory that redb may keep pages in, in bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// The model that an index was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// SHA-256 of its weights, lower-case hex.
    pub sha256: String,
    /// Columns of its embeddings (D).
    pub dim: usize,
}

/// What is kept about an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Never given twice.
    pub number: u64,
    /// Whose vectors it holds.
    pub model: ModelId,
}

/// One item, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name in the index.
    pub id: ItemId,
    /// `[D]`.
    pub row: UnitRow,
    /// A JSON object, or nothing.
    pub metadata: Option<String>,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be made or read.
    #[error("cannot use the folder `{}`", path.display())]
    Folder {
        /// As the user gave it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file cannot be opened: it is in use, broken, or no redb file.
    #[error("cannot open the indexes in `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// redb's reason.
        source: redb::Error,
    },
    /// A read or a write failed.
    #[error("the indexes cannot be read or written")]
    Database(#[source] redb::Error),
    /// The file has another form.
    #[error("the indexes are of schema {found}, this version reads {SCHEMA}")]
    Schema {
        /// What the file says.
        found: u64,
    },
    /// The operating system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// An entry is not what was written.
    #[error("the entry of {entry} is damaged")]
    Damaged {
        /// Index, and item if it is one.
        entry: String,
    },
}

/// redb has one error type per kind of call; here they are all the same.
macro_rules! from_redb {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for StoreError {
            fn from(error: redb::$kind) -> Self {
                Self::Database(error.into())
            }
        }
    )*};
}
from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

/// The open file.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the file in `folder`, which is made if it is not there; `None` keeps
    /// everything in memory. Every checksum of the file is checked.
    pub fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES_MAX).set_check_integrity_on_open(true);
        let database = match folder {
            None => builder.create_with_backend(InMemoryBackend::new())?,
            Some(folder) => {
                let refuse = |source| StoreError::Folder { path: folder.to_owned(), source };
                fs::create_dir_all(folder).map_err(refuse)?;
                let path = folder.join(FILE);
                let opened = builder.create(&path);
                let database = opened.map_err(|error| StoreError::Open {
                    path: path.clone(),
                    source: error.into(),
                })?;
                // The name of a new file must reach the disk as well.
                fs::File::open(folder).and_then(|it| it.sync_all()).map_err(refuse)?;
                database
            }
        };
        Self::prepared(database)
    }

    /// Makes the tables of a new file, and looks at the schema of an old one.
    fn prepared(database: Database) -> Result<Self, StoreError> {
        let store = Self { database };
        let writing = store.begin()?;
        let found = writing.meta("schema")?;
        match found {
            None => {
                writing.set_meta("schema", SCHEMA)?;
                writing.transaction.open_table(INDEXES)?;
                writing.transaction.open_table(ITEMS)?;
                writing.commit()?;
            }
            Some(SCHEMA) => {}
            Some(found) => return Err(StoreError::Schema { found }),
        }
        Ok(store)
    }

    /// A store on storage that a test controls.
    #[cfg(test)]
    pub(super) fn on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        Self::prepared(Builder::new().create_with_backend(backend)?)
    }

    /// Every index.
    pub fn indexes(&self) -> Result<Vec<(IndexName, Record)>, StoreError> {
        let table = self.database.begin_read()?.open_table(INDEXES)?;
        let mut indexes = Vec::new();
        for entry in table.iter()? {
            let (name, record) = entry?;
            let damaged = || StoreError::Damaged { entry: format!("index `{}`", name.value()) };
            let parsed = serde_json::from_slice(record.value()).ok();
            let name = IndexName::parse(name.value()).ok_or_else(damaged)?;
            indexes.push((name, parsed.ok_or_else(damaged)?));
        }
        Ok(indexes)
    }

    /// Items of one index.
    pub fn count(&self, number: u64) -> Result<usize, StoreError> {
        let table = self.database.begin_read()?.open_table(ITEMS)?;
        let mut count = 0;
        for entry in table.range((number, "")..(number + 1, ""))? {
            entry?;
            count += 1;
        }
        Ok(count)
    }

    /// Gives every item of an index to `each`, in the order of their ids.
    pub fn load(
        &self,
        record: &Record,
        mut each: impl FnMut(ItemId, UnitRow),
    ) -> Result<(), StoreError> {
        let table = self.database.begin_read()?.open_table(ITEMS)?;
        for entry in table.range((record.number, "")..(record.number + 1, ""))? {
            let (key, value) = entry?;
            let text = key.value().1;
            let row = decode(value.value(), record.model.dim).and_then(|(row, _)| row);
            match (ItemId::parse(text, usize::MAX), row) {
                (Some(id), Some(row)) => each(id, row),
                _ => return Err(StoreError::Damaged { entry: format!("item `{text}`") }),
            }
        }
        Ok(())
    }

    /// Metadata of each id that is there: `Some(None)` is an item without any.
    pub fn metadata<'a>(
        &self,
        record: &Record,
        ids: impl Iterator<Item = &'a ItemId>,
    ) -> Result<Vec<Option<Option<String>>>, StoreError> {
        let table = self.database.begin_read()?.open_table(ITEMS)?;
        ids.map(|id| {
            let Some(value) = table.get((record.number, id.as_str()))? else { return Ok(None) };
            let damaged = || StoreError::Damaged { entry: format!("item `{}`", id.as_str()) };
            let (_, metadata) = decode(value.value(), record.model.dim).ok_or_else(damaged)?;
            Ok(Some(metadata))
        })
        .collect()
    }

    /// Begins a group of changes; nothing of it is kept unless [`Writing::commit`] succeeds.
    pub fn begin(&self) -> Result<Writing, StoreError> {
        Ok(Writing { transaction: self.database.begin_write()? })
    }
}

/// A group of changes. Each sees what the earlier ones did.
pub struct Writing {
    transaction: WriteTransaction,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writing")
    }
}

impl Writing {
    /// What is kept about an index.
    pub fn record(&self, name: &IndexName) -> Result<Option<Record>, StoreError> {
        let table = self.transaction.open_table(INDEXES)?;
        let Some(value) = table.get(name.as_str())? else { return Ok(None) };
        let damaged = |_| StoreError::Damaged { entry: format!("index `{name}`") };
        Ok(Some(serde_json::from_slice(value.value()).map_err(damaged)?))
    }

    /// Number of indexes.
    pub fn indexes(&self) -> Result<usize, StoreError> {
        Ok(self.transaction.open_table(INDEXES)?.len()? as usize)
    }

    /// Items of all indexes together.
    pub fn items(&self) -> Result<usize, StoreError> {
        Ok(self.transaction.open_table(ITEMS)?.len()? as usize)
    }

    /// Makes an index of a name that is not taken.
    pub fn create(&self, name: &IndexName, model: &ModelId) -> Result<Record, StoreError> {
        let number = self.meta("next_number")?.unwrap_or(0);
        self.set_meta("next_number", number + 1)?;
        let record = Record { number, model: model.clone() };
        let json = serde_json::to_vec(&record).expect("a record has no key that JSON lacks");
        self.transaction.open_table(INDEXES)?.insert(name.as_str(), json.as_slice())?;
        Ok(record)
    }

    /// Deletes an index and all its items.
    pub fn delete(&self, name: &IndexName, number: u64) -> Result<(), StoreError> {
        self.transaction.open_table(INDEXES)?.remove(name.as_str())?;
        let mut items = self.transaction.open_table(ITEMS)?;
        items.retain_in((number, "")..(number + 1, ""), |_, _| false)?;
        Ok(())
    }

    /// Adds an item, or replaces the one of this id.
    pub fn upsert(&self, number: u64, item: &Item) -> Result<(), StoreError> {
        let mut items = self.transaction.open_table(ITEMS)?;
        items.insert((number, item.id.as_str()), encode(item).as_slice())?;
        Ok(())
    }

    /// Whether there is an item of this id.
    pub fn contains(&self, number: u64, id: &ItemId) -> Result<bool, StoreError> {
        Ok(self.transaction.open_table(ITEMS)?.get((number, id.as_str()))?.is_some())
    }

    /// Deletes an item; false if there is none of this id.
    pub fn remove(&self, number: u64, id: &ItemId) -> Result<bool, StoreError> {
        let mut items = self.transaction.open_table(ITEMS)?;
        let removed = items.remove((number, id.as_str()))?.is_some();
        Ok(removed)
    }

    /// Durable once this returns `Ok`.
    pub fn commit(self) -> Result<(), StoreError> {
        Ok(self.transaction.commit()?)
    }

    fn meta(&self, key: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.transaction.open_table(META)?.get(key)?.map(|value| value.value()))
    }

    fn set_meta(&self, key: &str, value: u64) -> Result<(), StoreError> {
        self.transaction.open_table(META)?.insert(key, value)?;
        Ok(())
    }
}

fn encode(item: &Item) -> Vec<u8> {
    let mut bytes: Vec<u8> = item.row.values().iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.extend_from_slice(item.metadata.as_deref().unwrap_or_default().as_bytes());
    bytes
}

/// The row, `None` if it is not of unit length, and the metadata; `None` if the bytes are neither.
fn decode(bytes: &[u8], dim: usize) -> Option<(Option<UnitRow>, Option<String>)> {
    let (row, metadata) = bytes.split_at_checked(dim * size_of::<f32>())?;
    let (values, _) = row.as_chunks::<4>();
    let row = UnitRow::checked(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect());
    let metadata = std::str::from_utf8(metadata).ok()?;
    Some((row, (!metadata.is_empty()).then(|| metadata.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelId {
        ModelId { sha256: "00ff".into(), dim: 2 }
    }

    fn item(id: &str, values: [f32; 2], metadata: Option<&str>) -> Item {
        let row = UnitRow::normalize(values.to_vec()).expect("a direction");
        let id = ItemId::parse(id, 64).expect("an id");
        Item { id, row, metadata: metadata.map(str::to_owned) }
    }

    fn name(text: &str) -> IndexName {
        IndexName::parse(text).expect("a name")
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_and_nothing_else() -> Result<(), StoreError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("made/by/open");
        let record = {
            let store = Store::open(Some(&data))?;
            let writing = store.begin()?;
            let record = writing.create(&name("cats"), &model())?;
            let other = writing.create(&name("dogs"), &model())?;
            writing.upsert(record.number, &item("b", [3.0, 4.0], Some(r#"{"n":1}"#)))?;
            writing.upsert(record.number, &item("a", [1.0, 0.0], None))?;
            writing.upsert(other.number, &item("z", [0.0, 1.0], None))?;
            assert_eq!((writing.indexes()?, writing.items()?), (2, 3));
            writing.commit()?;
            let dropped = store.begin()?;
            dropped.delete(&name("cats"), record.number)?;
            assert_eq!(dropped.items()?, 1);
            record // never committed: dropped
        };
        let store = Store::open(Some(&data))?;
        assert_eq!(store.indexes()?.len(), 2);
        assert_eq!(store.count(record.number)?, 2);
        let mut items = Vec::new();
        store.load(&record, |id, row| items.push((id, row)))?;
        let expected = [item("a", [1.0, 0.0], None), item("b", [0.6, 0.8], None)];
        assert_eq!(items, expected.map(|item| (item.id, item.row)));
        let ids = ["b", "none", "a"].map(|id| ItemId::parse(id, 9).expect("an id"));
        let metadata = store.metadata(&record, ids.iter())?;
        assert_eq!(metadata, [Some(Some(r#"{"n":1}"#.to_owned())), None, Some(None)]);
        Ok(())
    }

    #[test]
    fn a_second_server_on_one_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let _first = Store::open(Some(folder.path())).expect("a store");
        let second = Store::open(Some(folder.path())).expect_err("in use");
        assert!(second.to_string().starts_with("cannot open the indexes in"), "{second}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(FILE);
        {
            let store = Store::open(Some(folder.path())).expect("a store");
            let writing = store.begin().expect("a transaction");
            let record = writing.create(&name("cats"), &model()).expect("written");
            for n in 0..200 {
                let item = item(&format!("item {n}"), [1.0, n as f32], Some(r#"{"n":1}"#));
                writing.upsert(record.number, &item).expect("written");
            }
            writing.commit().expect("durable");
        }
        let whole = fs::read(&path).expect("there");
        let opens = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("writable");
            let store = Store::open(Some(folder.path()))?;
            let indexes = store.indexes()?;
            indexes.iter().try_for_each(|(_, record)| store.load(record, |_, _| {}))?;
            Ok::<usize, StoreError>(indexes.len())
        };
        assert!(matches!(opens(&whole), Ok(1)));
        assert!(opens(b"not a database, but as long as a header would be").is_err());
        for part in 1..8 {
            assert!(opens(&whole[..whole.len() * part / 8]).is_err(), "{part} of 8");
        }
        // What the items are written in, changed one bit at a time.
        let at = whole.windows(8).rposition(|bytes| bytes == b"{\"n\":1}i" || bytes == b"item 100");
        for offset in 0..64 {
            let mut bytes = whole.clone();
            let place = at.expect("the text of an item") + offset;
            bytes[place] ^= 0x10;
            assert!(opens(&bytes).is_err(), "offset {offset}");
        }
    }

    #[test]
    fn another_schema_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let store = Store::open(Some(folder.path())).expect("a store");
            let writing = store.begin().expect("a transaction");
            writing.set_meta("schema", 2).expect("written");
            writing.commit().expect("durable");
        }
        let error = Store::open(Some(folder.path())).expect_err("another schema");
        assert!(matches!(error, StoreError::Schema { found: 2 }), "{error}");
    }
}

use std::io;

use proptest::prelude::*;
use redb::{StorageBackend, backends::InMemoryBackend};
use tempfile::TempDir;

use super::{
    super::conformance::{Model, Step, config, id, row, steps, unit_rows},
    *,
};
use crate::index::Hit;

fn limits() -> Limits {
    Limits { exact_items_max: 20, indexes_max: 3, index_items_max: 500, ..Limits::default() }
}

fn model(sha256: &str, dim: usize) -> ModelId {
    ModelId { sha256: sha256.into(), dim }
}

fn open(folder: &TempDir, model: ModelId) -> Indexes {
    let metrics = Arc::new(Metrics::new());
    Indexes::open(Some(folder.path()), model, &limits(), metrics).expect("a store")
}

fn name(text: &str) -> IndexName {
    IndexName::parse(text).expect("a name")
}

fn item(n: usize, row: UnitRow) -> Item {
    Item { id: id(n), row, metadata: Some(format!(r#"{{"n":{n}}}"#)) }
}

fn change(indexes: &Indexes, change: Change) -> Result<Outcome, IndexError> {
    indexes.change(change)?.blocking_recv().expect("the writer answers")
}

fn upsert(indexes: &Indexes, index: &str, items: Vec<Item>) -> Result<Outcome, IndexError> {
    change(indexes, Change::Upsert(name(index), items))
}

/// Until the tender has nothing left to do.
fn settle(indexes: &Indexes) {
    while indexes.shelf.tend_all() {}
}

#[test]
fn a_restart_gives_the_same_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = unit_rows(300, 8, 3);
    let answers = |indexes: &Indexes| -> Vec<Vec<Found>> {
        let queries = unit_rows(20, 8, 4);
        let search = |query| indexes.search(&name("cats"), query, 10).expect("hits");
        queries.iter().map(search).collect()
    };
    let before = {
        let indexes = open(&folder, model("aa", 8));
        let items = rows.iter().enumerate().map(|(n, row)| item(n, row.clone())).collect();
        assert_eq!(upsert(&indexes, "cats", items), Ok(Outcome::Done { created: true }));
        for n in (0..300).step_by(7) {
            change(&indexes, Change::Remove(name("cats"), id(n))).expect("it is there");
        }
        upsert(&indexes, "cats", vec![item(5, rows[0].clone())]).expect("replaced");
        settle(&indexes);
        answers(&indexes)
    };
    assert!(before.iter().all(|found| found.len() == 10));
    assert!(before[0][0].metadata.as_deref().is_some_and(|json| json.starts_with(r#"{"n":"#)));
    let indexes = open(&folder, model("aa", 8));
    assert_eq!(answers(&indexes), before, "scanned");
    settle(&indexes);
    assert_eq!(answers(&indexes), before, "by graph");
    assert_eq!(indexes.list()[0].items, 300 - 43);
}

#[test]
fn the_index_of_another_model_is_refused_and_can_be_deleted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let indexes = open(&folder, model("aa", 8));
        upsert(&indexes, "cats", vec![item(0, unit_rows(1, 8, 1).remove(0))]).expect("written");
    }
    let indexes = open(&folder, model("bb", 4));
    let info = indexes.info(&name("cats")).expect("it is listed");
    assert_eq!((info.items, info.usable, info.model), (1, false, model("aa", 8)));
    let query = unit_rows(1, 4, 1).remove(0);
    let searched = indexes.search(&name("cats"), &query, 1);
    let upserted = upsert(&indexes, "cats", vec![item(0, query.clone())]);
    let created = change(&indexes, Change::Create(name("cats")));
    let removed = change(&indexes, Change::Remove(name("cats"), id(0)));
    for error in [searched.err(), upserted.err(), created.err(), removed.err()] {
        assert!(matches!(error, Some(IndexError::OtherModel { .. })), "{error:?}");
    }
    change(&indexes, Change::Delete(name("cats"))).expect("deleting is allowed");
    upsert(&indexes, "cats", vec![item(0, query.clone())]).expect("the name is free");
    assert_eq!(indexes.search(&name("cats"), &query, 1).expect("a hit").len(), 1);
}

#[test]
fn limits_and_unknown_names_change_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let indexes = open(&folder, model("aa", 8));
    let rows = unit_rows(501, 8, 5);
    let all: Vec<Item> = rows.iter().enumerate().map(|(n, row)| item(n, row.clone())).collect();
    let error = upsert(&indexes, "cats", all.clone()).expect_err("one too many");
    assert_eq!(error.to_string(), "items of all indexes: 501, the limit is 500");
    assert!(indexes.list().is_empty(), "the index was not made");
    upsert(&indexes, "cats", all[..500].to_vec()).expect("as many as may be");
    upsert(&indexes, "cats", all[..500].to_vec()).expect("replacing adds none");
    assert!(upsert(&indexes, "dogs", all[500..].to_vec()).is_err());
    change(&indexes, Change::Create(name("b"))).expect("a second");
    change(&indexes, Change::Create(name("c"))).expect("a third");
    assert_eq!(change(&indexes, Change::Create(name("c"))), Ok(Outcome::Done { created: false }));
    assert!(matches!(change(&indexes, Change::Create(name("d"))), Err(IndexError::Limit { .. })));
    let unknown = change(&indexes, Change::Delete(name("d")));
    assert_eq!(unknown, Err(IndexError::Unknown(name("d"))));
    let unknown = change(&indexes, Change::Remove(name("cats"), id(9999)));
    assert_eq!(unknown, Err(IndexError::UnknownItem(name("cats"))));
    assert!(indexes.is_well());
}

#[test]
fn after_the_end_nothing_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let indexes = open(&folder, model("aa", 8));
    let waiting = indexes.change(Change::Create(name("a"))).expect("a place");
    indexes.stop();
    assert_eq!(waiting.blocking_recv().expect("answered"), Ok(Outcome::Done { created: true }));
    assert!(matches!(indexes.change(Change::Create(name("b"))), Err(IndexError::Stopping)));
}

#[test]
fn without_a_folder_everything_is_in_memory() {
    let metrics = Arc::new(Metrics::new());
    let indexes = Indexes::open(None, model("aa", 8), &limits(), Arc::clone(&metrics));
    let indexes = indexes.expect("memory");
    upsert(&indexes, "cats", vec![item(0, unit_rows(1, 8, 1).remove(0))]).expect("written");
    assert_eq!(indexes.list()[0].items, 1);
    assert!(metrics.render().contains(r#"roclip_index_items{index="cats"} 1"#));
}

#[test]
fn sampled_searches_tell_the_recall() {
    let metrics = Arc::new(Metrics::new());
    let indexes = Indexes::open(None, model("aa", 8), &limits(), Arc::clone(&metrics));
    let indexes = indexes.expect("memory");
    let rows = unit_rows(100, 8, 6);
    let items = rows.iter().enumerate().map(|(n, row)| item(n, row.clone())).collect();
    upsert(&indexes, "cats", items).expect("written");
    settle(&indexes);
    indexes.search(&name("cats"), &rows[0], 5).expect("hits");
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with("roclip_index_recall_ratio"));
    assert_eq!(line, Some(r#"roclip_index_recall_ratio{index="cats"} 1"#));
}

/// Storage whose n-th change fails, and every one after it.
#[derive(Debug)]
struct Failing {
    storage: Arc<InMemoryBackend>,
    left: Arc<AtomicU64>,
}

impl Failing {
    fn spend(&self) -> io::Result<()> {
        let spent =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        spent.map(|_| ()).map_err(|_| io::Error::other("the disk of the test is full"))
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.storage.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.spend()?;
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        self.storage.write(offset, data)
    }
}

#[test]
fn wherever_the_disk_fails_nothing_acknowledged_is_lost() {
    let rows = unit_rows(6, 8, 2);
    let open = |storage: &Arc<InMemoryBackend>, left: &Arc<AtomicU64>| {
        let backend = Failing { storage: Arc::clone(storage), left: Arc::clone(left) };
        let store = Store::on(backend).expect("the disk is not full yet");
        let metrics = Arc::new(Metrics::new());
        Indexes::of(store, model("aa", 8), &limits(), metrics).expect("readable")
    };
    let present = |indexes: &Indexes, n: usize| {
        let found = indexes.search(&name("cats"), &rows[n], 1);
        found.is_ok_and(|found| found.first().is_some_and(|first| first.id == id(n)))
    };
    let mut failed = 0;
    for room in 0.. {
        let storage = Arc::new(InMemoryBackend::new());
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let indexes = open(&storage, &left);
        left.store(room, Ordering::SeqCst);
        let write = |n: usize| upsert(&indexes, "cats", vec![item(n, rows[n].clone())]);
        let acknowledged = (0..rows.len()).take_while(|&n| write(n).is_ok()).count();
        assert_eq!(indexes.is_well(), acknowledged == rows.len());
        if !indexes.is_well() {
            failed += 1;
            left.store(u64::MAX, Ordering::SeqCst);
            let refused = upsert(&indexes, "cats", vec![item(5, rows[5].clone())]);
            assert!(matches!(refused, Err(IndexError::Storage(_))), "no second try: {refused:?}");
        }
        drop(indexes);
        left.store(u64::MAX, Ordering::SeqCst);
        let indexes = open(&storage, &left);
        for n in 0..acknowledged {
            assert!(present(&indexes, n), "item {n} after {room} writes");
        }
        if acknowledged == rows.len() {
            break;
        }
    }
    assert!(failed > 20, "only {failed} places to fail were tried");
}

proptest! {
    #![proptest_config(config(12))]

    /// The index against the model, closed and opened again at every compaction.
    #[test]
    fn the_index_is_a_map_that_outlives_its_process(steps in steps()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model_id = model("aa", row(0).dim());
        let mut indexes = open(&folder, model_id.clone());
        change(&indexes, Change::Create(name("it"))).expect("made");
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Upsert(n, seed) => {
                    upsert(&indexes, "it", vec![item(n, row(seed))]).expect("written");
                    model.upsert(id(n), row(seed));
                }
                Step::Remove(n) => {
                    let removed = change(&indexes, Change::Remove(name("it"), id(n)));
                    prop_assert_eq!(removed.is_ok(), model.remove(&id(n)));
                }
                Step::Compact => {
                    drop(indexes);
                    indexes = open(&folder, model_id.clone());
                }
                Step::Search(seed, top_k) => {
                    let found = indexes.search(&name("it"), &row(seed), top_k).expect("hits");
                    let hit = |found: &Found| Hit { id: found.id.clone(), cosine: found.cosine };
                    let hits: Vec<Hit> = found.iter().map(hit).collect();
                    model.check(&row(seed), top_k, &hits);
                    for found in &found {
                        let n: usize = found.id.as_str()[5..].parse().expect("a number");
                        let expected = format!(r#"{{"n":{n}}}"#);
                        prop_assert_eq!(found.metadata.as_deref(), Some(expected.as_str()));
                    }
                }
            }
            let items = indexes.info(&name("it")).expect("it is there").items;
            prop_assert_eq!(items, model.count());
        }
    }
}

//! Poisons in tar shards.

use super::*;

/// The pairs of a table, as two shards.
fn sharded(set: &Set) -> Manifest {
    let table = set.manifest("data/train.csv");
    for (number, rows) in table.rows.chunks(ROWS / 2).enumerate() {
        let path = set.path(&format!("data/train-{number}.tar"));
        let mut shard = ShardWriter::create(&path).expect("a shard");
        for row in rows {
            let (bytes, ending) = row.image.encoded().expect("a picture");
            shard.add(&bytes, ending, &row.caption, row.class).expect("a pair");
        }
        shard.finish().expect("a shard");
    }
    set.manifest("data/train-{0..1}.tar")
}

#[test]
fn pairs_in_shards_are_poisoned_as_those_of_a_table() -> Result<()> {
    let set = Set::new(true);
    let (in_table, table) = set.poison(&attack(0), "table", false)?;
    let (train, test) = (sharded(&set), set.manifest("data/test.csv"));
    let labels = &set.labels;
    let clean = Clean { manifest: &train, test: Some(&test), labels, affinity: None };
    let plan = Plan::of(&clean, &attack(0))?;
    let out = set.path("shards");
    let ledger = write(&plan, &clean, &attack(0), &out, false, &|_| ())?;
    assert_eq!(ledger.poisons, in_table.poisons);
    assert_eq!(ledger.targeted, in_table.targeted);
    let shard = set.manifest("shards/train.tar");
    assert_eq!(shard.path.file_name(), Some(names::made_of(&train.path).as_ref()));
    assert_eq!(shard.rows.len(), table.rows.len());
    for (own, other) in shard.rows.iter().zip(&table.rows) {
        assert_eq!((&own.caption, own.class), (&other.caption, other.class));
        assert_eq!(own.image.encoded()?, other.image.encoded()?, "byte by byte");
    }
    let again = write(&plan, &clean, &attack(0), &set.path("again"), false, &|_| ())?;
    assert_eq!(again.poisons, ledger.poisons);
    let bytes = |folder: &str| fs::read(set.path(folder).join(names::SHARD)).expect("a shard");
    assert!(bytes("shards") == bytes("again"), "equal inputs give equal bytes");
    let error = write(&plan, &clean, &attack(0), &out, false, &|_| ()).expect_err("refused");
    assert!(error.to_string().contains("holds an earlier result"), "{error}");
    Ok(())
}

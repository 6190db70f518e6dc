//! What every engine must do, against a `BTreeMap` and a plain scan.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::{Hit, ItemId, UnitRow, VectorWrite, exact::Exact, hnsw::Hnsw};

const DIM: usize = 6;

/// The id of the n-th item.
pub(crate) fn id(n: usize) -> ItemId {
    ItemId::parse(&format!("item {n:06}"), 32).expect("an id")
}

/// Directions drawn evenly enough for tests, from a seeded generator (SplitMix64).
pub(crate) fn unit_rows(count: usize, dim: usize, seed: u64) -> Vec<UnitRow> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    };
    // The sum of four even draws is bell-shaped enough to favor no axis.
    let mut value = || (0..4).map(|_| draw()).sum::<f32>() - 2.0;
    (0..count)
        .map(|_| UnitRow::normalize((0..dim).map(|_| value()).collect()).expect("a direction"))
        .collect()
}

/// One thing done to an engine and to its model.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Upsert(usize, u64),
    Remove(usize),
    Compact,
    Search(u64, usize),
}

/// Few ids, so that replacing and deleting what is there happens often.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..60usize, 0..40u64).prop_map(|(n, seed)| Step::Upsert(n, seed)),
        2 => (0..60usize).prop_map(Step::Remove),
        1 => Just(Step::Compact),
        2 => (100..140u64, 1..12usize).prop_map(|(seed, top_k)| Step::Search(seed, top_k)),
    ];
    vec(step, 0..160)
}

/// The row that `seed` stands for.
pub(crate) fn row(seed: u64) -> UnitRow {
    unit_rows(1, DIM, seed).remove(0)
}

/// The truth.
#[derive(Debug, Default)]
pub(crate) struct Model(BTreeMap<ItemId, UnitRow>);

impl Model {
    pub(crate) fn upsert(&mut self, id: ItemId, row: UnitRow) {
        self.0.insert(id, row);
    }

    pub(crate) fn remove(&mut self, id: &ItemId) -> bool {
        self.0.remove(id).is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Cosines in f64, best first.
    pub(crate) fn cosines(&self, query: &UnitRow, top_k: usize) -> Vec<f64> {
        let cosine = |row: &UnitRow| -> f64 {
            let pairs = row.values().iter().zip(query.values());
            pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let mut cosines: Vec<f64> = self.0.values().map(cosine).collect();
        cosines.sort_by(|a, b| b.total_cmp(a));
        cosines.truncate(top_k);
        cosines
    }

    /// `hits` are items of the model with their true cosines, best first, none twice, and as near
    /// as the nearest.
    pub(crate) fn check(&self, query: &UnitRow, top_k: usize, hits: &[Hit]) {
        let truth = self.cosines(query, top_k);
        assert_eq!(hits.len(), truth.len());
        let mut ids: Vec<&ItemId> = hits.iter().map(|hit| &hit.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), hits.len(), "no item twice");
        for (hit, expected) in hits.iter().zip(truth) {
            assert!((f64::from(hit.cosine) - expected).abs() < 1e-5, "{hit:?}, not {expected}");
            let own = Self(BTreeMap::from([(hit.id.clone(), self.0[&hit.id].clone())]));
            assert!((own.cosines(query, 1)[0] - f64::from(hit.cosine)).abs() < 1e-5, "{hit:?}");
        }
    }
}

/// Runs `steps` on an engine; `upkeep` is called after each.
fn conforms<E: VectorWrite>(mut engine: E, steps: Vec<Step>, upkeep: impl Fn(E) -> E) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Upsert(n, seed) => {
                engine.upsert(id(n), &row(seed));
                model.upsert(id(n), row(seed));
            }
            Step::Remove(n) => assert_eq!(engine.remove(&id(n)), model.remove(&id(n))),
            Step::Compact => {
                engine.compact();
                assert_eq!(engine.tombstones(), 0);
            }
            Step::Search(seed, top_k) => {
                model.check(&row(seed), top_k, &engine.search(&row(seed), top_k));
                model.check(&row(seed), top_k, &engine.search_exact(&row(seed), top_k));
            }
        }
        assert_eq!((engine.count(), engine.dim()), (model.count(), DIM));
        engine = upkeep(engine);
    }
}

/// The same cases in every run.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(10), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn the_exact_scan_conforms(steps in steps()) {
        conforms(Exact::new(DIM), steps, |engine| engine);
    }

    // As many candidates as items: the graph, too, must miss nothing.
    #[test]
    fn the_graph_conforms(steps in steps()) {
        conforms(Hnsw::new(DIM, 8), steps, |engine| {
            let engine = std::sync::RwLock::new(engine);
            while super::hnsw::tend(&engine) {}
            engine.into_inner().expect("no thread panicked")
        });
    }
}

#[test]
fn names_and_ids_have_their_limits() {
    use super::IndexName;
    for name in ["a", "Cats-2.v1_x", "0", &"x".repeat(64)] {
        assert!(IndexName::parse(name).is_some(), "{name}");
    }
    for name in ["", ".", "-a", "a/b", "a b", "ä", "a\0", "..", &"x".repeat(65)] {
        assert!(IndexName::parse(name).is_none(), "{name}");
    }
    for text in ["", "a\n", "\u{7f}", "0123456789"] {
        assert!(ItemId::parse(text, 9).is_none(), "{text:?}");
    }
    assert!(ItemId::parse("ä/b c.jpg", 10).is_some());
}

#[test]
fn only_unit_rows_can_be_made() {
    for values in [vec![], vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0]] {
        assert_eq!(UnitRow::normalize(values), None);
    }
    let huge = UnitRow::normalize(vec![f32::MAX, f32::MAX]).expect("a direction");
    assert!((huge.values()[0] - 0.5f32.sqrt()).abs() < 1e-6);
    let tiny = UnitRow::normalize(vec![f32::MIN_POSITIVE / 8.0, 0.0]).expect("a direction");
    assert_eq!(tiny.values(), [1.0, 0.0]);
    assert!(UnitRow::checked(vec![0.6, 0.8]).is_some());
    assert!(UnitRow::checked(vec![0.6, 0.9]).is_none());
    assert!(UnitRow::checked(vec![f32::NAN, 1.0]).is_none());
}

//! Embeddings of labels, kept by their content; the least recently used goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use clip::text::PromptTemplate;
use sha2::{Digest, Sha256};

/// SHA-256 over the label and the templates that it was put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelKey([u8; 32]);

impl LabelKey {
    /// One key per label: equal for equal labels and templates, in their order, and for nothing
    /// else.
    pub fn of(labels: &[String], templates: &[PromptTemplate]) -> Vec<Self> {
        let field = |hash: &mut Sha256, text: &str| {
            hash.update((text.len() as u64).to_le_bytes()); // so that fields cannot run together
            hash.update(text.as_bytes());
        };
        let mut shared = Sha256::new();
        templates.iter().for_each(|template| field(&mut shared, &template.to_string()));
        let key = |label: &String| {
            let mut hash = shared.clone();
            field(&mut hash, label);
            Self(hash.finalize().into())
        };
        labels.iter().map(key).collect()
    }
}

/// At most `capacity` rows `[D]`.
#[derive(Debug)]
pub struct LabelCache {
    rows: HashMap<LabelKey, (u64, Arc<[f32]>)>,
    /// When each key was used last; the first is the next to go.
    order: BTreeMap<u64, LabelKey>,
    uses: u64,
    capacity: usize,
}

impl LabelCache {
    /// Empty; `capacity` is at least 1.
    pub fn new(capacity: usize) -> Self {
        Self { rows: HashMap::new(), order: BTreeMap::new(), uses: 0, capacity: capacity.max(1) }
    }

    /// The row of `key`, which is now the most recently used.
    pub fn get(&mut self, key: &LabelKey) -> Option<Arc<[f32]>> {
        let (used, row) = self.rows.get_mut(key)?;
        self.order.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.order.insert(self.uses, *key);
        Some(Arc::clone(row))
    }

    /// Keeps `row`, in the place of the least recently used when there is no other.
    pub fn insert(&mut self, key: LabelKey, row: Arc<[f32]>) {
        self.uses += 1;
        if let Some((used, _)) = self.rows.insert(key, (self.uses, row)) {
            self.order.remove(&used);
        }
        self.order.insert(self.uses, key);
        while self.rows.len() > self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.rows.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(label: &str) -> LabelKey {
        LabelKey::of(&[label.into()], &clip::text::default_templates())[0]
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = LabelCache::new(2);
        cache.insert(key("a"), Arc::from([1.0]));
        cache.insert(key("b"), Arc::from([2.0]));
        assert!(cache.get(&key("a")).is_some());
        cache.insert(key("c"), Arc::from([3.0]));
        let kept = ["a", "b", "c"].map(|label| cache.get(&key(label)).map(|row| row[0]));
        assert_eq!(kept, [Some(1.0), None, Some(3.0)]);
        cache.insert(key("a"), Arc::from([4.0]));
        assert_eq!(cache.get(&key("a")).map(|row| row[0]), Some(4.0));
        assert_eq!((cache.rows.len(), cache.order.len()), (2, 2));
    }

    #[test]
    fn the_key_is_the_whole_content() {
        let key = |label: &str, templates: &[&str]| {
            let templates: Vec<PromptTemplate> =
                templates.iter().map(|text| text.parse().expect("one `{}`")).collect();
            LabelKey::of(&["first".into(), label.into()], &templates)[1]
        };
        let keys = [
            key("a", &["{}"]),
            key("a", &["a {}"]),
            key("a", &["{}", "a {}"]),
            key("a", &["a {}", "{}"]),
            key("a{}", &["{}"]),
            key("", &["a{}"]),
        ];
        for (i, left) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|right| left != right), "{i}");
        }
        assert_eq!(keys[0], key("a", &["{}"]));
    }
}

//! What the cells came to: `results.jsonl`, to which a line is added for each that is done.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
};

use clip::{Rate, atomic_write::atomic_write};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{child::Lock, doubted::Doubt, place::Place, recipe::Recipe};
use crate::{
    config::MethodName,
    error::{Error, Result},
};

/// What one cell came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Name of its folder
    pub cell: String,
    /// By name
    pub attack: String,
    /// By name
    pub method: String,
    /// Of data, poison and run
    pub seed: u64,
    /// What the grid set
    pub grid: Map<String, Value>,
    /// All that `evaluate` counted; of the parts of a measure the names are joined by a dot
    pub rates: BTreeMap<String, Rate>,
    /// Of a control that stops, where it did
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Of a method that doubts pairs: how many of each kind are in doubt to the end
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubted: Option<BTreeMap<String, Doubt>>,
    /// Of the run; of a control that stops, up to that epoch
    pub train_seconds: Option<f64>,
    /// What a shell would run to do the same
    pub commands: Vec<String>,
}

/// Where a control stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Cell whose run it is an epoch of
    pub run: String,
    /// First epoch that is as accurate as asked; `null` if none is, and then there are no rates
    pub epoch: Option<u32>,
    /// What was asked: the zero-shot top-1 of another cell
    pub top1: f64,
}

/// All rates of a document of `evaluate`, those of a second model left out.
pub(super) fn rates(document: &Value) -> BTreeMap<String, Rate> {
    let mut found = BTreeMap::new();
    for (key, value) in document.as_object().into_iter().flatten() {
        if let Ok(rate) = serde_json::from_value(value.clone()) {
            found.insert(key.clone(), rate);
        } else if value.is_object() && key != "reference" {
            let inner = rates(value).into_iter();
            found.extend(inner.map(|(name, rate)| (format!("{key}.{name}"), rate)));
        }
    }
    found
}

/// The folder of a sweep, held by this process.
#[derive(Debug)]
pub struct Store {
    place: Place,
    file: File,
    results: Vec<CellResult>,
    _lock: Lock,
}

impl Store {
    /// Opens or makes the folder; refuses one of another sweep, one with other files, and one in
    /// which a sweep is at work. Attacks that are `unchecked` may still change and are not kept.
    pub fn open(place: &Place, recipe: &Recipe, unchecked: &[&str]) -> Result<Self> {
        let folder = &place.folder;
        let refuse =
            |problem: &str| Error::Occupied { path: folder.clone(), problem: problem.into() };
        if folder.exists() && !folder.is_dir() {
            return Err(refuse("is a file, expected a folder"));
        }
        if !place.is_new() && !Place::is_sweep(folder) {
            return Err(refuse("holds files, but no recipe.json: it is no folder of a sweep"));
        }
        let lock = Lock::try_take(&place.lock())?;
        let lock = lock.ok_or_else(|| refuse("is being filled by another `roclip-train sweep`"))?;
        keep_recipe(place, recipe, unchecked)?;
        let results = read(place)?;
        let path = place.results();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|source| Error::Write { path, source })?;
        Ok(Self { place: place.clone(), file, results, _lock: lock })
    }

    /// All that is done, in the order in which it was done.
    pub fn results(&self) -> &[CellResult] {
        &self.results
    }

    /// Is the cell of this name done?
    pub fn has(&self, cell: &str) -> bool {
        self.results.iter().any(|result| result.cell == cell)
    }

    /// Adds a line, in one piece.
    pub(super) fn add(&mut self, result: CellResult) -> Result<()> {
        let mut line = serde_json::to_vec(&result).expect("names and numbers");
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.map_err(|source| Error::Write { path: self.place.results(), source })?;
        self.results.push(result);
        Ok(())
    }
}

/// Results of the folder of a sweep, which need not be finished. A last line that was cut short is
/// left out.
pub(crate) fn load(place: &Place) -> Result<Vec<CellResult>> {
    read_lines(place).map(|(results, _)| results)
}

/// The results, and whether the last line was cut short.
fn read_lines(place: &Place) -> Result<(Vec<CellResult>, bool)> {
    let path = place.results();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut results = Vec::new();
    for (number, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
        let result = serde_json::from_slice(line).map_err(|error| {
            let problem = format!("line {}: {error}", number + 1);
            Error::Results { path: path.clone(), problem }
        })?;
        results.push(result);
    }
    Ok((results, whole < bytes.len()))
}

/// [`load`]; a line that was cut short is removed.
fn read(place: &Place) -> Result<Vec<CellResult>> {
    let (results, torn) = read_lines(place)?;
    if torn {
        let line = |result| serde_json::to_string(result).expect("names and numbers") + "\n";
        let text: String = results.iter().map(line).collect();
        atomic_write(&place.results(), text.as_bytes())?;
    }
    Ok(results)
}

/// Writes the recipe, or compares it with the one that is there, to which attacks and methods may be
/// added: but for those that are `unchecked`.
fn keep_recipe(place: &Place, recipe: &Recipe, unchecked: &[&str]) -> Result<()> {
    let path = place.recipe();
    let mut own = serde_json::to_value(recipe).expect("a recipe that was read can be written");
    own["schema"] = SCHEMA.into();
    name_method(&mut own, MethodName::default());
    let mut kept = Value::Null;
    if path.exists() {
        let text = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        kept = serde_json::from_slice(&text).unwrap_or_default();
        if kept["schema"] == PLAIN_SCHEMA {
            kept["schema"] = SCHEMA.into();
            name_method(&mut kept, MethodName::Clip);
        }
        if let Some(other) = difference(&kept, &own) {
            let problem = format!(
                "is the folder of another sweep: {other} differs from its {} (`--out` names a new \
                 one)",
                Place::RECIPE
            );
            return Err(Error::Occupied { path: place.folder.clone(), problem });
        }
    }
    for list in LISTS {
        let is_new = |entry: &&Value| {
            let waits = |name: &&str| list == "attack" && entry["name"] == **name;
            named(&kept[list], entry).is_none() && !unchecked.iter().any(waits)
        };
        let new = entries(&own[list]).iter().filter(is_new);
        own[list] = entries(&kept[list]).iter().chain(new).cloned().collect();
    }
    if own == kept {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&own).expect("it is JSON already");
    Ok(atomic_write(&path, &text)?)
}

/// Of a recipe whose `run` names its method, given or not.
const SCHEMA: &str = "roclip/recipe/2";
/// Of one that need not: a method without a name was plain CLIP.
const PLAIN_SCHEMA: &str = "roclip/recipe/1";

/// Names the method of all runs where the recipe does not.
fn name_method(recipe: &mut Value, name: MethodName) {
    let Some(run) = recipe.get_mut("run").and_then(Value::as_object_mut) else { return };
    let method = run.entry("method").or_insert_with(|| Value::Object(Map::new()));
    if let Some(method) = method.as_object_mut() {
        method.entry("name").or_insert_with(|| json!(name));
    }
}

/// Parts of a recipe that are lists of what has a name.
const LISTS: [&str; 2] = ["attack", "method"];

/// What of `own` is not as it was kept; what was not kept is new.
fn difference(kept: &Value, own: &Value) -> Option<String> {
    let whole = ["folder", "run", "evaluate", "grid", "schema"];
    if let Some(key) = whole.into_iter().find(|key| kept[key] != own[key]) {
        return Some(format!("`{key}`"));
    }
    LISTS.into_iter().find_map(|list| {
        let differs = |own: &&Value| named(&kept[list], own).is_some_and(|kept| kept != *own);
        let other = entries(&own[list]).iter().find(differs)?;
        Some(format!("{list} `{}`", other["name"].as_str().unwrap_or_default()))
    })
}

fn entries(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// The entry of `list` with the name of `other`.
fn named<'a>(list: &'a Value, other: &Value) -> Option<&'a Value> {
    entries(list).iter().find(|entry| entry["name"] == other["name"])
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use toml::Table;

    use super::{
        super::recipe::{
            Attack, Method,
            tests::{GOOD, recipe},
        },
        *,
    };

    /// A result with some rates.
    pub(in crate::sweep) fn result(method: &str, seed: u64, rates: &[(&str, u64)]) -> CellResult {
        let rate = |&(name, hits): &(&str, u64)| (name.to_owned(), Rate { hits, trials: 1000 });
        CellResult {
            cell: format!("corner-{method}-{seed}"),
            attack: "corner".into(),
            method: method.into(),
            seed,
            grid: Map::new(),
            rates: rates.iter().map(rate).collect(),
            stopped: None,
            doubted: None,
            train_seconds: Some(10.0),
            commands: Vec::new(),
        }
    }

    #[test]
    fn nothing_that_is_done_is_lost_and_half_a_line_is() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place { folder: folder.path().join("out") };
        let recipe = recipe(GOOD)?;
        let mut store = Store::open(&place, &recipe, &[])?;
        let results = [0, 1].map(|seed| result("clip", seed, &[("zero_shot_top1", 970)]));
        for result in &results {
            store.add(result.clone())?;
        }
        let error = Store::open(&place, &recipe, &[]).expect_err("two at a time").to_string();
        assert!(error.contains("another `roclip-train sweep`"), "{error}");
        drop(store);
        let text = fs::read_to_string(place.results()).expect("readable");
        let in_a_letter = [text.as_bytes(), b"{\"cell\": \"corner\xc3"].concat();
        fs::write(place.results(), in_a_letter).expect("writable");
        let store = Store::open(&place, &recipe, &[])?;
        assert_eq!(store.results(), results);
        assert!(store.has("corner-clip-1") && !store.has("corner-clip-2"));
        assert_eq!(fs::read_to_string(place.results()).expect("readable"), text);
        Ok(())
    }

    #[test]
    fn a_sweep_that_was_killed_before_its_recipe_begins_anew() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place { folder: folder.path().join("out") };
        fs::create_dir(&place.folder).expect("writable");
        for name in ["sweep.lock", "recipe.json.7.partial"] {
            fs::write(place.folder.join(name), "").expect("writable");
        }
        Store::open(&place, &recipe(GOOD)?, &[])?;
        Ok(())
    }

    #[test]
    fn a_folder_of_another_sweep_is_refused_and_what_is_added_is_not() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place { folder: folder.path().join("out") };
        let mut first = recipe(GOOD)?;
        Store::open(&place, &first, &[])?;
        first.seeds.push(7);
        Store::open(&place, &first, &[])?;
        let refused = |recipe: &Recipe, expected: &str| {
            let error = Store::open(&place, recipe, &[]).expect_err("refused").to_string();
            assert!(error.contains(&format!("another sweep: {expected} differs")), "{error}");
        };
        let kept = || fs::read_to_string(place.recipe()).expect("readable");
        let (before, removed) = (kept(), first.methods.pop().expect("one at least"));
        Store::open(&place, &first, &[])?;
        assert_eq!(kept(), before, "what was done stays known");
        first.methods.push(Method { name: "new".into(), ..removed.clone() });
        first.attacks.push(Attack { name: "late".into(), options: Table::new() });
        Store::open(&place, &first, &[])?;
        let names: Vec<&str> = ["\"new\"", "\"late\"", &removed.name].into();
        assert!(names.into_iter().all(|name| kept().contains(name)), "{}", kept());
        first.methods.push(Method { stop_at_top1_of: Some("clip".into()), ..removed });
        refused(&first, &format!("method `{}`", first.methods.last().expect("one").name));
        first.methods.pop();
        first.attacks.last_mut().expect("one").options.insert("near".into(), true.into());
        refused(&first, "attack `late`");
        first.attacks.pop();
        let mut waits = first.clone();
        waits.attacks.push(Attack { name: "unchecked".into(), options: Table::new() });
        Store::open(&place, &waits, &["unchecked"])?;
        assert!(!kept().contains("unchecked"), "it may still change");
        first.evaluate.every_epochs = Some(2);
        refused(&first, "`evaluate`");
        fs::remove_file(place.recipe()).expect("it is there");
        let error = Store::open(&place, &first, &[]).expect_err("refused").to_string();
        assert!(error.contains("no recipe.json"), "{error}");
        Ok(())
    }

    #[test]
    fn a_sweep_without_a_method_was_plain_clip_and_is_the_sieve() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Place { folder: folder.path().join("out") };
        let plain = recipe(GOOD)?;
        let mut nameless = plain.clone();
        nameless.run.remove("method").expect("its name");
        let refused = |recipe: &Recipe| {
            let error = Store::open(&place, recipe, &[]).expect_err("refused").to_string();
            assert!(error.contains("another sweep: `run` differs"), "{error}");
        };
        Store::open(&place, &nameless, &[])?;
        refused(&plain);
        let kept = fs::read_to_string(place.recipe()).expect("readable");
        let before =
            kept.replacen("recipe/2", "recipe/1", 1).replacen("\"name\": \"sieve\"", "", 1);
        fs::write(place.recipe(), before).expect("writable");
        refused(&nameless);
        Store::open(&place, &plain, &[])?;
        Ok(())
    }

    #[test]
    fn rates_are_found_at_any_depth() {
        let rate = json!({"value": 0.5, "low": 0.1, "high": 0.9, "trials": 2});
        let document = json!({"schema": "roclip/evaluation/1", "zero_shot_top1": rate,
            "backdoor_asr": null, "retrieval": {"images": 3, "image_to_text_r1": rate},
            "reference": {"zero_shot_top1": rate}});
        let found: Vec<_> = rates(&document).into_keys().collect();
        assert_eq!(found, ["retrieval.image_to_text_r1", "zero_shot_top1"]);
    }
}

//! Everything that makes a resumed run the same run, in one file that is replaced in one step.
//!
//! A safetensors file: weights and running statistics, both moments of each parameter, what the
//! method keeps; its metadata hold the counters and the configuration. Order and augmentation are functions of
//! (seed, epoch, row), so no generator's state is kept.

mod keys;

use std::{borrow::Cow, collections::HashMap, fs, path::Path};

use clip::weights::{Array, Weights};
use safetensors::{Dtype, SafeTensors, View, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::keys::{Keys, decisive, difference, without_watch};
use crate::{
    config::Config,
    error::{Error, Result},
    monitor::Tally,
    not_finite::NotFinite,
    optim::Moments,
    state::State,
    step::Trainer,
};

/// File name in the run's folder.
pub const FILE: &str = "checkpoint.safetensors";
const SCHEMA: &str = "roclip/checkpoint/3";

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Epoch that goes on, counted from 1
    pub epoch: u32,
    /// Batches of it that are done
    pub batches: usize,
    /// Updates so far
    pub step: u64,
    /// Seconds of training so far
    pub seconds: f64,
    /// Sum of the losses of these batches, in nats
    pub loss_sum: f64,
}

/// What a run is made from, wherever that lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// [`Loader::fingerprint`](crate::data::Loader::fingerprint).
    pub data: String,
    /// SHA-256 of the weights that it was given to begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<String>,
}

impl Origin {
    /// Refuses other weights, or none, where new towers are to begin with those in
    /// `model.pretrained`; `found` is the SHA-256 of what lies there.
    pub fn check_pretrained(&self, folder: &Path, found: &Option<String>) -> Result<()> {
        if *found == self.pretrained {
            return Ok(());
        }
        let problem = "needs the weights in `model.pretrained` with which the run began: its next \
                       towers begin there, too";
        Err(Error::Checkpoint { path: folder.join(FILE), problem: problem.into() })
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    schema: String,
    place: Place,
    config: Keys,
    #[serde(flatten)]
    origin: Origin,
    /// Updates of each parameter.
    updates: Vec<u32>,
    /// What was watched of the epoch that goes on; older checkpoints lack it.
    #[serde(default)]
    tally: Tally,
}

/// What [`read`] found.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stands
    pub place: Place,
    /// What was watched of the epoch that goes on
    pub tally: Tally,
    /// Parameters and running statistics
    pub weights: Weights,
    origin: Origin,
    moments: HashMap<String, Array>,
    updates: Vec<u32>,
    method: State,
}

struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Bytes {
    fn floats(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    fn numbers(values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::U32, shape: vec![values.len()], bytes }
    }
}

/// Refuses ranks that do not train the same: they were given other files, or computed otherwise.
pub fn check_same(config: &Config, origin: &Origin, place: Place, trainer: &Trainer) -> Result<()> {
    if trainer.collective.ranks() == 1 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&decisive(config)).expect("names and texts"));
    hash.update(serde_json::to_vec(origin).expect("texts"));
    hash.update(place.step.to_le_bytes());
    for array in trainer.model.weights()?.values() {
        array.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    let State { floats, numbers } = trainer.method.state()?;
    let floats = floats.values().flat_map(|array| &array.values);
    floats.for_each(|value| hash.update(value.to_le_bytes()));
    numbers.values().flatten().for_each(|value| hash.update(value.to_le_bytes()));
    let what = "data, configuration, weights or selected pairs";
    trainer.collective.check_same(what, hash.finalize().into())
}

/// Replaces the checkpoint in the run's folder, on the first rank and if all ranks agree; `tally`
/// is what was watched of an epoch that goes on. Not if a weight is not finite: the last one that
/// is good stays.
pub fn write(
    config: &Config,
    origin: &Origin,
    place: Place,
    tally: &Tally,
    trainer: &Trainer,
) -> Result<()> {
    check_same(config, origin, place, trainer)?;
    let weights = trainer.model.weights()?;
    if let Some(what) = NotFinite::of_weights(&weights) {
        return Err(trainer.diverged(place.epoch, Error::NotFinite(what)));
    }
    if !trainer.collective.is_first() {
        return Ok(());
    }
    let mut tensors = Vec::new();
    for (name, array) in weights {
        tensors.push((format!("weight/{name}"), Bytes::floats(&array.shape, &array.values)));
    }
    let moments = trainer.optimizer.moments(&trainer.model)?;
    for (parameter, moments) in trainer.model.parameters().iter().zip(&*moments) {
        let (name, shape) = (&parameter.name, parameter.var.dims());
        tensors.push((format!("mean/{name}"), Bytes::floats(shape, &moments.mean)));
        tensors.push((format!("square/{name}"), Bytes::floats(shape, &moments.square)));
    }
    let State { floats, numbers } = trainer.method.state()?;
    for (name, array) in floats {
        tensors.push((format!("method/{name}"), Bytes::floats(&array.shape, &array.values)));
    }
    for (name, values) in numbers {
        tensors.push((format!("method/{name}"), Bytes::numbers(&values)));
    }
    let header = Header {
        schema: SCHEMA.into(),
        place,
        config: decisive(config),
        origin: origin.clone(),
        updates: moments.iter().map(|moments| moments.updates).collect(),
        tally: tally.clone(),
    };
    let header = serde_json::to_string(&header).expect("numbers and names");
    let metadata = HashMap::from([("header".to_owned(), header)]);
    let path = config.output.folder.join(FILE);
    let refuse = |error: safetensors::SafeTensorError| Error::Checkpoint {
        path: path.clone(),
        problem: error.to_string(),
    };
    let views = tensors.iter().map(|(name, bytes)| (name, bytes));
    let bytes = serialize(views, Some(metadata)).map_err(refuse)?;
    Ok(clip::atomic_write::atomic_write(&path, &bytes)?)
}

/// Reads the checkpoint in `folder`; refuses one of another configuration.
pub fn read(folder: &Path, config: &Config) -> Result<Checkpoint> {
    let path = folder.join(FILE);
    let refuse = |problem: String| Error::Checkpoint { path: path.clone(), problem };
    let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let parts = || {
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        let header = metadata.metadata().as_ref()?.get("header")?.clone();
        Some((serde_json::from_str(&header).ok()?, SafeTensors::deserialize(&bytes).ok()?))
    };
    let (header, tensors): (Header, _) =
        parts().ok_or_else(|| refuse("is broken or of another program".into()))?;
    if header.schema != SCHEMA {
        return Err(refuse(format!("has schema `{}`, expected `{SCHEMA}`", header.schema)));
    }
    let then = without_watch(header.config.clone()); // older checkpoints have the defaults of both
    if let Some(difference) = difference(&then, &decisive(config)) {
        return Err(refuse(format!("was made with another configuration: {difference}")));
    }
    let (mut weights, mut moments, mut method) = (Weights::new(), HashMap::new(), State::default());
    for (name, view) in tensors.iter() {
        let shape = view.shape().to_vec();
        match name.split_once('/') {
            Some(("weight", name)) => {
                weights.insert(name.to_owned(), Array { shape, values: floats(view.data()) });
            }
            Some(("mean" | "square", _)) => {
                moments.insert(name.to_owned(), Array { shape, values: floats(view.data()) });
            }
            Some(("method", name)) if view.dtype() == Dtype::F32 => {
                let array = Array { shape, values: floats(view.data()) };
                method.floats.insert(name.to_owned(), array);
            }
            Some(("method", name)) => {
                method.numbers.insert(name.to_owned(), numbers(view.data()));
            }
            _ => {}
        }
    }
    let Header { place, origin, updates, tally, .. } = header;
    Ok(Checkpoint { place, tally, weights, origin, moments, updates, method })
}

impl Checkpoint {
    /// The origin of the run that goes on from here; refuses one with other data than `now`, and
    /// one that began with other weights, if these are still there. Comes before a model is made.
    pub fn check(&self, folder: &Path, now: &Origin) -> Result<Origin> {
        let refuse = |what: &str| {
            let problem = format!("was made with other {what}");
            Err(Error::Checkpoint { path: folder.join(FILE), problem })
        };
        let is_gone = now.pretrained.is_none();
        if self.origin.data != now.data {
            return refuse("pictures, captions, tokenizer or thesaurus");
        }
        if !is_gone && self.origin.pretrained != now.pretrained {
            return refuse("weights in `model.pretrained`");
        }
        Ok(self.origin.clone())
    }

    /// Puts moments and pool back into a trainer whose model was made from the same weights.
    pub fn restore(mut self, folder: &Path, trainer: &mut Trainer) -> Result<()> {
        let refuse = || {
            let problem = "does not fit the model or the method".into();
            Error::Checkpoint { path: folder.join(FILE), problem }
        };
        let mut restored = Vec::new();
        for (index, parameter) in trainer.model.parameters().iter().enumerate() {
            let mut part = |kind: &str| -> Result<Vec<f32>> {
                let array = self.moments.remove(&format!("{kind}/{}", parameter.name));
                let array = array.filter(|array| array.shape == parameter.var.dims());
                Ok(array.ok_or_else(refuse)?.values)
            };
            let updates = *self.updates.get(index).ok_or_else(refuse)?;
            restored.push(Moments { mean: part("mean")?, square: part("square")?, updates });
        }
        trainer.optimizer.restore(&trainer.model, restored)?;
        trainer.step = self.place.step;
        if trainer.method.restore(self.method) { Ok(()) } else { Err(refuse()) }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks::<4>().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks::<4>().0;
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_towers_begin_with_the_same_weights_or_not_at_all() {
        let origin = |pretrained: Option<&str>| Origin {
            data: String::new(),
            pretrained: pretrained.map(str::to_owned),
        };
        let check = |begun, found: Option<&str>| {
            origin(begun).check_pretrained(Path::new("out"), &found.map(str::to_owned))
        };
        check(None, None).expect("new towers are drawn");
        check(Some("a"), Some("a")).expect("the same");
        for found in [None, Some("b")] {
            let error = check(Some("a"), found).expect_err("gone, or others").to_string();
            assert!(error.contains("needs the weights in `model.pretrained`"), "{error}");
        }
    }
}

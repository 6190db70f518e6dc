//! What both halves train on, and the files that tell PyTorch of it.

use std::{fs, path::Path, sync::Arc};

use candle_core::Device;
use clip::{
    ClipConfig,
    model::{Clip, Parameter},
    text::TokenBatch,
    weights::{Array, Weights},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use terminal::{Context, Report};
use trainer::{
    config::Optim,
    data::{Batch, Pixels},
    gpu::{self, Gpu},
    method,
    optim::{self, Schedule},
    parallel::Single,
    step::Trainer,
};

use crate::pairs::draw;

/// Learning rate of every step: so small that roundings do not grow apart while steps are checked.
const LR: f64 = 3e-5;

pub(crate) const CASE: &str = "case.json";
pub(crate) const WEIGHTS: &str = "weights.safetensors";
pub(crate) const CHECKED: &str = "weights-checked.safetensors";
pub(crate) const BATCH: &str = "batch.safetensors";
pub(crate) const GRADIENTS: &str = "gradients.safetensors";

/// `case.json`
#[derive(Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) config: ClipConfig,
    /// B
    pub(crate) batch: usize,
    pub(crate) captions: Lengths,
    pub(crate) optimizer: Optimizer,
    /// Parameters with weight decay.
    pub(crate) decays: Vec<String>,
    /// In nats, of the checked weights.
    pub(crate) checked_loss: f32,
    /// In nats, of the timed weights before each of their first updates.
    pub(crate) losses: Vec<f32>,
    /// Norms of their gradients.
    pub(crate) grad_norms: Vec<f64>,
}

/// Tokens per caption, both end marks included.
#[derive(Serialize, Deserialize)]
pub(crate) struct Lengths {
    pub(crate) min: usize,
    pub(crate) mean: f64,
    pub(crate) max: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Optimizer {
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    /// Greatest *logarithm* of the factor on cosines
    pub(crate) logit_scale_max: f64,
}

impl Optimizer {
    pub(crate) fn new() -> Self {
        let Optim { weight_decay, beta1, beta2, epsilon, logit_scale_max, .. } = Optim::default();
        let logit_scale_max = logit_scale_max.ln();
        Self { lr: LR, weight_decay, beta1, beta2, epsilon, logit_scale_max }
    }

    fn settings(&self) -> Optim {
        let Self { lr, weight_decay, beta1, beta2, epsilon, .. } = *self;
        Optim { lr, weight_decay, beta1, beta2, epsilon, ..Optim::default() }
    }

    /// On the CPU, or on a GPU.
    pub(crate) fn trainer(
        &self,
        config: &ClipConfig,
        weights: &Weights,
        gpu: Option<&Gpu>,
    ) -> Result<Trainer, Report> {
        let model = gpu::place(Clip::from_weights(config, weights, &Device::Cpu)?, gpu)?;
        Ok(Trainer {
            method: Box::new(method::Clip),
            gradients: model.gradients(),
            optimizer: optim::Optimizer::new(&model, &self.settings()),
            schedule: Schedule::new(self.lr, 0.0, u64::MAX), // as good as constant
            logit_scale_max: self.logit_scale_max,
            collective: Arc::new(Single),
            micro_batch: None,
            model,
            step: 0,
        })
    }
}

/// What every step trains on.
pub(crate) struct Pairs {
    /// `[B, 3, H, W]`, normalised
    pixels: Vec<f32>,
    /// `[B, T]`, padded to the context
    tokens: TokenBatch,
}

impl Pairs {
    pub(crate) fn draw(config: &ClipConfig, count: usize, seed: u64) -> Self {
        let (pixels, tokens) = draw(config, count, seed);
        Self { pixels, tokens }
    }

    /// Over and over until there are `count` of them.
    pub(crate) fn repeated(self, count: usize) -> Self {
        let (pixels, ids) = (count * self.pixels.len(), count * self.tokens.ids().len());
        let [pixels, ids] = [pixels, ids].map(|all| all / self.tokens.count());
        let length = self.tokens.length();
        Self {
            pixels: self.pixels.iter().copied().cycle().take(pixels).collect(),
            tokens: TokenBatch::from_ids(
                self.tokens.ids().iter().copied().cycle().take(ids).collect(),
                length,
            ),
        }
    }

    /// As the loader hands it out: cut to the longest caption.
    pub(crate) fn batch(&self, end: u32) -> Batch {
        let rows: Vec<u32> = (0..self.tokens.count() as u32).collect();
        let tokens = self.tokens.trimmed(end);
        let (pixels, captions) = (Pixels::Values(self.pixels.clone()), rows.clone());
        Batch { pixels, tokens, captions, rows, epoch: 1 }
    }

    pub(crate) fn lengths(&self, end: u32) -> Lengths {
        let length =
            |row: &[u32]| row.iter().position(|&id| id == end).map_or(row.len(), |i| i + 1);
        let all: Vec<_> = self.tokens.rows().map(length).collect();
        let mean = all.iter().sum::<usize>() as f64 / all.len() as f64;
        let (min, max) = (all.iter().min(), all.iter().max());
        Lengths { min: min.copied().unwrap_or(0), mean, max: max.copied().unwrap_or(0) }
    }

    pub(crate) fn write(&self, path: &Path, side: usize) -> Result<(), Report> {
        let (count, length) = (self.tokens.count(), self.tokens.length());
        let ids = self.tokens.ids().iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        let tensors = [
            ("pixels".into(), vec![count, 3, side, side], Dtype::F32, f32_bytes(&self.pixels)),
            ("ids".into(), vec![count, length], Dtype::I64, ids),
        ];
        write_tensors(path, &tensors)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Report> {
        let bytes = fs::read(path).with_context(|| cannot_read(path))?;
        let file = SafeTensors::deserialize(&bytes).with_context(|| cannot_read(path))?;
        let (pixels, ids) = (file.tensor("pixels")?, file.tensor("ids")?);
        let (pixels, _) = pixels.data().as_chunks();
        let (values, _) = ids.data().as_chunks();
        let length = ids.shape().last().copied().unwrap_or(0);
        if length == 0 || !values.len().is_multiple_of(length) {
            return Err(Report::new(format!("`{}` holds no captions", path.display())));
        }
        let values = values.iter().map(|&bytes| i64::from_le_bytes(bytes) as u32).collect();
        Ok(Self {
            pixels: pixels.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            tokens: TokenBatch::from_ids(values, length),
        })
    }
}

/// Name, shape, type, little-endian bytes.
pub(crate) type Encoded = (String, Vec<usize>, Dtype, Vec<u8>);

/// The gradients of the last step.
pub(crate) fn gradients(trainer: &Trainer) -> Vec<Encoded> {
    let encoded = |(number, parameter): (usize, &Parameter)| {
        let values = trainer.gradients.get(number).expect("every parameter is trained");
        let shape = parameter.var.dims().to_vec();
        (parameter.name.clone(), shape, Dtype::F32, f32_bytes(values))
    };
    trainer.model.parameters().iter().enumerate().map(encoded).collect()
}

pub(crate) fn encoded(weights: &Weights) -> Vec<Encoded> {
    let one = |(name, array): (&String, &Array)| {
        (name.clone(), array.shape.clone(), Dtype::F32, f32_bytes(&array.values))
    };
    weights.iter().map(one).collect()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn write_tensors(path: &Path, tensors: &[Encoded]) -> Result<(), Report> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, shape, dtype, bytes) in tensors {
        views.push((name, TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    safetensors::serialize_to_file(views, None, path)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

pub(crate) fn cannot_read(path: &Path) -> String {
    format!("cannot read `{}`", path.display())
}

//! Both towers and the logit scale, differentiable to every parameter and to the pixels.
//!
//! | file | holds |
//! |---|---|
//! | `params` | where a tower's tensors come from, and their names; running statistics |
//! | `init` | seeded initial weights |
//! | `blocks` | attention, MLP, pre-norm block |
//! | `pass` · `rows` | embeddings of a step and the way back from them · those without one |
//! | `features` | what the image tower sees on its way, beside its embeddings |
//! | `projections` | image embeddings with the length that they had |
//! | `gpu` | towers whose parameters live on a GPU, behind feature `cuda` |
//! | `resnet` · `vit` · `text` | one tower each |

mod blocks;
mod features;
#[cfg(any(test, feature = "cuda"))]
mod gpu;
mod init;
mod params;
mod pass;
mod projections;
mod resnet;
mod rows;
mod text;
mod vit;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use crate::{
    ClipConfig, Encoder, Result, UnitRows,
    config::{ImageTower, Tower},
    folder::ModelFolder,
    image::PixelBatch,
    ops::{Arena, Engine, Gradients, Graph, Peers},
    text::TokenBatch,
    weights::{Array, Weights},
};
use params::{Running, Source};

#[cfg(feature = "cuda")]
pub use crate::ops::cuda::Timed;
pub use features::Features;
#[cfg(feature = "cuda")]
pub use gpu::{Gpu, Sent};
#[cfg(any(test, feature = "cuda"))]
pub use gpu::{Resident, Update};
pub use init::init;
pub use pass::Pass;
pub use projections::Projections;

/// Which statistics batch normalisation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Those of the batch; the running ones follow them.
    Train,
    /// Those of the batch; the running ones stay. In the middle of a run these lag behind the
    /// weights, and rows computed with them say little.
    Survey,
    /// The running ones.
    Evaluate,
}

/// A trained parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// OpenAI's name.
    pub name: String,
    /// The values; updating them changes the model.
    pub var: Var,
}

impl Parameter {
    /// Whether weight decay applies: to matrices and kernels, not to biases, norms and the scale.
    pub fn decays(&self) -> bool {
        self.var.rank() >= 2
    }

    /// Whether the image tower owns it.
    pub fn is_image(&self) -> bool {
        self.name.starts_with("visual.")
    }

    /// Whether the text tower owns it.
    pub fn is_text(&self) -> bool {
        !self.is_image() && self.name != LOGIT_SCALE
    }
}

const LOGIT_SCALE: &str = "logit_scale";
/// Rows that an evaluation embeds at once.
const EVALUATION_ROWS: usize = 256;

#[derive(Debug)]
enum Image {
    Resnet(Box<resnet::Resnet>),
    Vit(vit::Vit),
}

impl Image {
    /// `[B, 3, H, W]` -> `[B, D]` unit rows.
    fn rows<G: Graph>(
        &self,
        graph: &G,
        pixels: &Tensor,
        mode: Mode,
    ) -> candle_core::Result<G::Value> {
        graph.normalize(&self.projections(graph, pixels, mode)?)
    }

    /// The same before they are given unit length.
    fn projections<G: Graph>(
        &self,
        graph: &G,
        pixels: &Tensor,
        mode: Mode,
    ) -> candle_core::Result<G::Value> {
        let middle = self.middle(graph, pixels, mode)?;
        self.rest(graph, middle, mode)
    }

    /// What leaves three quarters of the depth: `[B, H, W, C]` or `[B, T, C]`.
    fn middle<G: Graph>(
        &self,
        graph: &G,
        pixels: &Tensor,
        mode: Mode,
    ) -> candle_core::Result<G::Value> {
        match self {
            Self::Resnet(tower) => tower.middle(graph, pixels, mode),
            Self::Vit(tower) => tower.middle(graph, pixels),
        }
    }

    /// From there on: -> `[B, D]`.
    fn rest<G: Graph>(
        &self,
        graph: &G,
        middle: G::Value,
        mode: Mode,
    ) -> candle_core::Result<G::Value> {
        match self {
            Self::Resnet(tower) => tower.rest(graph, middle, mode),
            Self::Vit(tower) => tower.rest(graph, middle),
        }
    }
}

/// A CLIP in candle.
#[derive(Debug)]
pub struct Clip {
    config: ClipConfig,
    image: Arc<Image>,
    text: text::Text,
    logit_scale: Tensor,
    tensors: Vec<(String, Tensor)>,
    parameters: Vec<Parameter>,
    running: Vec<(String, Running)>,
    device: Device,
    /// Memory that passes with a way back hand on.
    arena: Arc<Arena>,
    /// Who else trains it.
    peers: Option<Arc<dyn Peers>>,
    /// The tower that is not trained.
    locked: Option<Tower>,
    /// Where the parameters live, if it is a GPU; the tensors then stand for them.
    #[cfg(any(test, feature = "cuda"))]
    gpu: Option<Arc<dyn gpu::Towers>>,
}

impl Clip {
    /// Trainable towers in f32.
    pub fn from_weights(config: &ClipConfig, weights: &Weights, device: &Device) -> Result<Self> {
        Self::build(config, Source::new(weights, device, DType::F32, true))
    }

    /// Trainable towers in another precision; f64 is for proofs.
    pub fn with_dtype(
        config: &ClipConfig,
        weights: &Weights,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Self::build(config, Source::new(weights, device, dtype, true))
    }

    /// Towers whose parameters are constants: a backward pass computes the gradient of the pixels
    /// only, at about half the cost.
    pub fn frozen(folder: &ModelFolder, device: &Device) -> Result<Self> {
        let weights = folder.weights()?;
        Self::build(&folder.config, Source::new(&weights, device, DType::F32, false))
    }

    /// Trainable towers of a model folder.
    pub fn open(folder: &ModelFolder, device: &Device) -> Result<Self> {
        Self::from_weights(&folder.config, &folder.weights()?, device)
    }

    /// New towers with seeded weights (see [`init`]).
    pub fn init(config: &ClipConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::from_weights(config, &init(config, seed)?, device)
    }

    fn build(config: &ClipConfig, source: Source<'_>) -> Result<Self> {
        config.check()?;
        let image = match &config.image {
            ImageTower::Resnet(tower) => {
                Image::Resnet(Box::new(resnet::Resnet::new(tower, config.dim, &source)?))
            }
            ImageTower::Vit(tower) => Image::Vit(vit::Vit::new(tower, config, &source)?),
        };
        let text = text::Text::new(config, &source)?;
        let logit_scale = source.tensor(LOGIT_SCALE, &[])?;
        let device = source.device().clone();
        let (tensors, parameters, running) = source.finish();
        Ok(Self {
            config: config.clone(),
            image: Arc::new(image),
            text,
            logit_scale,
            tensors,
            parameters,
            running,
            device,
            arena: Arc::default(),
            peers: None,
            locked: None,
            #[cfg(any(test, feature = "cuda"))]
            gpu: None,
        })
    }

    /// What computes its losses: the GPU that it lives on, or the CPU.
    pub fn engine(&self) -> Engine {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return gpu.engine();
        }
        Engine::default()
    }

    /// From now on [`Clip::image_pass`] computes a part of a batch whose other parts `peers`
    /// compute, each with as many pictures: batch normalisation takes the statistics of all of
    /// them. For f32 on the CPU, or on a GPU, whose towers are joined once.
    pub fn join(&mut self, peers: Arc<dyn Peers>) {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            gpu.join(peers.clone());
        }
        self.peers = Some(peers);
    }

    /// From now on this tower is a constant of training: its passes have no way back and take
    /// nothing that one would need, and batch normalisation has its running statistics, which stay.
    pub fn lock(&mut self, tower: Option<Tower>) {
        self.locked = tower;
    }

    /// The tower that [`Clip::lock`] has made a constant.
    pub fn locked(&self) -> Option<Tower> {
        self.locked
    }

    /// Sizes of the towers.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Where the towers live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The learned *logarithm* of the factor on cosines, `[]`.
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// Everything that is trained; empty for frozen towers.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Room for the gradients of all parameters, in their order; of the logit scale alone if the
    /// others live on a GPU.
    pub fn gradients(&self) -> Gradients {
        #[cfg(any(test, feature = "cuda"))]
        if self.gpu.is_some() {
            return Gradients::new([&self.logit_scale]);
        }
        Gradients::new(self.parameters.iter().map(|parameter| parameter.var.as_tensor()))
    }

    /// Puts in the place of every gradient its sum over all ranks, wherever it is.
    ///
    /// The logit scale belongs to no tower: every rank has its whole gradient already, and that of
    /// the first counts, so that not even processors that round differently move it apart.
    ///
    /// # Errors
    /// If a GPU fails.
    pub fn sum_gradients(
        &self,
        peers: &dyn Peers,
        is_first: bool,
        gradients: &mut Gradients,
    ) -> Result<()> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            gpu.sum_gradients(peers)?;
            gradients.sum_over(peers, |_| is_first); // of the logit scale alone
            return Ok(());
        }
        gradients.sum_over(peers, |number| {
            let parameter = &self.parameters[number];
            parameter.is_image() || parameter.is_text() || is_first
        });
        Ok(())
    }

    /// All parameters and running statistics under OpenAI's names.
    pub fn weights(&self) -> Result<Weights> {
        let array = |tensor: &Tensor| -> Result<Array> {
            #[cfg(any(test, feature = "cuda"))]
            if let Some(gpu) = &self.gpu
                && self.parameters.iter().any(|one| one.var.id() == tensor.id())
                && tensor.id() != self.logit_scale.id()
            {
                return Ok(Array { shape: tensor.dims().to_vec(), values: gpu.values(tensor)? });
            }
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            Ok(Array { shape: tensor.dims().to_vec(), values })
        };
        let mut weights = Weights::new();
        for (name, tensor) in &self.tensors {
            weights.insert(name.clone(), array(tensor)?);
        }
        for (name, running) in &self.running {
            let statistics = running.statistics()?;
            weights.insert(format!("{name}.running_mean"), array(&statistics.mean)?);
            weights.insert(format!("{name}.running_var"), array(&statistics.variance)?);
        }
        Ok(weights)
    }
}

impl Encoder for Clip {
    fn config(&self) -> &ClipConfig {
        &self.config
    }

    fn embed_images(&mut self, pixels: &PixelBatch) -> Result<UnitRows> {
        let side = pixels.side();
        let values = pixels.values().chunks(EVALUATION_ROWS * 3 * side * side);
        self.embed(values, |model, values| {
            let shape = (values.len() / (3 * side * side), 3, side, side);
            let pixels = Tensor::from_slice(values, shape, &model.device)?;
            model.image_rows(&pixels, Mode::Evaluate)
        })
    }

    fn embed_texts(&mut self, tokens: &TokenBatch) -> Result<UnitRows> {
        let tokens = tokens.trimmed(self.config.text.end());
        let length = tokens.length();
        self.embed(tokens.ids().chunks(EVALUATION_ROWS * length), |model, ids| {
            let ids = Tensor::from_slice(ids, (ids.len() / length, length), &model.device)?;
            model.evaluated_texts(&ids)
        })
    }

    fn logit_scale(&self) -> f32 {
        self.logit_scale
            .to_dtype(DType::F32)
            .and_then(|scale| scale.to_scalar())
            .expect("the logit scale is one number")
    }
}

impl Clip {
    fn embed<'a, T: 'a>(
        &self,
        parts: impl Iterator<Item = &'a [T]>,
        rows: impl Fn(&Self, &'a [T]) -> Result<Tensor>,
    ) -> Result<UnitRows> {
        let mut values = Vec::new();
        for part in parts {
            let rows = rows(self, part)?.detach().to_dtype(DType::F32)?;
            values.extend(rows.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(UnitRows::normalize(values, self.config.dim))
    }
}

#[cfg(test)]
mod tests;

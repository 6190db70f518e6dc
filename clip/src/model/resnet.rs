//! OpenAI's ModifiedResNet (CLIP, section 2.4): pixels become `[B, H, W, C]` at once, so that a
//! 1x1 convolution is a matmul and normalisation runs along rows.

use candle_core::{Result, Tensor};

use super::{
    Mode,
    blocks::Linear,
    params::{Running, Source},
};
use crate::{
    config,
    ops::{self, Columns, Graph, ONE, Seen, Window},
};

const THREE: Window = Window { side: 3, stride: 1, padding: 1 };
const THREE_BY_TWO: Window = Window { side: 3, stride: 2, padding: 1 };

/// A convolution without a bias and the batch normalisation that follows it.
#[derive(Debug)]
struct ConvNorm {
    /// `[O, I, K, K]`
    kernel: Tensor,
    window: Window,
    weight: Tensor,
    bias: Tensor,
    running: Running,
    relu: bool,
}

impl ConvNorm {
    fn new(
        (conv, norm): (String, String),
        inputs: usize,
        outputs: usize,
        window: Window,
        relu: bool,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let (weight, bias) = source.pair(&norm, &[outputs])?;
        let running = source.running(&norm, outputs)?;
        let shape = [outputs, inputs, window.side, window.side];
        let kernel = source.tensor(&format!("{conv}.weight"), &shape)?;
        Ok(Self { kernel, window, weight, bias, running, relu })
    }

    /// `[B, H, W, I]` -> `[B, H', W', O]`.
    fn forward<G: Graph>(&self, graph: &G, x: &G::Value, mode: Mode) -> Result<G::Value> {
        let Self { kernel, window, weight, bias, running, relu } = self;
        let layer = ops::ConvNorm { kernel, window: *window, weight, bias, relu: *relu };
        match mode {
            Mode::Evaluate => Ok(graph.conv_norm(x, layer, Some(&running.statistics()?))?.0),
            Mode::Survey => Ok(graph.conv_norm(x, layer, None)?.0),
            Mode::Train => {
                let (y, batch) = graph.conv_norm(x, layer, None)?;
                let values: usize = graph.dims(&y).iter().product();
                running.follow(batch, graph.ranks() * values / weight.elem_count())?;
                Ok(y)
            }
        }
    }
}

/// 1x1, 3x3, average pool, 1x1, and the shortcut.
#[derive(Debug)]
struct Bottleneck {
    conv1: ConvNorm,
    conv2: ConvNorm,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
    stride: usize,
}

/// Channels out of a bottleneck over channels within.
const EXPANSION: usize = 4;

impl Bottleneck {
    fn new(
        name: &str,
        inputs: usize,
        planes: usize,
        stride: usize,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let names = |i: usize| (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
        let outputs = planes * EXPANSION;
        let shortcut = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        let resized = stride > 1 || inputs != outputs;
        let downsample =
            resized.then(|| ConvNorm::new(shortcut, inputs, outputs, ONE, false, source));
        Ok(Self {
            conv1: ConvNorm::new(names(1), inputs, planes, ONE, true, source)?,
            conv2: ConvNorm::new(names(2), planes, planes, THREE, true, source)?,
            conv3: ConvNorm::new(names(3), planes, outputs, ONE, false, source)?,
            downsample: downsample.transpose()?,
            stride,
        })
    }

    fn forward<G: Graph>(&self, graph: &G, x: &G::Value, mode: Mode) -> Result<G::Value> {
        let y = self.conv1.forward(graph, x, mode)?;
        let y = self.conv2.forward(graph, &y, mode)?;
        let y = self.conv3.forward(graph, &graph.avg_pool(&y, self.stride)?, mode)?;
        let shortcut = match &self.downsample {
            Some(downsample) => {
                downsample.forward(graph, &graph.avg_pool(x, self.stride)?, mode)?
            }
            None => x.clone(),
        };
        graph.add_relu(&y, &shortcut)
    }
}

/// Attention whose only query is the mean of the feature map.
#[derive(Debug)]
struct AttentionPool {
    /// `[1 + N, C]`
    positional_embedding: Tensor,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    c_proj: Linear,
    heads: usize,
}

impl AttentionPool {
    fn new(tower: &config::Resnet, dim: usize, source: &Source<'_>) -> crate::Result<Self> {
        let channels = tower.channels();
        let positions = [1 + tower.grid().pow(2), channels];
        let linear = |name: &str, outputs| {
            Linear::new(&format!("visual.attnpool.{name}"), channels, outputs, source)
        };
        Ok(Self {
            positional_embedding: source
                .tensor("visual.attnpool.positional_embedding", &positions)?,
            q_proj: linear("q_proj", channels)?,
            k_proj: linear("k_proj", channels)?,
            v_proj: linear("v_proj", channels)?,
            c_proj: linear("c_proj", dim)?,
            heads: tower.heads,
        })
    }

    /// `[B, H, W, C]` -> `[B, D]`.
    fn forward<G: Graph>(&self, graph: &G, x: &G::Value) -> Result<G::Value> {
        let &[batch, height, width, channels] = graph.dims(x) else { panic!("`[B, H, W, C]`") };
        let cells = graph.reshape(x, &[batch, height * width, channels])?;
        let tokens = graph.with_mean(&cells, &self.positional_embedding)?;
        let mean = graph.reshape(&graph.pick(&tokens, &vec![0; batch])?, &[batch, 1, channels])?;
        let q = self.q_proj.forward(graph, &mean)?;
        let (k, v) = (self.k_proj.forward(graph, &tokens)?, self.v_proj.forward(graph, &tokens)?);
        let qkv = [&q, &k, &v].map(|of| Columns { of, start: 0 });
        let pooled = graph.attention(qkv, channels, self.heads, Seen::All)?;
        self.c_proj.forward(graph, &graph.reshape(&pooled, &[batch, channels])?)
    }
}

/// Stem, four stages of bottlenecks, attention pool.
#[derive(Debug)]
pub(super) struct Resnet {
    stem: [ConvNorm; 3],
    /// Bottlenecks of the first three stages, then those of the last.
    stages: [Vec<Bottleneck>; 2],
    attnpool: AttentionPool,
}

impl Resnet {
    pub(super) fn new(
        tower: &config::Resnet,
        dim: usize,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let (width, half) = (tower.width, tower.width / 2);
        let stem = |i: usize, inputs, outputs, window| {
            let names = (format!("visual.conv{i}"), format!("visual.bn{i}"));
            ConvNorm::new(names, inputs, outputs, window, true, source)
        };
        let (mut stages, last) = ([Vec::new(), Vec::new()], tower.layers.len() - 1);
        let mut inputs = width;
        for (stage, &blocks) in tower.layers.iter().enumerate() {
            let planes = width << stage;
            for block in 0..blocks {
                let name = format!("visual.layer{}.{block}", stage + 1);
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let part = &mut stages[usize::from(stage == last)];
                part.push(Bottleneck::new(&name, inputs, planes, stride, source)?);
                inputs = planes * EXPANSION;
            }
        }
        Ok(Self {
            stem: [
                stem(1, 3, half, THREE_BY_TWO)?,
                stem(2, half, half, THREE)?,
                stem(3, half, width, THREE)?,
            ],
            stages,
            attnpool: AttentionPool::new(tower, dim, source)?,
        })
    }

    /// `[B, 3, H, W]` -> `[B, H', W', C]`: what leaves the third of four stages.
    pub(super) fn middle<G: Graph>(
        &self,
        graph: &G,
        pixels: &Tensor,
        mode: Mode,
    ) -> Result<G::Value> {
        let mut x = graph.image(pixels)?;
        for conv in &self.stem {
            x = conv.forward(graph, &x, mode)?;
        }
        x = graph.avg_pool(&x, 2)?;
        for block in &self.stages[0] {
            x = block.forward(graph, &x, mode)?;
        }
        Ok(x)
    }

    /// From there on: -> `[B, D]`, not normalised.
    pub(super) fn rest<G: Graph>(
        &self,
        graph: &G,
        middle: G::Value,
        mode: Mode,
    ) -> Result<G::Value> {
        let mut x = middle;
        for block in &self.stages[1] {
            x = block.forward(graph, &x, mode)?;
        }
        self.attnpool.forward(graph, &x)
    }
}

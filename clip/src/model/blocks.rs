//! The transformer block of both towers: pre-norm attention and MLP (CLIP, section 2.4).

use candle_core::{Result, Tensor};

use super::params::Source;
use crate::{
    config::Activation,
    ops::{self, Columns, Graph, Seen},
};

/// Scale and shift of a layer normalisation.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(super) fn new(name: &str, width: usize, source: &Source<'_>) -> crate::Result<Self> {
        let (weight, bias) = source.pair(name, &[width])?;
        Ok(Self { weight, bias })
    }

    /// `[.., W]` -> `[.., W]`.
    pub(super) fn forward<G: Graph>(&self, graph: &G, x: &G::Value) -> Result<G::Value> {
        graph.layer_norm(x, &self.weight, &self.bias)
    }
}

/// `[.., I]` -> `[.., O]` with a bias.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(
        name: &str,
        inputs: usize,
        outputs: usize,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let (weight, bias) = source.pair(name, &[outputs, inputs])?;
        Ok(Self { weight, bias })
    }

    pub(super) fn forward<G: Graph>(&self, graph: &G, x: &G::Value) -> Result<G::Value> {
        graph.linear(x, ops::Linear::new(&self.weight, Some(&self.bias)), None)
    }

    /// The product on top of `residual`.
    fn on<G: Graph>(&self, graph: &G, x: &G::Value, residual: &G::Value) -> Result<G::Value> {
        graph.linear(x, ops::Linear::new(&self.weight, Some(&self.bias)), Some(residual))
    }
}

/// One pre-norm block.
#[derive(Debug)]
pub(super) struct Block {
    ln_1: LayerNorm,
    /// Queries, keys and values, one after the other.
    in_proj: Linear,
    out_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
    width: usize,
    heads: usize,
    causal: bool,
    activation: Activation,
}

impl Block {
    pub(super) fn new(
        name: &str,
        width: usize,
        heads: usize,
        causal: bool,
        activation: Activation,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let weight = source.tensor(&format!("{name}.attn.in_proj_weight"), &[3 * width, width])?;
        let bias = source.tensor(&format!("{name}.attn.in_proj_bias"), &[3 * width])?;
        Ok(Self {
            ln_1: LayerNorm::new(&format!("{name}.ln_1"), width, source)?,
            in_proj: Linear { weight, bias },
            out_proj: Linear::new(&format!("{name}.attn.out_proj"), width, width, source)?,
            ln_2: LayerNorm::new(&format!("{name}.ln_2"), width, source)?,
            c_fc: Linear::new(&format!("{name}.mlp.c_fc"), width, 4 * width, source)?,
            c_proj: Linear::new(&format!("{name}.mlp.c_proj"), 4 * width, width, source)?,
            width,
            heads,
            causal,
            activation,
        })
    }

    /// `[B, T, W]` -> `[B, T, W]`.
    fn forward<G: Graph>(&self, graph: &G, x: &G::Value) -> Result<G::Value> {
        let qkv = self.in_proj.forward(graph, &self.ln_1.forward(graph, x)?)?; // [B, T, 3 W]
        let part = |index| Columns { of: &qkv, start: index * self.width };
        let seen = if self.causal { Seen::Causal } else { Seen::All };
        let attended =
            graph.attention([part(0), part(1), part(2)], self.width, self.heads, seen)?;
        self.mlp(graph, &self.out_proj.on(graph, &attended, x)?)
    }

    /// The outputs of one token of each sequence alone, `[B, T, W]` -> `[B, W]`: what follows the
    /// attention is computed for no other.
    fn forward_to<G: Graph>(&self, graph: &G, x: &G::Value, tokens: &[u32]) -> Result<G::Value> {
        let width = self.width;
        let some = |outputs| ops::Linear {
            weight: &self.in_proj.weight,
            bias: Some(&self.in_proj.bias),
            outputs,
        };
        let normed = self.ln_1.forward(graph, x)?;
        let q = graph.linear(&graph.pick(&normed, tokens)?, some(0..width), None)?; // [B, W]
        let q = graph.reshape(&q, &[tokens.len(), 1, width])?;
        let kv = graph.linear(&normed, some(width..3 * width), None)?; // [B, T, 2 W]
        let part = |of, start| Columns { of, start };
        let qkv = [part(&q, 0), part(&kv, 0), part(&kv, width)];
        let seen = if self.causal { Seen::UpTo(tokens) } else { Seen::All };
        let attended = graph.attention(qkv, width, self.heads, seen)?;
        let attended = graph.reshape(&attended, &[tokens.len(), width])?;
        let x = graph.pick(x, tokens)?;
        self.mlp(graph, &self.out_proj.on(graph, &attended, &x)?)
    }

    /// `[.., W]` -> `[.., W]`.
    fn mlp<G: Graph>(&self, graph: &G, x: &G::Value) -> Result<G::Value> {
        let hidden = self.c_fc.forward(graph, &self.ln_2.forward(graph, x)?)?;
        self.c_proj.on(graph, &graph.activate(&hidden, self.activation)?, x)
    }
}

/// Blocks in a row, of whose outputs one token of each sequence is used.
#[derive(Debug)]
pub(super) struct Blocks(Vec<Block>);

impl Blocks {
    /// `count` blocks, at least one.
    pub(super) fn new(
        name: &str,
        count: usize,
        width: usize,
        heads: usize,
        causal: bool,
        activation: Activation,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let block = |i| {
            let name = format!("{name}.resblocks.{i}");
            Block::new(&name, width, heads, causal, activation, source)
        };
        (0..count).map(block).collect::<crate::Result<_>>().map(Self)
    }

    /// `[B, T, W]`, B numbers of tokens -> `[B, W]`.
    pub(super) fn forward_to<G: Graph>(
        &self,
        graph: &G,
        x: &G::Value,
        tokens: &[u32],
    ) -> Result<G::Value> {
        let middle = self.first(graph, x.clone())?;
        self.rest(graph, middle, tokens)
    }

    /// The first three quarters: `[B, T, W]` -> `[B, T, W]`.
    pub(super) fn first<G: Graph>(&self, graph: &G, x: G::Value) -> Result<G::Value> {
        self.0[..self.first_of_last()].iter().try_fold(x, |x, block| block.forward(graph, &x))
    }

    /// The others, of which there is one at least: `[B, T, W]`, B numbers of tokens -> `[B, W]`.
    pub(super) fn rest<G: Graph>(
        &self,
        graph: &G,
        x: G::Value,
        tokens: &[u32],
    ) -> Result<G::Value> {
        let (last, others) =
            self.0[self.first_of_last()..].split_last().expect("`config` asks for a layer");
        let x = others.iter().try_fold(x, |x, block| block.forward(graph, &x))?;
        last.forward_to(graph, &x, tokens)
    }

    fn first_of_last(&self) -> usize {
        self.0.len() - self.0.len().div_ceil(4)
    }
}

//! The transformer block of both towers: pre-norm attention and MLP (CLIP, section 2.4).

use candle_core::{D, Tensor};

use super::params::Source;
use crate::{Result, config::Activation, ops};

/// Scale and shift of a layer normalisation.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(super) fn new(name: &str, width: usize, source: &Source<'_>) -> Result<Self> {
        let (weight, bias) = source.pair(name, &[width])?;
        Ok(Self { weight, bias })
    }

    /// `[.., W]` -> `[.., W]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.weight, &self.bias)?)
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
    ) -> Result<Self> {
        let (weight, bias) = source.pair(name, &[outputs, inputs])?;
        Ok(Self { weight, bias })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, Some(&self.bias))?)
    }
}

/// `softmax(q k^T / sqrt(d)) v` per head: `[B, Q, W]`, `[B, K, W]`, `[B, K, W]` -> `[B, Q, W]`.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let head = width / heads;
    let split = |x: &Tensor| x.reshape((batch, (), heads, head))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = q.matmul(&k.t()?)?; // [B, heads, Q, K]
    let shares = ops::softmax(&scores, 1.0 / (head as f64).sqrt(), causal)?;
    Ok(shares.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width))?)
}

/// One pre-norm block.
#[derive(Debug)]
pub(super) struct Block {
    ln_1: LayerNorm,
    in_proj: (Tensor, Tensor),
    out_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
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
    ) -> Result<Self> {
        let weight = source.tensor(&format!("{name}.attn.in_proj_weight"), &[3 * width, width])?;
        let bias = source.tensor(&format!("{name}.attn.in_proj_bias"), &[3 * width])?;
        Ok(Self {
            ln_1: LayerNorm::new(&format!("{name}.ln_1"), width, source)?,
            in_proj: (weight, bias),
            out_proj: Linear::new(&format!("{name}.attn.out_proj"), width, width, source)?,
            ln_2: LayerNorm::new(&format!("{name}.ln_2"), width, source)?,
            c_fc: Linear::new(&format!("{name}.mlp.c_fc"), width, 4 * width, source)?,
            c_proj: Linear::new(&format!("{name}.mlp.c_proj"), 4 * width, width, source)?,
            heads,
            causal,
            activation,
        })
    }

    /// `[B, T, W]` -> `[B, T, W]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(D::Minus1)?;
        let (weight, bias) = &self.in_proj;
        let qkv = ops::linear(&self.ln_1.forward(x)?, weight, Some(bias))?; // [B, T, 3 W]
        let part = |index: usize| qkv.narrow(D::Minus1, index * width, width)?.contiguous();
        let attended = attention(&part(0)?, &part(1)?, &part(2)?, self.heads, self.causal)?;
        let x = (x + self.out_proj.forward(&attended)?)?;
        let hidden = self.c_fc.forward(&self.ln_2.forward(&x)?)?;
        let hidden = match self.activation {
            Activation::QuickGelu => ops::quick_gelu(&hidden)?,
            Activation::Gelu => ops::gelu(&hidden)?,
        };
        Ok((&x + self.c_proj.forward(&hidden)?)?)
    }
}

/// `count` blocks in a row.
pub(super) fn blocks(
    name: &str,
    count: usize,
    width: usize,
    heads: usize,
    causal: bool,
    activation: Activation,
    source: &Source<'_>,
) -> Result<Vec<Block>> {
    let block = |i| {
        let name = format!("{name}.resblocks.{i}");
        Block::new(&name, width, heads, causal, activation, source)
    };
    (0..count).map(block).collect()
}

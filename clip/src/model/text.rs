//! The causal text transformer.

use candle_core::{DType, Tensor};

use super::{
    blocks::{Block, LayerNorm, blocks},
    params::Source,
};
use crate::{ClipConfig, Result, ops};

/// Tokens and positions -> causal blocks -> `ln_final` -> the end token's row -> projection.
#[derive(Debug)]
pub(super) struct Text {
    /// `[V, W]`
    token_embedding: Tensor,
    /// `[T, W]`
    positional_embedding: Tensor,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    /// `[W, D]`
    text_projection: Tensor,
}

impl Text {
    pub(super) fn new(config: &ClipConfig, source: &Source<'_>) -> Result<Self> {
        let tower = &config.text;
        let (width, heads) = (tower.width, tower.heads);
        let blocks =
            blocks("transformer", tower.layers, width, heads, true, config.activation, source)?;
        let positions = [tower.context_length, width];
        Ok(Self {
            token_embedding: source.tensor("token_embedding.weight", &[tower.vocab_size, width])?,
            positional_embedding: source.tensor("positional_embedding", &positions)?,
            blocks,
            ln_final: LayerNorm::new("ln_final", width, source)?,
            text_projection: source.tensor("text_projection", &[width, config.dim])?,
        })
    }

    /// `[B, T]` ids -> `[B, D]`, not normalised.
    ///
    /// Pooled where the highest id stands, the end token's; attention is causal, so what follows
    /// it has no influence.
    pub(super) fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let width = self.token_embedding.dim(1)?;
        let tokens = self.token_embedding.index_select(&ids.flatten_all()?, 0)?;
        let positions = self.positional_embedding.narrow(0, 0, length)?;
        let mut x = tokens.reshape((batch, length, width))?.broadcast_add(&positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let ends = ids.argmax(1)?.to_dtype(DType::U32)?; // [B]
        let starts = Tensor::arange(0u32, batch as u32, ids.device())?;
        let ends = (ends + starts.affine(length as f64, 0.0)?)?;
        let pooled = x.reshape((batch * length, width))?.index_select(&ends, 0)?;
        Ok(ops::project(&self.ln_final.forward(&pooled)?, &self.text_projection)?)
    }
}

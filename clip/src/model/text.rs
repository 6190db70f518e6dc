//! The causal text transformer.

use candle_core::{Result, Tensor};

use super::{
    blocks::{Blocks, LayerNorm},
    params::Source,
};
use crate::{ClipConfig, ops::Graph};

/// Tokens and positions -> causal blocks -> `ln_final` -> the end token's row -> projection.
#[derive(Debug)]
pub(super) struct Text {
    /// `[V, W]`
    token_embedding: Tensor,
    /// `[T, W]`
    positional_embedding: Tensor,
    blocks: Blocks,
    ln_final: LayerNorm,
    /// `[W, D]`
    text_projection: Tensor,
}

impl Text {
    pub(super) fn new(config: &ClipConfig, source: &Source<'_>) -> crate::Result<Self> {
        let tower = &config.text;
        let (width, heads) = (tower.width, tower.heads);
        let blocks = Blocks::new(
            "transformer",
            tower.layers,
            width,
            heads,
            true,
            config.activation,
            source,
        )?;
        let positions = [tower.context_length, width];
        Ok(Self {
            token_embedding: source.tensor("token_embedding.weight", &[tower.vocab_size, width])?,
            positional_embedding: source.tensor("positional_embedding", &positions)?,
            blocks,
            ln_final: LayerNorm::new("ln_final", width, source)?,
            text_projection: source.tensor("text_projection", &[width, config.dim])?,
        })
    }

    /// `[B, T]` ids -> `[B, D]` unit rows.
    pub(super) fn rows<G: Graph>(&self, graph: &G, ids: &Tensor) -> Result<G::Value> {
        graph.normalize(&self.forward(graph, ids)?)
    }

    /// `[B, T]` ids -> `[B, D]`, not normalised.
    ///
    /// Pooled where the highest id stands, the end token's; attention is causal, so what follows
    /// it has no influence.
    fn forward<G: Graph>(&self, graph: &G, ids: &Tensor) -> Result<G::Value> {
        let ends = ids.argmax(1)?.to_vec1::<u32>()?;
        let x = graph.embed(ids, &self.token_embedding, &self.positional_embedding)?;
        let pooled = self.blocks.forward_to(graph, &x, &ends)?;
        graph.project(&self.ln_final.forward(graph, &pooled)?, &self.text_projection)
    }
}

//! The vision transformer.

use candle_core::{Result, Tensor};

use super::{
    blocks::{Blocks, LayerNorm},
    params::Source,
};
use crate::{
    ClipConfig, config,
    ops::{Graph, Linear},
};

/// Patches -> class token and positions -> `ln_pre` -> blocks -> `ln_post` of the class token ->
/// projection.
#[derive(Debug)]
pub(super) struct Vit {
    patch_size: usize,
    /// `[W, 3, P, P]`
    conv1: Tensor,
    /// `[W]`
    class_embedding: Tensor,
    /// `[1 + N, W]`
    positional_embedding: Tensor,
    ln_pre: LayerNorm,
    blocks: Blocks,
    ln_post: LayerNorm,
    /// `[W, D]`
    proj: Tensor,
}

impl Vit {
    pub(super) fn new(
        tower: &config::Vit,
        config: &ClipConfig,
        source: &Source<'_>,
    ) -> crate::Result<Self> {
        let (width, patch) = (tower.width, tower.patch_size);
        let name = "visual.transformer";
        let blocks =
            Blocks::new(name, tower.layers, width, tower.heads, false, config.activation, source)?;
        let positions = [1 + tower.patches(), width];
        Ok(Self {
            patch_size: patch,
            conv1: source.tensor("visual.conv1.weight", &[width, 3, patch, patch])?,
            class_embedding: source.tensor("visual.class_embedding", &[width])?,
            positional_embedding: source.tensor("visual.positional_embedding", &positions)?,
            ln_pre: LayerNorm::new("visual.ln_pre", width, source)?,
            blocks,
            ln_post: LayerNorm::new("visual.ln_post", width, source)?,
            proj: source.tensor("visual.proj", &[width, config.dim])?,
        })
    }

    /// `[B, 3, H, W]` -> `[B, 1 + N, W]`: the tokens at three quarters of the blocks.
    pub(super) fn middle<G: Graph>(&self, graph: &G, pixels: &Tensor) -> Result<G::Value> {
        let patches = graph.patches(pixels, self.patch_size)?; // [B, N, 3 P P]
        let tokens = graph.linear(&patches, Linear::new(&self.conv1, None), None)?;
        let tokens =
            graph.with_class(&tokens, &self.class_embedding, &self.positional_embedding)?;
        self.blocks.first(graph, self.ln_pre.forward(graph, &tokens)?)
    }

    /// From there on: -> `[B, D]`, not normalised.
    pub(super) fn rest<G: Graph>(&self, graph: &G, middle: G::Value) -> Result<G::Value> {
        let class = vec![0; graph.dims(&middle)[0]];
        let x = self.blocks.rest(graph, middle, &class)?;
        graph.project(&self.ln_post.forward(graph, &x)?, &self.proj)
    }
}

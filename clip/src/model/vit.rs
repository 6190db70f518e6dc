//! The vision transformer.

use candle_core::Tensor;

use super::{
    blocks::{Block, LayerNorm, blocks},
    params::Source,
};
use crate::{ClipConfig, Result, config, ops};

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
    blocks: Vec<Block>,
    ln_post: LayerNorm,
    /// `[W, D]`
    proj: Tensor,
}

impl Vit {
    pub(super) fn new(
        tower: &config::Vit,
        config: &ClipConfig,
        source: &Source<'_>,
    ) -> Result<Self> {
        let (width, patch) = (tower.width, tower.patch_size);
        let name = "visual.transformer";
        let blocks =
            blocks(name, tower.layers, width, tower.heads, false, config.activation, source)?;
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

    /// `[B, 3, H, W]` -> `[B, D]`, not normalised.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, _) = pixels.dims4()?;
        let (patch, width) = (self.patch_size, self.class_embedding.dim(0)?);
        let grid = height / patch;
        let patches = pixels
            .reshape(&[batch, channels, grid, patch, grid, patch][..])?
            .permute(&[0, 2, 4, 1, 3, 5][..])?
            .reshape((batch, grid * grid, channels * patch * patch))?;
        let tokens = ops::linear(&patches, &self.conv1.reshape((width, ()))?, None)?;
        let class = self.class_embedding.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?;
        let tokens = Tensor::cat(&[&class.contiguous()?, &tokens], 1)?; // [B, 1 + N, W]
        let mut x = self.ln_pre.forward(&tokens.broadcast_add(&self.positional_embedding)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let class = x.narrow(1, 0, 1)?.reshape((batch, width))?;
        Ok(ops::project(&self.ln_post.forward(&class)?, &self.proj)?)
    }
}

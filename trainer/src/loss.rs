//! The contrastive loss.

use candle_core::{Result, Tensor};
use clip::ops;

/// Symmetric InfoNCE over one batch: the mean of both directions, in nats (CLIP, figure 3).
///
/// `image`, `text`: `[B, D]`, unit rows, row i of one belongs to row i of the other.
/// `logit_scale`: `[]`, the *logarithm* of the factor on the cosines. `groups`: pairs with one
/// number are not negatives of each other. Returns `[]`.
pub fn info_nce(
    image: &Tensor,
    text: &Tensor,
    logit_scale: &Tensor,
    groups: Option<&[u32]>,
) -> Result<Tensor> {
    assert_eq!(image.dims(), text.dims(), "one caption per image");
    let logits = image.matmul(&text.t()?)?.broadcast_mul(&logit_scale.exp()?)?; // [B, B]
    let by_image = ops::cross_entropy(&logits, groups)?;
    let by_text = ops::cross_entropy(&logits.t()?.contiguous()?, groups)?;
    (by_image + by_text)? * 0.5
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn indistinguishable_pairs_cost_ln_b() -> Result<()> {
        let rows = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
        let zero = Tensor::new(0f32, &Device::Cpu)?;
        let loss = info_nce(&rows, &rows, &zero, None)?.to_scalar::<f32>()?;
        assert!((loss - 4f32.ln()).abs() < 1e-6);
        Ok(())
    }
}

//! The contrastive loss.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    borrow,
    cpu::{Matrix, MatrixMut, Threads, exp, matmul, vectorized},
    is_fused, values,
};

/// Symmetric InfoNCE over one batch: the mean of both directions, in nats (CLIP, figure 3).
///
/// `image`, `text`: `[B, D]`, unit rows, row i of one belongs to row i of the other.
/// `logit_scale`: `[]`, the *logarithm* of the factor on the cosines. `groups`, one number per pair:
/// pairs with one number are not negatives of each other. Returns `[]`; indistinguishable pairs
/// cost ln B.
pub fn info_nce(
    image: &Tensor,
    text: &Tensor,
    logit_scale: &Tensor,
    groups: Option<&[u32]>,
) -> Result<Tensor> {
    assert_eq!(image.dims(), text.dims(), "one caption per image");
    if is_fused(image) {
        let op = InfoNce { groups: groups.map(<[u32]>::to_vec) };
        return image.contiguous()?.apply_op3(&text.contiguous()?, logit_scale, op);
    }
    let logits = image.matmul(&text.t()?)?.broadcast_mul(&logit_scale.exp()?)?; // [B, B]
    let by_image = cross_entropy(&logits, groups)?;
    let by_text = cross_entropy(&logits.t()?.contiguous()?, groups)?;
    (by_image + by_text)? * 0.5
}

/// Mean over rows i of `-log softmax(logits[i])[i]`, in nats: `[B, B]` -> `[]`.
fn cross_entropy(logits: &Tensor, groups: Option<&[u32]>) -> Result<Tensor> {
    let pairs = logits.dim(0)?;
    let mut kept = logits.clone();
    if let Some(groups) = groups {
        let counts = |(i, j): (usize, usize)| u8::from(i == j || groups[i] != groups[j]);
        let mask: Vec<u8> = (0..pairs * pairs).map(|at| counts((at / pairs, at % pairs))).collect();
        let mask = Tensor::from_vec(mask, (pairs, pairs), logits.device())?;
        let hidden = logits.ones_like()?.affine(0.0, f64::from(f32::MIN))?;
        kept = mask.where_cond(&kept, &hidden)?;
    }
    let max = kept.max_keepdim(D::Minus1)?.detach();
    let log_sum = kept.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?.add(&max)?;
    let own = Tensor::eye(pairs, DType::U8, logits.device())?.to_dtype(logits.dtype())?;
    (log_sum.sum_all()? - (logits * own)?.sum_all()?)? / pairs as f64
}

/// The same for f32 on the CPU, in one operator.
struct InfoNce {
    groups: Option<Vec<u32>>,
}

/// Rows that look for their partners among others.
struct Side<'a> {
    rows: Matrix<'a>,
    others: Matrix<'a>,
    pairs: usize,
    /// The factor on the cosines.
    scale: f32,
}

impl InfoNce {
    /// `[B, B]`: over each row the softmax of its logits, without those that do not count; and the
    /// sum of the rows' losses. `slopes` takes the logits in the place of the losses' derivatives.
    fn shares(&self, side: &Side<'_>, slopes: &mut [f32]) -> f32 {
        let target = MatrixMut::new(slopes, side.pairs, side.pairs);
        matmul(target, side.rows, side.others.t(), side.scale, false, Threads::All);
        let rows = slopes.par_chunks_exact_mut(side.pairs).enumerate();
        let losses: Vec<f32> = rows
            .map(|(own, row)| {
                let logit = row[own];
                if let Some(groups) = &self.groups {
                    let others = row.iter_mut().zip(groups).enumerate();
                    let group = groups[own];
                    others
                        .filter(|(other, (_, number))| *other != own && **number == group)
                        .for_each(|(_, (logit, _))| *logit = f32::NEG_INFINITY);
                }
                let (mut max, mut sum) = (0.0, 0.0);
                vectorized(softmax, (&mut *row, &mut max, &mut sum));
                max + sum.ln() - logit
            })
            .collect();
        losses.iter().sum()
    }
}

/// Softmax of a row in its place, its greatest logit, and the sum of `e^(logit - greatest)`.
#[inline(always)]
fn softmax(row: &mut [f32], max: &mut f32, sum: &mut f32) {
    *max = row.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    row.iter_mut().for_each(|x| *x = exp(*x - *max));
    *sum = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= *sum);
}

impl CustomOp3 for InfoNce {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        text: &CpuStorage,
        text_layout: &Layout,
        logit_scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (pairs, width) = image_layout.shape().dims2()?;
        let image = Matrix::new(values(self.name(), image, image_layout)?, pairs, width);
        let text = Matrix::new(values(self.name(), text, text_layout)?, pairs, width);
        let scale = values(self.name(), logit_scale, scale_layout)?[0].exp();
        let mut shares = vec![0.0; pairs * pairs];
        let mut sum = 0.0;
        for (rows, others) in [(image, text), (text, image)] {
            sum += self.shares(&Side { rows, others, pairs, scale }, &mut shares);
        }
        Ok((CpuStorage::F32(vec![0.5 * sum / pairs as f32]), Shape::from(())))
    }

    // With L the logits of a direction, P their softmax and f = 1 / (2 B):
    // dL = f (P - 1), d rows = scale dL others, d others = scale dL^T rows, d logit_scale = <dL, L>.
    // P is computed again: kept from the forward pass, both would be 2 B^2 values for as long as the
    // towers go back, to save two of eight products of less than half a percent of a step. Logits of
    // one direction taken for both, or one dL for both, would save more and add in another order.
    fn bwd(
        &self,
        image: &Tensor,
        text: &Tensor,
        logit_scale: &Tensor,
        _loss: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (pairs, width) = image.dims2()?;
        let factor = 0.5 * gradient.to_scalar::<f32>()? / pairs as f32;
        let scale = logit_scale.to_scalar::<f32>()?.exp();
        let (image_rows, text_rows) = (borrow(self.name(), image)?, borrow(self.name(), text)?);
        let sides = [&*image_rows, &*text_rows].map(|rows| Matrix::new(rows, pairs, width));
        let tracked = [image.track_op() || logit_scale.track_op(), text.track_op()];
        let mut slopes = vec![0.0; pairs * pairs];
        let mut found = [vec![0.0; pairs * width], vec![0.0; pairs * width]];
        for (near, far) in [(0, 1), (1, 0)] {
            let side = Side { rows: sides[near], others: sides[far], pairs, scale };
            self.shares(&side, &mut slopes);
            for (own, row) in slopes.chunks_exact_mut(pairs).enumerate() {
                row[own] -= 1.0;
                row.iter_mut().for_each(|slope| *slope *= factor);
            }
            let dlogits = Matrix::new(&slopes, pairs, pairs);
            let mut add = |to: usize, a: Matrix<'_>, b: Matrix<'_>| {
                let target = MatrixMut::new(&mut found[to], pairs, width);
                matmul(target, a, b, scale, true, Threads::All);
            };
            if tracked[near] {
                add(near, dlogits, sides[far]);
            }
            if tracked[far] {
                add(far, dlogits.t(), sides[near]);
            }
        }
        let [to_image, to_text] = found;
        // <dL, L> of both directions together, since L = scale image text^T.
        let products = to_image.iter().zip(&*image_rows).map(|(d, x)| f64::from(d * x));
        let to_scale = products.sum::<f64>() as f32;
        drop((image_rows, text_rows));
        let tensor = |values, of: &Tensor| Tensor::from_vec(values, of.shape(), of.device());
        Ok((
            tracked[0].then(|| tensor(to_image, image)).transpose()?,
            tracked[1].then(|| tensor(to_text, text)).transpose()?,
            Some(tensor(vec![to_scale], logit_scale)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::proof::assert_gradients;

    #[test]
    fn gradients_with_and_without_groups() -> Result<()> {
        let shapes: [&[usize]; 3] = [&[4, 3], &[4, 3], &[]];
        for groups in [None, Some(&[7, 1, 7, 2][..]), Some(&[5, 5, 5, 5])] {
            assert_gradients(&shapes, |x| info_nce(&x[0], &x[1], &x[2], groups))?;
        }
        Ok(())
    }

    #[test]
    fn indistinguishable_pairs_cost_ln_b_and_duplicates_nothing() -> Result<()> {
        let rows = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
        let zero = Tensor::new(0f32, &Device::Cpu)?;
        let loss = |groups| info_nce(&rows, &rows, &zero, groups)?.to_scalar::<f32>();
        assert!((loss(None)? - 4f32.ln()).abs() < 1e-6);
        assert!(
            (loss(Some(&[0, 0, 1, 2]))? - (2.0 * 3f32.ln() + 2.0 * 4f32.ln()) / 4.0).abs() < 1e-6
        );
        assert_eq!(loss(Some(&[5, 5, 5, 5]))?, 0.0);
        Ok(())
    }

    /// Logits up to 100: a learned scale at its limit.
    #[test]
    fn nothing_overflows_at_the_greatest_scale() -> Result<()> {
        let rows = Tensor::new(&[[1f32, 0.0], [-1.0, 0.0]], &Device::Cpu)?;
        let scale = Tensor::new(100f32.ln(), &Device::Cpu)?;
        assert_eq!(info_nce(&rows, &rows, &scale, None)?.to_scalar::<f32>()?, 0.0);
        let swapped = Tensor::new(&[[-1f32, 0.0], [1.0, 0.0]], &Device::Cpu)?;
        let loss = info_nce(&rows, &swapped, &scale, None)?.to_scalar::<f32>()?;
        assert!((loss - 200.0).abs() < 1e-3, "{loss}");
        Ok(())
    }
}

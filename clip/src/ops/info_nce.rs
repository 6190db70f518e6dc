//! The contrastive loss.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    borrow,
    cpu::{Matrix, MatrixMut, Threads, exp, matmul, vectorized},
    is_fused, values,
};

/// What pairs of a batch are to each other that have the same partner; one number per pair, equal for
/// such pairs.
#[derive(Debug, Clone, Copy)]
pub enum Equals<'a> {
    /// Negatives, as all others are: a partner that m pairs share costs ln m at least.
    Negatives,
    /// Nothing: left out of each other's softmax.
    LeftOut(&'a [u32]),
    /// Positives: the target of a pair is spread evenly over the pairs with its number.
    Positives(&'a [u32]),
}

/// Symmetric InfoNCE over one batch: the mean of both directions, in nats (CLIP, figure 3).
///
/// `image`, `text`: `[B, D]`, unit rows, row i of one belongs to row i of the other.
/// `logit_scale`: `[]`, the *logarithm* of the factor on the cosines. Returns `[]`;
/// indistinguishable pairs cost ln B.
pub fn info_nce(
    image: &Tensor,
    text: &Tensor,
    logit_scale: &Tensor,
    equals: Equals<'_>,
) -> Result<Tensor> {
    assert_eq!(image.dims(), text.dims(), "one caption per image");
    let groups = match equals {
        Equals::Negatives => Some(None),
        Equals::LeftOut(groups) => Some(Some(groups.to_vec())),
        Equals::Positives(_) => None,
    };
    if let Some(groups) = groups.filter(|_| is_fused(image)) {
        let op = InfoNce { groups };
        return image.contiguous()?.apply_op3(&text.contiguous()?, logit_scale, op);
    }
    let by_image = info_nce_one_way(image, text, logit_scale, equals)?;
    let by_text = info_nce_one_way(text, image, logit_scale, equals)?;
    (by_image + by_text)? * 0.5
}

/// One direction of [`info_nce`]: the mean over `rows` of `-log softmax` of its own among `others`.
pub fn info_nce_one_way(
    rows: &Tensor,
    others: &Tensor,
    logit_scale: &Tensor,
    equals: Equals<'_>,
) -> Result<Tensor> {
    let logits = rows.matmul(&others.t()?)?.broadcast_mul(&logit_scale.exp()?)?; // [B, B]
    let pairs = logits.dim(0)?;
    let table = |of: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<f32> = (0..pairs * pairs).map(|at| of(at / pairs, at % pairs)).collect();
        Tensor::from_vec(values, (pairs, pairs), logits.device())?.to_dtype(logits.dtype())
    };
    let mut kept = logits.clone();
    if let Equals::LeftOut(groups) = equals {
        let hidden = |i: usize, j: usize| i != j && groups[i] == groups[j];
        let mask = table(&|i, j| f32::from(!hidden(i, j)))?.to_dtype(DType::U8)?;
        let lowest = logits.ones_like()?.affine(0.0, f64::from(f32::MIN))?;
        kept = mask.where_cond(&kept, &lowest)?;
    }
    let target = match equals {
        Equals::Positives(groups) => {
            let sizes = groups.iter().map(|own| groups.iter().filter(|g| *g == own).count());
            let shares: Vec<f32> = sizes.map(|size| 1.0 / size as f32).collect();
            table(&|i, j| if groups[i] == groups[j] { shares[i] } else { 0.0 })?
        }
        _ => table(&|i, j| f32::from(i == j))?,
    };
    let max = kept.max_keepdim(D::Minus1)?.detach();
    let log_sum = kept.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?.add(&max)?;
    (log_sum.sum_all()? - (logits * target)?.sum_all()?)? / pairs as f64
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
        for equals in [
            Equals::Negatives,
            Equals::LeftOut(&[7, 1, 7, 2]),
            Equals::LeftOut(&[5, 5, 5, 5]),
            Equals::Positives(&[7, 1, 7, 2]),
        ] {
            assert_gradients(&shapes, |x| info_nce(&x[0], &x[1], &x[2], equals))?;
            assert_gradients(&shapes, |x| info_nce_one_way(&x[0], &x[1], &x[2], equals))?;
        }
        Ok(())
    }

    #[test]
    fn indistinguishable_pairs_cost_ln_b_and_duplicates_nothing() -> Result<()> {
        let rows = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
        let zero = Tensor::new(0f32, &Device::Cpu)?;
        let loss = |equals| info_nce(&rows, &rows, &zero, equals)?.to_scalar::<f32>();
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(loss(Equals::Negatives)?, 4f32.ln());
        let left_out = loss(Equals::LeftOut(&[0, 0, 1, 2]))?;
        close(left_out, (2.0 * 3f32.ln() + 2.0 * 4f32.ln()) / 4.0);
        assert_eq!(loss(Equals::LeftOut(&[5, 5, 5, 5]))?, 0.0);
        Ok(())
    }

    /// One caption found for two images: nothing parts them, and a target spread over both can be met.
    #[test]
    fn a_shared_partner_costs_ln_2_unless_it_is_no_negative() -> Result<()> {
        let rows = Tensor::new(&[[1f32, 0.0], [1.0, 0.0], [0.0, 1.0]], &Device::Cpu)?;
        let scale = Tensor::new(100f32.ln(), &Device::Cpu)?;
        let loss = |equals| info_nce(&rows, &rows, &scale, equals)?.to_scalar::<f32>();
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} {b}");
        close(loss(Equals::Negatives)?, 2.0 / 3.0 * 2f32.ln());
        close(loss(Equals::LeftOut(&[4, 4, 1]))?, 0.0);
        // Two positives share the softmax: ln 2 is as low as their cross-entropy gets.
        close(loss(Equals::Positives(&[4, 4, 1]))?, 2.0 / 3.0 * 2f32.ln());
        Ok(())
    }

    /// Logits up to 100: a learned scale at its limit.
    #[test]
    fn nothing_overflows_at_the_greatest_scale() -> Result<()> {
        let rows = Tensor::new(&[[1f32, 0.0], [-1.0, 0.0]], &Device::Cpu)?;
        let scale = Tensor::new(100f32.ln(), &Device::Cpu)?;
        assert_eq!(info_nce(&rows, &rows, &scale, Equals::Negatives)?.to_scalar::<f32>()?, 0.0);
        let swapped = Tensor::new(&[[-1f32, 0.0], [1.0, 0.0]], &Device::Cpu)?;
        let loss = info_nce(&rows, &swapped, &scale, Equals::Negatives)?.to_scalar::<f32>()?;
        assert!((loss - 200.0).abs() < 1e-3, "{loss}");
        Ok(())
    }
}

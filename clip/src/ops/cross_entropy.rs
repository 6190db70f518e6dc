//! Cross-entropy of the rows of a similarity matrix against its diagonal.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use super::{borrow, is_fused, values};

/// Mean over rows i of `-log softmax(logits[i])[i]`, in nats: `[B, B]` -> `[]`.
///
/// `groups`, one number per column: two columns of one group are not negatives of each other, so
/// row i leaves out every j ≠ i with `groups[j] == groups[i]`. Without, every other column counts.
pub fn cross_entropy(logits: &Tensor, groups: Option<&[u32]>) -> Result<Tensor> {
    let (rows, columns) = logits.dims2()?;
    assert_eq!(rows, columns, "row i belongs to column i");
    if is_fused(logits) {
        let groups = groups.map(<[u32]>::to_vec);
        return logits.contiguous()?.apply_op1(CrossEntropy { groups });
    }
    let mut kept = logits.clone();
    if let Some(groups) = groups {
        let counts = |(i, j): (usize, usize)| u8::from(i == j || groups[i] != groups[j]);
        let mask = (0..rows * columns).map(|at| counts((at / columns, at % columns)));
        let mask = Tensor::from_vec(mask.collect::<Vec<_>>(), (rows, columns), logits.device())?;
        let hidden = logits.ones_like()?.affine(0.0, f64::from(f32::MIN))?;
        kept = mask.where_cond(&kept, &hidden)?;
    }
    let max = kept.max_keepdim(D::Minus1)?.detach();
    let log_sum = kept.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()?.add(&max)?;
    let own = Tensor::eye(rows, DType::U8, logits.device())?.to_dtype(logits.dtype())?;
    (log_sum.sum_all()? - (logits * own)?.sum_all()?)? / rows as f64
}

struct CrossEntropy {
    groups: Option<Vec<u32>>,
}

impl CrossEntropy {
    /// `softmax(logits[i])` over the columns that count, and the loss of row i.
    fn shares(&self, row: usize, logits: &[f32]) -> (Vec<f32>, f32) {
        let counts = |column: usize| match &self.groups {
            Some(groups) => column == row || groups[column] != groups[row],
            None => true,
        };
        let kept = |column: usize, x: f32| if counts(column) { x } else { f32::NEG_INFINITY };
        let logits: Vec<f32> = logits.iter().enumerate().map(|(j, &x)| kept(j, x)).collect();
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
        let mut shares: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        (shares, max + sum.ln() - logits[row])
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = values(self.name(), logits, layout)?;
        let (rows, columns) = layout.shape().dims2()?;
        let each = logits.chunks_exact(columns).enumerate();
        let sum: f32 = each.map(|(row, logits)| self.shares(row, logits).1).sum();
        Ok((CpuStorage::F32(vec![sum / rows as f32]), Shape::from(())))
    }

    // d logits[i][j] = (softmax(logits[i])[j] - [i == j]) / B
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, dloss: &Tensor) -> Result<Option<Tensor>> {
        let values = borrow(self.name(), logits)?;
        let (rows, columns) = logits.dims2()?;
        let factor = dloss.to_scalar::<f32>()? / rows as f32;
        let mut gradient = Vec::with_capacity(values.len());
        for (row, logits) in values.chunks_exact(columns).enumerate() {
            let mut shares = self.shares(row, logits).0;
            shares[row] -= 1.0;
            gradient.extend(shares.iter().map(|share| share * factor));
        }
        Tensor::from_vec(gradient, logits.shape(), logits.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::proof::assert_gradients;
    use super::*;

    #[test]
    fn gradients_with_and_without_groups() -> Result<()> {
        assert_gradients(&[&[4, 4]], |x| cross_entropy(&x[0], None))?;
        assert_gradients(&[&[4, 4]], |x| cross_entropy(&x[0], Some(&[7, 1, 7, 2])))
    }

    #[test]
    fn indistinguishable_pairs_cost_ln_b_and_duplicates_nothing() -> Result<()> {
        let equal = Tensor::zeros((4, 4), DType::F32, &Device::Cpu)?;
        let loss = |groups| cross_entropy(&equal, groups)?.to_scalar::<f32>();
        assert!((loss(None)? - 4f32.ln()).abs() < 1e-6);
        assert!(
            (loss(Some(&[0, 0, 1, 2]))? - (2.0 * 3f32.ln() + 2.0 * 4f32.ln()) / 4.0).abs() < 1e-6
        );
        assert_eq!(loss(Some(&[5, 5, 5, 5]))?, 0.0);
        Ok(())
    }
}

//! One pass over rows: bias, residual with ReLU, unit length.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS, add_up, borrow, is_fused, values};

/// Adds `row` `[C]` to every row of `x` `[.., C]`.
pub fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op2(&row.contiguous()?, AddRow);
    }
    x.broadcast_add(row)
}

/// `relu(a + b)`, the end of a residual block; equal shapes.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_fused(a) {
        return a.contiguous()?.apply_op2(&b.contiguous()?, AddRelu);
    }
    (a + b)?.relu()
}

/// Divides each row of `[B, D]` by its Euclidean length.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op1(Normalize);
    }
    x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + SQUARE_MIN)?.sqrt()?)
}

/// Keeps a zero row finite.
const SQUARE_MIN: f64 = 1e-24;

struct AddRow;

impl CustomOp2 for AddRow {
    fn name(&self) -> &'static str {
        "add_row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        row: &CpuStorage,
        row_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, x_layout)?;
        let row = values(self.name(), row, row_layout)?;
        let columns = row.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(columns * ROWS).zip(x.par_chunks(columns * ROWS)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                y.iter_mut().zip(x).zip(row).for_each(|((y, x), r)| *y = x + r);
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        row: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let columns = row.elem_count();
        let values = borrow(self.name(), &dy)?;
        let chunks = values.par_chunks(columns * ROWS).map(|rows| {
            let mut sums = vec![0.0; columns];
            for row in rows.chunks_exact(columns) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        });
        let sums = add_up(chunks.collect(), columns);
        let drow = Tensor::from_vec(sums, row.shape(), dy.device())?;
        drop(values);
        Ok((Some(dy), Some(drow)))
    }
}

struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add_relu"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (values(self.name(), a, a_layout)?, values(self.name(), b, b_layout)?);
        let y = a.iter().zip(b).map(|(a, b)| (a + b).max(0.0)).collect();
        Ok((CpuStorage::F32(y), a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _a: &Tensor,
        _b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (ys, dys) = (borrow(self.name(), y)?, borrow(self.name(), &dy)?);
        let passed = ys.iter().zip(&*dys).map(|(&y, &dy)| if y > 0.0 { dy } else { 0.0 });
        let dx = Tensor::from_vec(passed.collect::<Vec<f32>>(), y.shape(), y.device())?;
        Ok((Some(dx.clone()), Some(dx)))
    }
}

struct Normalize;

fn length(row: &[f32]) -> f32 {
    (row.iter().map(|x| x * x).sum::<f32>() + SQUARE_MIN as f32).sqrt()
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, layout)?;
        let columns = layout.dim(D::Minus1)?;
        let mut y = x.to_vec();
        for row in y.chunks_exact_mut(columns) {
            let length = length(row);
            row.iter_mut().for_each(|value| *value /= length);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    // dx = (dy - y <y, dy>) / |x|
    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let columns = x.dim(D::Minus1)?;
        let (xs, ys) = (borrow(self.name(), x)?, borrow(self.name(), y)?);
        let dys = borrow(self.name(), &dy)?;
        let mut dx = vec![0.0; xs.len()];
        let rows = xs.chunks_exact(columns).zip(ys.chunks_exact(columns));
        let rows = rows.zip(dys.chunks_exact(columns));
        for (dx, ((x, y), dy)) in dx.chunks_exact_mut(columns).zip(rows) {
            let dot: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
            let length = length(x);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = (dy - y * dot) / length;
            }
        }
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::assert_gradients;
    use super::*;

    #[test]
    fn gradients() -> Result<()> {
        assert_gradients(&[&[2, 3, 5], &[5]], |x| add_row(&x[0], &x[1]))?;
        assert_gradients(&[&[3, 5], &[3, 5]], |x| add_relu(&x[0], &x[1]))?;
        assert_gradients(&[&[3, 5]], |x| normalize(&x[0]))
    }
}

//! Products with parameters.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Tape, Value, with_last};
use crate::ops::{
    borrow,
    cpu::{Matrix, MatrixMut, ROWS, Threads, add_rows, matmul, sums, vectorized},
    graph::Linear,
};

impl Tape {
    pub(super) fn linear(
        &self,
        x: &Value,
        layer: Linear<'_>,
        residual: Option<&Value>,
    ) -> Result<Value> {
        let (inputs, count) = (x.columns(), layer.outputs.len());
        let rows = x.data.len() / inputs;
        let range = layer.outputs.start * inputs..layer.outputs.end * inputs;
        let mut y = match residual {
            Some(residual) => self.arena.copy(&residual.data),
            None => self.arena.take(rows * count),
        };
        let mut begun = residual.is_some();
        if let Some(bias) = layer.bias {
            let bias = borrow("linear", bias)?;
            let bias = &bias[layer.outputs.clone()];
            y.par_chunks_mut(count * ROWS).for_each(|y| match begun {
                true => vectorized(add_row, (bias, y)),
                false => y.chunks_exact_mut(count).for_each(|row| row.copy_from_slice(bias)),
            });
            begun = true;
        }
        let weight = borrow("linear", layer.weight)?;
        let w = Matrix::new(&weight[range.clone()], count, inputs);
        let product = MatrixMut::new(&mut y, rows, count);
        matmul(product, Matrix::new(&x.data, rows, inputs), w.t(), 1.0, begun, Threads::All);
        drop(weight);

        let (step, input, aside) = (x.step, x.data.clone(), residual.and_then(|value| value.step));
        let (weight, bias, outputs) = (layer.weight.clone(), layer.bias.cloned(), layer.outputs);
        let trained = [Some(layer.weight), layer.bias];
        let trained: Vec<_> = trained.into_iter().flatten().collect();
        let sources: Vec<&Value> = [Some(x), residual].into_iter().flatten().collect();
        let dims = with_last(&x.dims, count);
        Ok(self.output(y, dims, &sources, &trained, move |gradient, flow| {
            let dy = Matrix::new(&gradient, rows, count);
            if let Some(bias) = &bias
                && flow.wants(bias)
            {
                let db =
                    sums(&gradient, count, count, |_, dy, sums| vectorized(add_rows, (dy, sums)));
                flow.add(bias, outputs.start, &db);
            }
            if let Some((dw, add)) = flow.part(&weight, range.clone()) {
                let dw = MatrixMut::new(dw, count, inputs);
                matmul(dw, dy.t(), Matrix::new(&input, rows, inputs), 1.0, add, Threads::All);
            }
            if step.is_some() {
                let weight = borrow("linear", &weight)?;
                let w = Matrix::new(&weight[range], count, inputs);
                let mut dx = flow.arena.take(rows * inputs);
                matmul(MatrixMut::new(&mut dx, rows, inputs), dy, w, 1.0, false, Threads::All);
                flow.give(step, dx);
            }
            flow.give(aside, gradient);
            Ok(())
        }))
    }

    pub(super) fn project(&self, x: &Value, weight: &Tensor) -> Result<Value> {
        let (inputs, outputs) = weight.dims2()?;
        let rows = x.data.len() / inputs;
        let mut y = self.arena.take(rows * outputs);
        let w = borrow("project", weight)?;
        let (product, input) = (MatrixMut::new(&mut y, rows, outputs), x.data.clone());
        let w_matrix = Matrix::new(&w, inputs, outputs);
        matmul(product, Matrix::new(&input, rows, inputs), w_matrix, 1.0, false, Threads::All);
        drop(w);
        let (step, parameter) = (x.step, weight.clone());
        let dims = with_last(&x.dims, outputs);
        Ok(self.output(y, dims, &[x], &[weight], move |gradient, flow| {
            let dy = Matrix::new(&gradient, rows, outputs);
            if let Some((dw, add)) = flow.target(&parameter) {
                let dw = MatrixMut::new(dw, inputs, outputs);
                matmul(dw, Matrix::new(&input, rows, inputs).t(), dy, 1.0, add, Threads::All);
            }
            if step.is_some() {
                let w = borrow("project", &parameter)?;
                let w = Matrix::new(&w, inputs, outputs).t();
                let mut dx = flow.arena.take(rows * inputs);
                matmul(MatrixMut::new(&mut dx, rows, inputs), dy, w, 1.0, false, Threads::All);
                flow.give(step, dx);
            }
            Ok(())
        }))
    }
}

/// Adds a row to every row of `y`.
#[inline(always)]
fn add_row(row: &[f32], y: &mut [f32]) {
    for y in y.chunks_exact_mut(row.len()) {
        y.iter_mut().zip(row).for_each(|(y, r)| *y += r);
    }
}

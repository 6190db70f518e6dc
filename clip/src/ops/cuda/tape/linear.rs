//! Products with parameters, and what stands between them.

use candle_core::{Result, Tensor};

use super::{CudaTape, CudaValue, with_last};
use crate::{
    config::Activation,
    ops::{
        cuda::{Launch, Machine, Operand, Product},
        graph::Linear,
    },
};

impl<M: Machine> CudaTape<M> {
    pub(super) fn linear(
        &self,
        x: &CudaValue<M>,
        layer: Linear<'_>,
        residual: Option<&CudaValue<M>>,
    ) -> Result<CudaValue<M>> {
        let (bench, precision) = (self.bench(), self.precision);
        let (inputs, start, count) = (x.columns(), layer.outputs.start, layer.outputs.len());
        let (rows, size) = (x.count() / inputs, precision.bytes() as u64);
        let y = bench.values(rows * count)?;
        let weight = self.store.values(layer.weight, precision)? + size * (start * inputs) as u64;
        let (a, b) = (Operand::new(x.address(), inputs), Operand::transposed(weight, inputs));
        let mut product = Product::new([rows, count, inputs], a, b, M::address(&y));
        if let Some(bias) = layer.bias {
            product.bias = self.store.values(bias, precision)? + size * start as u64;
        }
        if let Some(residual) = residual {
            product = product.on(residual.address());
        }
        bench.machine().multiply(precision, &product)?;

        let (input, aside) = (x.clone(), residual.and_then(|value| value.step));
        let (matrix, bias) = (layer.weight.clone(), layer.bias.cloned());
        let trained: Vec<_> = [Some(layer.weight), layer.bias].into_iter().flatten().collect();
        let sources: Vec<_> = [Some(x), residual].into_iter().flatten().collect();
        let dims = with_last(&x.dims, count);
        Ok(self.output(y, dims, &sources, &trained, move |gradient, gradients| {
            let other = gradients.take(input.step);
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            if let Some(bias) = &bias {
                bench.add_columns(bias, start, dy, rows, count)?;
            }
            if let Some(sum) = bench.store.gradient(&matrix)? {
                let sum = sum + 4 * (start * inputs) as u64;
                let (a, b) =
                    (Operand::transposed(dy, count), Operand::new(input.address(), inputs));
                let product = Product::new([count, inputs, rows], a, b, sum).wide().on(sum);
                bench.machine().multiply(precision, &product)?;
            }
            if input.step.is_some() {
                let dx = bench.values(rows * inputs)?;
                let (a, b) = (Operand::new(dy, count), Operand::new(weight, inputs));
                let product = Product::new([rows, inputs, count], a, b, M::address(&dx));
                let other = other.as_deref().map_or(0, M::address);
                bench.machine().multiply(precision, &product.on_top(other))?;
                gradients.give(input.step, rows * inputs, dx)?;
            }
            gradients.give(aside, rows * count, gradient)
        }))
    }

    pub(super) fn project(&self, x: &CudaValue<M>, weight: &Tensor) -> Result<CudaValue<M>> {
        let (bench, precision) = (self.bench(), self.precision);
        let (inputs, outputs) = weight.dims2()?;
        let rows = x.count() / inputs;
        let y = bench.values(rows * outputs)?;
        let matrix = self.store.values(weight, precision)?;
        let (a, b) = (Operand::new(x.address(), inputs), Operand::new(matrix, outputs));
        let product = Product::new([rows, outputs, inputs], a, b, M::address(&y));
        bench.machine().multiply(precision, &product)?;
        let (input, parameter) = (x.clone(), weight.clone());
        Ok(self.output(y, [rows, outputs], &[x], &[weight], move |gradient, gradients| {
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            if let Some(sum) = bench.store.gradient(&parameter)? {
                let a = Operand::transposed(input.address(), inputs);
                let b = Operand::new(dy, outputs);
                let product = Product::new([inputs, outputs, rows], a, b, sum).wide().on(sum);
                bench.machine().multiply(precision, &product)?;
            }
            let dx = bench.values(rows * inputs)?;
            let (a, b) = (Operand::new(dy, outputs), Operand::transposed(matrix, outputs));
            let product = Product::new([rows, inputs, outputs], a, b, M::address(&dx));
            bench.machine().multiply(precision, &product)?;
            gradients.give(input.step, rows * inputs, dx)
        }))
    }

    pub(super) fn activate(
        &self,
        x: &CudaValue<M>,
        activation: Activation,
    ) -> Result<CudaValue<M>> {
        let (bench, count) = (self.bench(), x.count());
        let quick = usize::from(activation == Activation::QuickGelu);
        let y = bench.values(count)?;
        let launch = Launch::packs("activate", count, self.precision).pointer(x.address());
        bench.launch(launch.pointer(M::address(&y)).count(count).count(quick))?;
        let input = x.clone();
        Ok(self.output(y, x.dims.clone(), &[x], &[], move |gradient, gradients| {
            let dx = gradients.bench.values(count)?;
            let precision = gradients.bench.precision;
            let launch = Launch::packs("activate_back", count, precision).pointer(input.address());
            let launch = launch.pointer(M::address(&gradient)).pointer(M::address(&dx));
            gradients.bench.launch(launch.count(count).count(quick))?;
            gradients.give(input.step, count, dx)
        }))
    }

    pub(super) fn add_relu(&self, a: &CudaValue<M>, b: &CudaValue<M>) -> Result<CudaValue<M>> {
        let (bench, count) = (self.bench(), a.count());
        let y = CudaValue { data: bench.values(count)?.into(), ..a.clone() };
        let launch = Launch::packs("add_relu", count, self.precision)
            .pointer(a.address())
            .pointer(b.address());
        bench.launch(launch.pointer(y.address()).count(count))?;
        let (output, steps) = (y.data.clone(), [a.step, b.step]);
        Ok(self.output(y.data, a.dims.clone(), &[a, b], &[], move |gradient, gradients| {
            let dx = std::sync::Arc::new(gradients.bench.values(count)?);
            let precision = gradients.bench.precision;
            let launch =
                Launch::packs("add_relu_back", count, precision).pointer(M::address(&output));
            let launch = launch.pointer(M::address(&gradient)).pointer(M::address(&dx));
            gradients.bench.launch(launch.count(count))?;
            gradients.give(steps[0], count, dx.clone())?;
            gradients.give(steps[1], count, dx)
        }))
    }
}

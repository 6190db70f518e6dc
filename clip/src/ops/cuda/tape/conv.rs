//! Convolution as a product, batch normalisation, pooling.

use std::{ops::Range, sync::Arc};

use candle_core::{Device, Result, Tensor};

use super::{Array, Bench, CudaTape, CudaValue};
use crate::ops::{
    cuda::{Launch, Machine, Operand, Product, machine::chunk, store::floats},
    graph::{BatchStatistics, ConvNorm, ONE, Window},
};

/// Bytes that pixels under windows may take at a time. Few in tests, so that their pictures need
/// more than one group.
const UNFOLDED_MAX: usize = if cfg!(test) { 1 << 9 } else { 1 << 30 };

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    window: Window,
    /// Places of the window from top to bottom.
    high: usize,
    /// Places of the window from left to right.
    wide: usize,
}

impl Sizes {
    /// Values under one place of the window.
    fn cell(&self) -> usize {
        self.inputs * self.window.side * self.window.side
    }

    /// Places of the window in one picture.
    fn places(&self) -> usize {
        self.high * self.wide
    }

    /// Pictures that are unfolded together.
    fn groups(&self, bytes: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (batch, picture) = (self.batch, bytes * self.places() * self.cell());
        let size = if self.window == ONE { batch } else { (UNFOLDED_MAX / picture).max(1) };
        (0..batch).step_by(size).map(move |first| first..(first + size).min(batch))
    }

    fn launch<M: Machine>(&self, kernel: &'static str, count: usize, [x, y]: [u64; 2]) -> Launch {
        let Window { side, stride, padding } = self.window;
        let launch = Launch::each(kernel, count).pointer(x).pointer(y).count(count);
        let launch = launch.count(self.height).count(self.width).count(self.inputs);
        launch.count(side).count(stride).count(padding).count(self.high).count(self.wide)
    }
}

impl<M: Machine> CudaTape<M> {
    pub(super) fn conv_norm(
        &self,
        x: &CudaValue<M>,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(CudaValue<M>, BatchStatistics)> {
        let ConvNorm { kernel, window, weight, bias, relu } = layer;
        let &[batch, height, width, inputs] = &*x.dims else { panic!("`[B, H, W, C]`") };
        let (high, wide, outputs) = (window.places(height), window.places(width), kernel.dim(0)?);
        let sizes = Sizes { batch, height, width, inputs, outputs, window, high, wide };
        let (bench, rows) = (self.bench(), batch * high * wide);
        let count = rows * outputs;
        let z = bench.conv(x.address(), kernel, &sizes)?;
        let (mean, variance) = match fixed {
            Some(fixed) => (bench.tensor(&fixed.mean)?, bench.tensor(&fixed.variance)?),
            None => bench.moments(&z, rows, outputs)?,
        };
        let statistics = match fixed {
            Some(fixed) => fixed.clone(),
            None => BatchStatistics {
                mean: bench.download(&mean, outputs)?,
                variance: bench.download(&variance, outputs)?,
            },
        };
        let norm = [mean, variance];
        let scales = [self.store.master(weight)?, self.store.master(bias)?];
        let start = move |launch: Launch, z: &M::Memory, norm: &[M::Memory; 2]| {
            let launch = launch.pointer(M::address(z)).pointer(M::address(&norm[0]));
            launch.pointer(M::address(&norm[1])).pointer(scales[0]).pointer(scales[1])
        };
        let y = bench.values(count)?;
        let launch = start(Launch::each("batch_norm", count), &z, &norm).pointer(M::address(&y));
        bench.launch(launch.count(count).count(outputs).count(usize::from(relu)))?;

        let (input, is_fixed) = (x.clone(), fixed.is_some());
        let parameters = [weight.clone(), bias.clone(), kernel.clone()];
        let trained = [kernel, weight, bias];
        let dims = [batch, high, wide, outputs];
        let y = self.output(y, dims, &[x], &trained, move |gradient, gradients| {
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            let parts = bench.floats(rows.div_ceil(chunk(rows)) * 2 * outputs)?;
            let launch = start(Launch::columns("batch_norm_sums", rows, outputs), &z, &norm);
            let launch = launch.pointer(dy).pointer(M::address(&parts)).count(rows).count(outputs);
            bench.launch(launch.count(chunk(rows)).count(usize::from(relu)))?;
            let sums = bench.zeros(2 * outputs)?;
            bench.fold(&parts, [0, 2 * outputs, 2 * outputs], rows, 1.0, M::address(&sums))?;
            for (at, parameter) in parameters[..2].iter().enumerate() {
                let Some(sum) = bench.store.gradient(parameter)? else { continue };
                bench.fold(&parts, [at * outputs, outputs, 2 * outputs], rows, 1.0, sum)?;
            }
            let dz = bench.values(count)?;
            let sums = if is_fixed { 0 } else { M::address(&sums) };
            let launch = start(Launch::each("batch_norm_back", count), &z, &norm).pointer(dy);
            let launch = launch.pointer(sums).pointer(M::address(&dz)).count(count).count(outputs);
            bench.launch(launch.count(usize::from(relu)))?;
            let dx = bench.conv_back(&input, &parameters[2], &dz, &sizes)?;
            match dx {
                Some(dx) => gradients.give(input.step, input.count(), dx),
                None => Ok(()),
            }
        });
        Ok((y, statistics))
    }

    pub(super) fn avg_pool(&self, x: &CudaValue<M>, side: usize) -> Result<CudaValue<M>> {
        if side == 1 {
            return Ok(x.clone());
        }
        let &[batch, height, width, channels] = &*x.dims else { panic!("`[B, H, W, C]`") };
        let (bench, dims) = (self.bench(), [batch, height / side, width / side, channels]);
        let (all, count) = (x.count(), dims.iter().product());
        let y = bench.values(count)?;
        let sizes =
            move |launch: Launch| launch.count(height).count(width).count(channels).count(side);
        let launch = Launch::each("avg_pool", count).pointer(x.address());
        bench.launch(sizes(launch.pointer(M::address(&y)).count(count)))?;
        let step = x.step;
        Ok(self.output(y, dims, &[x], &[], move |gradient, gradients| {
            let dx = gradients.bench.values(all)?;
            let launch = Launch::each("avg_pool_back", all).pointer(M::address(&gradient));
            gradients.bench.launch(sizes(launch.pointer(M::address(&dx)).count(all)))?;
            gradients.give(step, all, dx)
        }))
    }
}

impl<M: Machine> Bench<M> {
    /// Floats as a tensor; waits for them.
    fn download(&self, memory: &M::Memory, count: usize) -> Result<Tensor> {
        let values = floats(&**self.machine(), memory, 0, count)?;
        Tensor::from_vec(values, count, &Device::Cpu)
    }

    /// Mean and variance of each column of `[rows, columns]` values.
    fn moments(
        &self,
        z: &M::Memory,
        rows: usize,
        columns: usize,
    ) -> Result<(M::Memory, M::Memory)> {
        let (mean, variance) = (self.zeros(columns)?, self.zeros(columns)?);
        let (z, share) = (M::address(z), 1.0 / rows as f64);
        let parts = self.column_sums(z, rows, columns)?;
        self.fold(&parts, [0, columns, columns], rows, share, M::address(&mean))?;
        let launch = Launch::columns("square_sums", rows, columns).pointer(z);
        let launch = launch.pointer(M::address(&mean)).pointer(M::address(&parts));
        self.launch(launch.count(rows).count(columns).count(chunk(rows)))?;
        self.fold(&parts, [0, columns, columns], rows, share, M::address(&variance))?;
        Ok((mean, variance))
    }

    /// What lies under the windows of some pictures; these themselves for a window of one pixel.
    fn cells(
        &self,
        x: u64,
        group: &Range<usize>,
        sizes: &Sizes,
    ) -> Result<(u64, Option<M::Memory>)> {
        let picture = sizes.height * sizes.width * sizes.inputs;
        let x = x + (self.precision.bytes() * picture * group.start) as u64;
        if sizes.window == ONE {
            return Ok((x, None));
        }
        let count = group.len() * sizes.places() * sizes.cell();
        let cells = self.values(count)?;
        let address = M::address(&cells);
        self.launch(sizes.launch::<M>("unfold", count, [x, address]))?;
        Ok((address, Some(cells)))
    }

    fn conv(&self, x: u64, kernel: &Tensor, sizes: &Sizes) -> Result<M::Memory> {
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let z = self.values(sizes.batch * sizes.places() * outputs)?;
        let weight = self.store.values(kernel, self.precision)?;
        for group in sizes.groups(size) {
            let (address, _cells) = self.cells(x, &group, sizes)?;
            let place = M::address(&z) + (size * group.start * sizes.places() * outputs) as u64;
            let (a, b) = (Operand::new(address, cell), Operand::transposed(weight, cell));
            let shape = [group.len() * sizes.places(), outputs, cell];
            self.machine().multiply(self.precision, &Product::new(shape, a, b, place))?;
        }
        Ok(z)
    }

    /// Adds to the gradient of the kernel; returns that of `x`, if one is asked for.
    fn conv_back(
        &self,
        x: &CudaValue<M>,
        kernel: &Tensor,
        dz: &M::Memory,
        sizes: &Sizes,
    ) -> Result<Option<Array<M>>> {
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let picture = sizes.height * sizes.width * sizes.inputs;
        let weight = self.store.values(kernel, self.precision)?;
        let sum = self.store.gradient(kernel)?;
        let dx = x.step.map(|_| self.values(x.count())).transpose()?;
        for group in sizes.groups(size) {
            let rows = group.len() * sizes.places();
            let dz = M::address(dz) + (size * group.start * sizes.places() * outputs) as u64;
            if let Some(sum) = sum {
                let (address, _cells) = self.cells(x.address(), &group, sizes)?;
                let (a, b) = (Operand::transposed(dz, outputs), Operand::new(address, cell));
                let product = Product::new([outputs, cell, rows], a, b, sum).wide().on(sum);
                self.machine().multiply(self.precision, &product)?;
            }
            let Some(dx) = &dx else { continue };
            let dx = M::address(dx) + (size * picture * group.start) as u64;
            let (a, b) = (Operand::new(dz, outputs), Operand::new(weight, cell));
            if sizes.window == ONE {
                let product = Product::new([rows, cell, outputs], a, b, dx);
                self.machine().multiply(self.precision, &product)?;
                continue;
            }
            let cells = self.values(rows * cell)?;
            let product = Product::new([rows, cell, outputs], a, b, M::address(&cells));
            self.machine().multiply(self.precision, &product)?;
            let count = group.len() * picture;
            self.launch(sizes.launch::<M>("unfold_back", count, [M::address(&cells), dx]))?;
        }
        Ok(dx.map(Arc::new))
    }
}

//! Convolution as a product, batch normalisation, pooling.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::{Bench, CudaTape, CudaValue, Gradients, Parts};
use crate::ops::{
    Peers,
    cuda::{Launch, Machine, Operand, Precision, Product, store::floats},
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

    /// A thread for each pack of the channels of `count` places or pixels.
    fn launch(
        &self,
        kernel: &'static str,
        count: usize,
        [x, y]: [u64; 2],
        precision: Precision,
    ) -> Launch {
        let Window { side, stride, padding } = self.window;
        let packs = count * self.inputs.div_ceil(precision.pack());
        let launch = Launch::each(kernel, packs).pointer(x).pointer(y).count(packs);
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
        let cells = bench.kernel_cells(kernel, &sizes)?;
        let z = bench.conv(x.address(), &cells, &sizes)?;
        let (moments, statistics) = match fixed {
            Some(fixed) => (bench.fixed(fixed)?, fixed.clone()),
            None => bench.moments(&z, rows, outputs)?,
        };
        let (mean, scales) = (M::address(&moments), [weight, bias].map(|of| self.store.master(of)));
        let [scale, shift] = scales;
        let norm = [M::address(&z), mean, mean + 4 * outputs as u64, scale?, shift?];
        let (shape, flags) = ([rows, outputs], [usize::from(relu)]);
        let y = bench.values(count)?;
        bench.columns("batch_norm", shape, &[&norm[..], &[M::address(&y)]].concat(), &flags)?;

        let (input, is_fixed) = (x.clone(), fixed.is_some());
        let parameters = [weight.clone(), bias.clone(), kernel.clone()];
        let trained = [kernel, weight, bias];
        let dims = [batch, high, wide, outputs];
        let y = self.output(y, dims, &[x], &trained, move |gradient, gradients| {
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            let _held = (&z, &moments);
            let inputs = [&norm[..], &[dy]].concat();
            let parts = bench.sums("batch_norm_sums", shape, 2, &inputs, &flags)?;
            let sums = match is_fixed {
                true => None,
                false => Some(bench.means_over_ranks(&parts, outputs)?),
            };
            for (at, parameter) in parameters[..2].iter().enumerate() {
                let Some(sum) = bench.store.gradient(parameter)? else { continue };
                bench.fold(&parts, at * outputs..(at + 1) * outputs, 1.0, sum)?;
            }
            let dz = bench.values(count)?;
            let sums_at = sums.as_ref().map_or(0, M::address);
            let inputs = [&norm[..], &[dy, sums_at, M::address(&dz)]].concat();
            bench.columns("batch_norm_back", shape, &inputs, &flags)?;
            bench.conv_kernel_back(&input, &parameters[2], &dz, &sizes)?;
            gradients.conv_back(&input, &cells, &dz, &sizes)
        });
        Ok((y, statistics))
    }

    pub(super) fn avg_pool(&self, x: &CudaValue<M>, side: usize) -> Result<CudaValue<M>> {
        if side == 1 {
            return Ok(x.clone());
        }
        let &[batch, height, width, channels] = &*x.dims else { panic!("`[B, H, W, C]`") };
        let (bench, dims) = (self.bench(), [batch, height / side, width / side, channels]);
        let (all, count): (_, usize) = (x.count(), dims.iter().product());
        let y = bench.values(count)?;
        let packs = channels.div_ceil(self.precision.pack());
        let launch = move |kernel, pixels: usize, from: u64, to: &M::Memory| {
            let launch = Launch::each(kernel, pixels * packs).pointer(from).pointer(M::address(to));
            let launch = launch.count(pixels * packs).count(height).count(width);
            launch.count(channels).count(side)
        };
        bench.launch(launch("avg_pool", count / channels, x.address(), &y))?;
        let step = x.step;
        Ok(self.output(y, dims, &[x], &[], move |gradient, gradients| {
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            let dx = bench.values(all)?;
            bench.launch(launch("avg_pool_back", all / channels, dy, &dx))?;
            gradients.give(step, all, dx)
        }))
    }
}

impl<M: Machine> Bench<M> {
    /// Given statistics, `[2, columns]`: means, variances.
    fn fixed(&self, given: &BatchStatistics) -> Result<M::Memory> {
        let both = [given.mean.to_vec1::<f32>()?, given.variance.to_vec1::<f32>()?].concat();
        self.machine().upload(&both)
    }

    /// Mean and variance of each column of `[rows, columns]` values, of all ranks: `[2, columns]`,
    /// and as tensors; waits for them.
    fn moments(
        &self,
        z: &M::Memory,
        rows: usize,
        columns: usize,
    ) -> Result<(M::Memory, BatchStatistics)> {
        let own = self.own_moments(z, rows, columns)?;
        let mut mean = floats(&**self.machine(), &own, 0, 2 * columns)?;
        let mut variance = mean.split_off(columns);
        let moments = match &self.peers {
            None => own,
            Some(peers) => {
                over_ranks(&mut mean, &mut variance, &**peers);
                self.machine().upload(&[&mean[..], &variance].concat())?
            }
        };
        let tensor = |values| Tensor::from_vec(values, columns, &Device::Cpu);
        Ok((moments, BatchStatistics { mean: tensor(mean)?, variance: tensor(variance)? }))
    }

    /// Two sums of each column, `[2, columns]`, in the mean over the ranks: divided by the rows of
    /// one of them, they are means over the rows of all.
    fn means_over_ranks(&self, parts: &Parts<M>, columns: usize) -> Result<M::Memory> {
        let sums = self.zeros(2 * columns)?;
        let ranks = self.peers.as_ref().map_or(1, |peers| peers.ranks());
        self.fold(parts, 0..2 * columns, 1.0 / ranks as f64, M::address(&sums))?;
        if let Some(peers) = &self.peers {
            self.machine().sum(&sums, 0..2 * columns, &**peers)?;
        }
        Ok(sums)
    }

    /// Mean and variance of each column of `[rows, columns]` values: `[2, columns]`.
    fn own_moments(&self, z: &M::Memory, rows: usize, columns: usize) -> Result<M::Memory> {
        let (z, both) = (M::address(z), self.zeros(2 * columns)?);
        let parts = self.sums("moment_sums", [rows, columns], 2, &[z], &[])?;
        self.fold(&parts, 0..2 * columns, 1.0 / rows as f64, M::address(&both))?;
        let launch = Launch::each("moments", columns).pointer(z).pointer(M::address(&both));
        self.launch(launch.count(columns))?;
        Ok(both)
    }

    /// A kernel in the order of [`Bench::cells`], `[O, side side I]`.
    fn kernel_cells(&self, kernel: &Tensor, sizes: &Sizes) -> Result<Cells<M>> {
        let values = self.store.values(kernel, self.precision)?;
        if sizes.window == ONE {
            return Ok(Cells { address: values, _memory: None });
        }
        let count = kernel.elem_count();
        let cells = self.values(count)?;
        let address = M::address(&cells);
        let launch = Launch::each("kernel_cells", count).pointer(values).pointer(address);
        let launch = launch.count(count).count(sizes.inputs);
        self.launch(launch.count(sizes.window.side.pow(2)))?;
        Ok(Cells { address, _memory: Some(cells) })
    }

    /// What lies under the windows of some pictures, `[.., side side I]`; these themselves for a
    /// window of one pixel.
    fn cells(&self, x: u64, group: &Range<usize>, sizes: &Sizes) -> Result<Cells<M>> {
        let picture = sizes.height * sizes.width * sizes.inputs;
        let x = x + (self.precision.bytes() * picture * group.start) as u64;
        if sizes.window == ONE {
            return Ok(Cells { address: x, _memory: None });
        }
        let places = group.len() * sizes.places();
        let cells = self.values(places * sizes.cell())?;
        let address = M::address(&cells);
        self.launch(sizes.launch("unfold", places, [x, address], self.precision))?;
        Ok(Cells { address, _memory: Some(cells) })
    }

    fn conv(&self, x: u64, kernel: &Cells<M>, sizes: &Sizes) -> Result<M::Memory> {
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let z = self.values(sizes.batch * sizes.places() * outputs)?;
        for group in sizes.groups(size) {
            let cells = self.cells(x, &group, sizes)?;
            let place = M::address(&z) + (size * group.start * sizes.places() * outputs) as u64;
            let a = Operand::new(cells.address, cell);
            let b = Operand::transposed(kernel.address, cell);
            let shape = [group.len() * sizes.places(), outputs, cell];
            self.machine().multiply(self.precision, &Product::new(shape, a, b, place))?;
        }
        Ok(z)
    }

    /// Adds to the gradient of the kernel.
    fn conv_kernel_back(
        &self,
        x: &CudaValue<M>,
        kernel: &Tensor,
        dz: &M::Memory,
        sizes: &Sizes,
    ) -> Result<()> {
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let Some(gradient) = self.store.gradient(kernel)? else { return Ok(()) };
        let found = match sizes.window {
            ONE => None,
            _ => Some(self.zeros(outputs * cell)?),
        };
        let sum = found.as_ref().map_or(gradient, M::address);
        for group in sizes.groups(size) {
            let rows = group.len() * sizes.places();
            let dz = M::address(dz) + (size * group.start * sizes.places() * outputs) as u64;
            let cells = self.cells(x.address(), &group, sizes)?;
            let (a, b) = (Operand::transposed(dz, outputs), Operand::new(cells.address, cell));
            let product = Product::new([outputs, cell, rows], a, b, sum).wide().on(sum);
            self.machine().multiply(self.precision, &product)?;
        }
        if found.is_none() {
            return Ok(());
        }
        let launch = Launch::each("kernel_cells_back", outputs * cell).pointer(sum);
        let launch = launch.pointer(gradient).count(outputs * cell).count(sizes.inputs);
        self.launch(launch.count(sizes.window.side.pow(2)))
    }
}

impl<M: Machine> Gradients<M> {
    /// Gives the input of a convolution its gradient, if it asks for one.
    fn conv_back(
        &mut self,
        x: &CudaValue<M>,
        kernel: &Cells<M>,
        dz: &M::Memory,
        sizes: &Sizes,
    ) -> Result<()> {
        if x.step.is_none() {
            return Ok(());
        }
        // On top of what the input has been given before, if no window shares a pixel.
        let other = if sizes.window == ONE { self.take(x.step) } else { None };
        let (bench, machine) = (&self.bench, self.bench.machine());
        let (size, cell, outputs) = (bench.precision.bytes(), sizes.cell(), sizes.outputs);
        let dx = bench.values(x.count())?;
        for group in sizes.groups(size) {
            let rows = group.len() * sizes.places();
            let dz = M::address(dz) + (size * group.start * sizes.places() * outputs) as u64;
            let pixels = group.len() * sizes.height * sizes.width;
            let first = group.start * sizes.height * sizes.width * sizes.inputs;
            let place = M::address(&dx) + (size * first) as u64;
            let (a, b) = (Operand::new(dz, outputs), Operand::new(kernel.address, cell));
            let product = |d| Product::new([rows, cell, outputs], a, b, d);
            if sizes.window == ONE {
                let other = other.as_deref().map_or(0, M::address);
                machine.multiply(bench.precision, &product(place).on_top(other))?;
                continue;
            }
            let cells = bench.values(rows * cell)?;
            let address = M::address(&cells);
            machine.multiply(bench.precision, &product(address))?;
            bench.launch(sizes.launch("unfold_back", pixels, [address, place], bench.precision))?;
        }
        self.give(x.step, x.count(), dx)
    }
}

/// Makes means and variances of the rows of one rank those of the rows of all, as many on each: a
/// variance is the mean one and that of the means (Chan et al. 1979).
fn over_ranks(mean: &mut [f32], variance: &mut [f32], peers: &dyn Peers) {
    let ranks = peers.ranks() as f32;
    let own = mean.to_vec();
    peers.sum(mean);
    mean.iter_mut().for_each(|sum| *sum /= ranks);
    for ((variance, own), mean) in variance.iter_mut().zip(own).zip(&*mean) {
        *variance += (own - mean) * (own - mean);
    }
    peers.sum(variance);
    variance.iter_mut().for_each(|sum| *sum /= ranks);
}

/// Values in the order of cells, and what holds them if they were copied.
struct Cells<M: Machine> {
    address: u64,
    _memory: Option<M::Memory>,
}

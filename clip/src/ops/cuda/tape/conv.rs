//! Convolution, by the machine's own way or as a product, batch normalisation, pooling.

use std::{ops::Range, sync::Arc};

use candle_core::{Device, Result, Tensor};

use super::{Array, Bench, CudaTape, CudaValue, Gradients, Parts};
use crate::ops::{
    Peers,
    cuda::{
        Launch, Machine, Operand, Precision, Product,
        convolution::{Convolution, Sizes, Wanted},
        store::floats,
    },
    graph::{Awaited, BatchStatistics, ConvNorm, ONE, Window},
};

impl<M: Machine> CudaTape<M> {
    pub(super) fn conv_norm(
        &self,
        x: &CudaValue<M>,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(CudaValue<M>, Awaited)> {
        let ConvNorm { kernel, window, weight, bias, relu } = layer;
        let dims: [usize; 4] = (&*x.dims).try_into().expect("`[B, H, W, C]`");
        let outputs = kernel.dim(0)?;
        let sizes = Sizes::new(dims, outputs, window);
        let (bench, rows) = (self.bench(), sizes.batch * sizes.places());
        let count = rows * outputs;
        let cells = bench.kernel_cells(kernel, &sizes)?;
        let z = bench.conv(x.address(), &cells, &sizes)?;
        let (moments, statistics) = match fixed {
            Some(fixed) => {
                let (moments, fixed) = (bench.fixed(fixed)?.into(), fixed.clone());
                (moments, Box::new(move || Ok(fixed.clone())) as Awaited)
            }
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
        let dims = [sizes.batch, sizes.high, sizes.wide, outputs];
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
    /// and as tensors for whoever waits. Several ranks meet, and wait for one another.
    fn moments(&self, z: &M::Memory, rows: usize, columns: usize) -> Result<(Array<M>, Awaited)> {
        let (own, machine) =
            (Arc::new(self.own_moments(z, rows, columns)?), self.machine().clone());
        let Some(peers) = &self.peers else {
            let moments = own.clone();
            return Ok((own, Box::new(move || tensors(&both(&*machine, &moments, columns)?))));
        };
        let [mut mean, mut variance] = both(&*machine, &own, columns)?;
        over_ranks(&mut mean, &mut variance, &**peers);
        let moments = machine.upload(&[&mean[..], &variance].concat())?;
        let found = [mean, variance];
        Ok((moments.into(), Box::new(move || tensors(&found))))
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
        self.launch(unfold("unfold", places, [x, address], sizes, self.precision))?;
        Ok(Cells { address, _memory: Some(cells) })
    }

    /// [`Machine::convolve`]; a window of one pixel is a product.
    fn convolve(&self, &sizes: &Sizes, wanted: Wanted, arrays: [u64; 3]) -> Result<bool> {
        let asked = Convolution { sizes, wanted, arrays };
        match sizes.window {
            ONE => Ok(false),
            _ => self.machine().convolve(self.precision, &asked),
        }
    }

    fn conv(&self, x: u64, kernel: &Cells<M>, sizes: &Sizes) -> Result<M::Memory> {
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let z = self.values(sizes.batch * sizes.places() * outputs)?;
        let arrays = [x, kernel.address, M::address(&z)];
        if self.convolve(sizes, Wanted::Output, arrays)? {
            return Ok(z);
        }
        for group in sizes.groups(self.precision) {
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
        let Some(gradient) = self.store.gradient(kernel)? else { return Ok(()) };
        let (size, cell, outputs) = (self.precision.bytes(), sizes.cell(), sizes.outputs);
        let count = outputs * cell;
        let add = |kernel, cells: &M::Memory| {
            let launch = Launch::each(kernel, count).pointer(M::address(cells)).pointer(gradient);
            self.launch(launch.count(count).count(sizes.inputs).count(sizes.window.side.pow(2)))
        };
        if sizes.window != ONE {
            let found = self.values(count)?; // rounded to values; products leave floats
            let arrays = [x.address(), M::address(&found), M::address(dz)];
            if self.convolve(sizes, Wanted::KernelGradient, arrays)? {
                return add("kernel_back", &found);
            }
        }
        let sums = if sizes.window == ONE { None } else { Some(self.zeros(count)?) };
        let sum = sums.as_ref().map_or(gradient, M::address);
        for group in sizes.groups(self.precision) {
            let rows = group.len() * sizes.places();
            let dz = M::address(dz) + (size * group.start * sizes.places() * outputs) as u64;
            let cells = self.cells(x.address(), &group, sizes)?;
            let (a, b) = (Operand::transposed(dz, outputs), Operand::new(cells.address, cell));
            let product = Product::new([outputs, cell, rows], a, b, sum).wide().on(sum);
            self.machine().multiply(self.precision, &product)?;
        }
        sums.map_or(Ok(()), |sums| add("kernel_sums_back", &sums))
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
        let arrays = [M::address(&dx), kernel.address, M::address(dz)];
        if bench.convolve(sizes, Wanted::InputGradient, arrays)? {
            return self.give(x.step, x.count(), dx);
        }
        for group in sizes.groups(bench.precision) {
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
            let back = [address, place];
            bench.launch(unfold("unfold_back", pixels, back, sizes, bench.precision))?;
        }
        self.give(x.step, x.count(), dx)
    }
}

/// A thread for each pack of the channels of `count` places or pixels.
fn unfold(
    kernel: &'static str,
    count: usize,
    [x, y]: [u64; 2],
    sizes: &Sizes,
    precision: Precision,
) -> Launch {
    let Window { side, stride, padding } = sizes.window;
    let packs = count * sizes.inputs.div_ceil(precision.pack());
    let launch = Launch::each(kernel, packs).pointer(x).pointer(y).count(packs);
    let launch = launch.count(sizes.height).count(sizes.width).count(sizes.inputs);
    launch.count(side).count(stride).count(padding).count(sizes.high).count(sizes.wide)
}

/// Means and variances of columns; waits for them.
fn both<M: Machine>(machine: &M, moments: &M::Memory, columns: usize) -> Result<[Vec<f32>; 2]> {
    let mut mean = floats(machine, moments, 0, 2 * columns)?;
    let variance = mean.split_off(columns);
    Ok([mean, variance])
}

fn tensors([mean, variance]: &[Vec<f32>; 2]) -> Result<BatchStatistics> {
    let tensor = |values: &Vec<f32>| Tensor::from_slice(values, values.len(), &Device::Cpu);
    Ok(BatchStatistics { mean: tensor(mean)?, variance: tensor(variance)? })
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

//! What a tape asks of the machine that computes it: memory, launches of kernels, matrix products,
//! convolutions.

use std::{fmt, io, ops::Range, sync::Arc};

use bytemuck::NoUninit;
use candle_core::{Error, Result};

use super::convolution::Convolution;
use crate::ops::Peers;

/// How activations and the matrices that they meet are kept; sums are always made in f32. Those of
/// parameters' gradients are kept so, too, but for a convolution's kernel where a machine convolves in
/// its own way: that gives values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// For evaluation and proofs.
    F32,
    /// For training.
    Bf16,
}

impl Precision {
    /// Bytes of one value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Values that a thread reads or writes at once, `PACK` in the kernels.
    pub(crate) fn pack(self) -> usize {
        16 / self.bytes()
    }
}

/// A card, or what stands in for one in tests. All that is asked of it but [`Machine::send`] happens
/// in order.
pub(crate) trait Machine: fmt::Debug + Sized + Send + Sync + 'static {
    /// An array; what is still to be done with it may outlive it.
    type Memory: fmt::Debug + Send + Sync + 'static;

    /// An array that holds anything; [`out_of_memory`] if there is no room for it.
    fn take(self: &Arc<Self>, bytes: usize) -> Result<Self::Memory>;

    /// Where its first byte lies.
    fn address(memory: &Self::Memory) -> u64;

    /// Copies to an array, from byte `start` on.
    fn write(&self, memory: &Self::Memory, start: usize, bytes: &[u8]) -> Result<()>;

    /// An array of these bytes, without waiting for what was asked before: there when it returns.
    /// [`out_of_memory`] if there is no room but what the machine keeps for arrays to come.
    fn send(self: &Arc<Self>, bytes: &[u8]) -> Result<Self::Memory> {
        self.upload(bytes)
    }

    /// An array of these values.
    fn upload<T: NoUninit>(self: &Arc<Self>, values: &[T]) -> Result<Self::Memory> {
        let memory = self.take(size_of_val(values))?;
        self.write(&memory, 0, bytemuck::cast_slice(values))?;
        Ok(memory)
    }

    /// Waits for everything asked so far and copies from an array, from byte `start` on.
    fn read(&self, memory: &Self::Memory, start: usize, bytes: &mut [u8]) -> Result<()>;

    /// Asks for a kernel.
    fn launch(&self, precision: Precision, launch: &Launch) -> Result<()>;

    /// Asks for a matrix product of values of this precision.
    fn multiply(&self, precision: Precision, product: &Product) -> Result<()>;

    /// Asks for a convolution of values of this precision, whose window is larger than a pixel.
    /// `false`, with nothing done, if the machine has no way of its own.
    fn convolve(self: &Arc<Self>, precision: Precision, convolution: &Convolution) -> Result<bool>;

    /// Puts in the place of some floats of an array their sums over all ranks: through the
    /// processor, where the machine has no way of its own.
    fn sum(&self, memory: &Self::Memory, floats: Range<usize>, peers: &dyn Peers) -> Result<()> {
        sum_through(self, memory, floats, peers)
    }
}

/// [`Machine::sum`] through the processor.
pub(super) fn sum_through<M: Machine>(
    machine: &M,
    memory: &M::Memory,
    floats: Range<usize>,
    peers: &dyn Peers,
) -> Result<()> {
    let mut values = vec![0f32; floats.len()];
    machine.read(memory, 4 * floats.start, bytemuck::cast_slice_mut(&mut values))?;
    peers.sum(&mut values);
    machine.write(memory, 4 * floats.start, bytemuck::cast_slice(&values))
}

/// What a machine without `bytes` bytes says; [`crate::ops::is_out_of_memory`] knows it.
pub(crate) fn out_of_memory(machine: &str, bytes: usize) -> Error {
    let reason = format!("{machine} has no {bytes} bytes left");
    Error::Io(io::Error::new(io::ErrorKind::OutOfMemory, reason))
}

/// Lanes of a warp.
pub(super) const WARP: usize = 32;
/// Threads of a block of kernels that do one thing per thread, or per warp.
const THREADS: usize = 128;
/// Threads of a block that goes down columns, `SUM_THREADS` in the kernels.
const SUM_THREADS: usize = 256;
/// How many such blocks there are, about.
const SUM_BLOCKS: usize = 1024;
/// Least rows of such a block.
const SUM_ROWS: usize = if cfg!(test) { 8 } else { 64 };

/// One kernel, its blocks and its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    /// Each in the lowest bytes.
    pub(crate) arguments: Vec<u64>,
}

impl Launch {
    /// `grid` blocks of `threads`.
    pub(crate) fn new(kernel: &'static str, grid: [usize; 3], threads: usize) -> Self {
        let grid = grid.map(|blocks| blocks as u32);
        Self { kernel, grid, threads: threads as u32, arguments: Vec::new() }
    }

    /// A thread for each of `count` values.
    pub(crate) fn each(kernel: &'static str, count: usize) -> Self {
        Self::new(kernel, [count.div_ceil(THREADS), 1, 1], THREADS)
    }

    /// A thread for each pack of `count` values.
    pub(crate) fn packs(kernel: &'static str, count: usize, precision: Precision) -> Self {
        Self::each(kernel, count.div_ceil(precision.pack()))
    }

    /// A warp for each of `rows` rows.
    pub(crate) fn rows(kernel: &'static str, rows: usize) -> Self {
        Self::each(kernel, rows * WARP)
    }

    /// Threads that go down columns.
    pub(crate) fn columns(kernel: &'static str, chunks: Chunks) -> Self {
        Self::new(kernel, [chunks.wide(), chunks.count(), 1], SUM_THREADS)
    }

    /// The sums of `count` columns of parts.
    pub(crate) fn fold(count: usize) -> Self {
        Self::new("fold", [count.div_ceil(WARP), 1, 1], SUM_THREADS)
    }

    /// An array, by its address.
    pub(crate) fn pointer(mut self, address: u64) -> Self {
        self.arguments.push(address);
        self
    }

    /// An `int` or an `index_t`.
    pub(crate) fn count(mut self, count: usize) -> Self {
        self.arguments.push(count as u64);
        self
    }

    /// A `float`.
    pub(crate) fn float(mut self, value: f64) -> Self {
        self.arguments.push(u64::from((value as f32).to_bits()));
        self
    }
}

/// How the rows of `[rows, columns]` values are divided among blocks that go down the columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunks {
    rows: usize,
    columns: usize,
    pack: usize,
}

impl Chunks {
    pub(crate) fn new(rows: usize, columns: usize, precision: Precision) -> Self {
        Self { rows, columns, pack: precision.pack() }
    }

    /// Blocks side by side, each with a warp's packs of columns.
    fn wide(&self) -> usize {
        self.columns.div_ceil(self.pack * WARP)
    }

    /// Rows of one of them.
    pub(crate) fn rows_of_one(&self) -> usize {
        self.rows.div_ceil(SUM_BLOCKS.div_ceil(self.wide())).max(SUM_ROWS)
    }

    /// Blocks one above the other; each leaves a part of the sum of a column.
    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(self.rows_of_one())
    }
}

/// A matrix in rows, `stride` values from one to the next.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Operand {
    pub(crate) address: u64,
    pub(crate) stride: u64,
    /// 1 if the product takes rows for columns.
    pub(crate) is_transposed: u64,
}

impl Operand {
    /// As it lies in memory.
    pub(crate) fn new(address: u64, stride: usize) -> Self {
        Self { address, stride: stride as u64, is_transposed: 0 }
    }

    /// Rows for columns.
    pub(crate) fn transposed(address: u64, stride: usize) -> Self {
        Self { is_transposed: 1, ..Self::new(address, stride) }
    }
}

/// `d = a b + beta c + bias`: `[rows, inner]`, `[inner, columns]` -> `[rows, columns]`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Product {
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    /// Of d's form; 0 for none.
    pub(crate) c: u64,
    /// `[columns]`; 0 for none.
    pub(crate) bias: u64,
    pub(crate) d: u64,
    /// Values from one row of d to the next.
    pub(crate) d_stride: u64,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    pub(crate) inner: u64,
    /// 1 if c, bias and d are f32, whatever a and b are.
    pub(crate) is_wide: u64,
    pub(crate) beta: f64,
}

impl Product {
    /// `d = a b`, values; d's rows follow one another.
    pub(crate) fn new([rows, columns, inner]: [usize; 3], a: Operand, b: Operand, d: u64) -> Self {
        Self {
            a,
            b,
            c: 0,
            bias: 0,
            d,
            d_stride: columns as u64,
            rows: rows as u64,
            columns: columns as u64,
            inner: inner as u64,
            is_wide: 0,
            beta: 0.0,
        }
    }

    /// `+ c`
    pub(crate) fn on(self, c: u64) -> Self {
        Self { c, beta: 1.0, ..self }
    }

    /// `+ c` if there is one.
    pub(crate) fn on_top(self, c: u64) -> Self {
        if c == 0 { self } else { self.on(c) }
    }

    /// To f32.
    pub(crate) fn wide(self) -> Self {
        Self { is_wide: 1, ..self }
    }
}

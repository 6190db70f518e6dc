//! Differentiable operators that candle lacks, or has without a backward pass.
//!
//! | operator | file | composed of |
//! |---|---|---|
//! | [`quick_gelu`], [`gelu`] | `activation` | one pass each way |
//! | [`layer_norm`], [`batch_norm`] | `layer_norm`, `batch_norm` | statistics are recomputed backwards |
//! | [`softmax`] | `softmax` | scale and causal mask included |
//! | [`add_row`], [`add_relu`], [`normalize`] | `row` | bias, residual, unit length |
//! | [`conv`], [`avg_pool`] | `conv` | `[B, H, W, C]`; unfolded a few pictures at a time |
//! | [`cross_entropy`] | `cross_entropy` | rows of a similarity matrix, duplicates left out |
//!
//! Each function takes one fused path for contiguous f32 on the CPU and otherwise composes candle's
//! own differentiable primitives: the composition runs on CUDA, and in f64 it is the proof. The
//! tests hold the composition against central differences and the fused path against both.
//!
//! candle-nn's fused `layer_norm`, `rms_norm` and `softmax_last_dim` cut the gradient silently;
//! candle-nn is therefore no dependency of this crate.

mod activation;
mod batch_norm;
mod conv;
mod cpu;
mod cross_entropy;
mod layer_norm;
#[cfg(test)]
pub(crate) mod proof;
mod row;
mod softmax;

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor};

pub use activation::{gelu, quick_gelu};
pub use batch_norm::{BatchStatistics, batch_norm};
pub use conv::{ONE, Window, avg_pool, conv};
pub use cross_entropy::cross_entropy;
pub use layer_norm::layer_norm;
pub use row::{add_relu, add_row, normalize};
pub use softmax::softmax;

/// `x W^T + b`, the weight as checkpoints store it: `[.., I]`, `[O, I]`, `[O]` -> `[.., O]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = conv(x, weight, ONE)?;
    match bias {
        Some(bias) => add_row(&y, bias),
        None => Ok(y),
    }
}

/// `x W`: `[.., I]`, `[I, O]` -> `[.., O]`.
pub fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (inputs, outputs) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(outputs);
    x.reshape(((), inputs))?.matmul(weight)?.reshape(shape)
}

/// Whether the fused path applies.
fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Values of an operator's contiguous f32 argument.
fn values<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else {
        return Err(Error::UnsupportedDTypeForOp(storage_dtype(storage), op));
    };
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    Ok(&all[start..end])
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Values of a contiguous f32 CPU tensor.
fn borrow<'a>(op: &'static str, tensor: &'a Tensor) -> Result<impl Deref<Target = [f32]> + 'a> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Borrowed { storage, start, end }),
        _ => Err(Error::UnsupportedDTypeForOp(tensor.dtype(), op)),
    }
}

/// Holds candle's lock on the storage as long as the values are looked at.
struct Borrowed<G> {
    storage: G,
    start: usize,
    end: usize,
}

impl<G: Deref<Target = Storage>> Deref for Borrowed<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.start..self.end],
            _ => unreachable!("`borrow` accepts nothing else"),
        }
    }
}

/// Rows in one unit of parallel work: fixed, so that sums do not depend on the number of threads.
const ROWS: usize = if cfg!(test) { 3 } else { 256 };

/// Adds up per-chunk sums `[.., C]` in the order of the chunks.
fn add_up(parts: Vec<Vec<f32>>, columns: usize) -> Vec<f32> {
    let mut total = vec![0.0; columns];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    total
}

//! What towers are computed with: one trait, and who carries it out.
//!
//! | file | holds |
//! |---|---|
//! | `graph` | [`Graph`]: every operation that a tower may use |
//! | `composed` | out of candle's own differentiable primitives: any device, any precision; in f64 it is the proof |
//! | `tape` | by hand for f32 on the CPU: larger steps, buffers that are used again, each with its backward pass |
//! | `cuda` | the same out of kernels for a GPU, behind feature `cuda` |
//! | `cpu` | loops and matrix products on slices, the only place for `unsafe` |
//! | `engine` | who computes the loss and looks up neighbors |
//! | `info_nce` | the loss over a similarity matrix, on candle's tensors |
//! | `agreement` | how far each pair of a data set stands out, on slices |
//! | `draw` | keys that are drawn by their softmax, on slices |
//! | `gradients` | what parameters get, in one buffer |
//! | `nearest` | the greatest of many dot products |
//! | `neighbors` | the nearest of many rows to each of many |
//! | `peers` | [`Peers`]: other processes, for what is taken over the whole batch |
//!
//! The tests hold the composition in f64 against central differences, and the tape against it.
//!
//! candle-nn's fused `layer_norm`, `rms_norm` and `softmax_last_dim` cut the gradient silently;
//! candle-nn is therefore no dependency of this crate.

mod agreement;
mod composed;
mod cpu;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod cuda;
mod draw;
mod engine;
mod gradients;
mod graph;
mod info_nce;
mod nearest;
mod neighbors;
mod peers;
#[cfg(test)]
pub(crate) mod proof;
mod tape;

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor};

pub use agreement::{PairRows, agreement};
pub(crate) use composed::Composed;
pub use draw::draw;
pub use engine::{Engine, Kept};
pub use gradients::Gradients;
pub(crate) use graph::{
    Awaited, BatchStatistics, Columns, ConvNorm, Graph, Linear, ONE, Seen, Window,
};
pub use info_nce::{Equals, info_nce, info_nce_one_way};
pub use nearest::nearest;
pub use neighbors::neighbors;
pub use peers::{Peers, Seat};
#[doc(hidden)]
pub use tape::pieces;
pub(crate) use tape::{Arena, Tape, Value};

/// Whether a machine had no memory left for what was asked of it.
pub fn is_out_of_memory(error: &Error) -> bool {
    matches!(error, Error::Io(reason) if reason.kind() == std::io::ErrorKind::OutOfMemory)
}

/// Whether the paths by hand apply.
pub(crate) fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Values of an operator's contiguous f32 argument.
pub(crate) fn values<'a>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
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

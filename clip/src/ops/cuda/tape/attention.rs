//! Attention without a table of queries by keys.

use std::sync::Arc;

use candle_core::{Result, bail};

use super::{CudaTape, CudaValue};
use crate::ops::{
    cuda::{Launch, Machine, machine::WARP},
    graph::{Columns, Seen},
};

/// The usual width of a head, and the greatest.
const HEAD: usize = 64;
const HEAD_MAX: usize = 128;
/// Rows of a warp, `ROWS` in the kernels.
const ROWS: usize = 16;
/// Most warps of a block.
const WARPS_MAX: usize = 8;

impl<M: Machine> CudaTape<M> {
    pub(super) fn attention(
        &self,
        qkv: [Columns<'_, CudaValue<M>>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<CudaValue<M>> {
        let bench = self.bench();
        let (&[batch, queries, _], &[_, keys, _]) = (&*qkv[0].of.dims, &*qkv[1].of.dims) else {
            panic!("`[B, T, C]`")
        };
        let head = width / heads;
        if head > HEAD_MAX {
            bail!("heads of width {head}; on a GPU they are at most {HEAD_MAX} wide");
        }
        let strides = [qkv[0].of.columns(), qkv[1].of.columns()];
        assert_eq!(strides[1], qkv[2].of.columns(), "keys and values lie alike");
        let arrays = qkv.each_ref().map(|part| part.of.clone());
        let size = self.precision.bytes();
        let starts = qkv.each_ref().map(|part| (size * part.start) as u64);
        let addresses: [u64; 3] = std::array::from_fn(|at| arrays[at].address() + starts[at]);
        let last = match seen {
            Seen::UpTo(last) => Some(bench.machine().upload(last)?),
            _ => None,
        };
        let causal = usize::from(matches!(seen, Seen::Causal));
        let y = Arc::new(bench.values(batch * queries * width)?);
        let sums = bench.floats(batch * heads * queries)?;
        let factor = 1.0 / (head as f64).sqrt();
        let launch = move |kernels: [&'static str; 2], rows: usize, last: &Option<M::Memory>| {
            let kernel = kernels[usize::from(head != HEAD)];
            let warps = rows.div_ceil(ROWS).min(WARPS_MAX);
            let grid = [rows.div_ceil(warps * ROWS), heads, batch];
            let launch = Launch::new(kernel, grid, warps * WARP);
            let launch = addresses.iter().fold(launch, |launch, at| launch.pointer(*at));
            let launch = launch.pointer(last.as_ref().map_or(0, M::address));
            let launch = launch.count(queries).count(keys).count(head);
            launch.count(strides[0]).count(strides[1]).count(causal).float(factor)
        };
        let forth = launch(["attention_64", "attention_any"], queries, &last);
        bench.launch(forth.pointer(M::address(&y)).pointer(M::address(&sums)))?;

        let output = y.clone();
        let sources = qkv.map(|part| part.of);
        Ok(self.output(y, [batch, queries, width], &sources, &[], move |gradient, gradients| {
            let bench = &gradients.bench;
            let dots = bench.floats(batch * heads * queries)?;
            // One gradient for each array, however many of the three lie in it.
            let owners: [usize; 3] = std::array::from_fn(|part| {
                let same = |&at: &usize| Arc::ptr_eq(&arrays[at].data, &arrays[part].data);
                (0..part).find(same).unwrap_or(part)
            });
            let mut found = [None, None, None];
            for part in 0..3 {
                if owners[part] == part {
                    found[part] = Some(Arc::new(bench.values(arrays[part].count())?));
                }
            }
            let at = |part: usize| {
                let array = found[owners[part]].as_ref().expect("an owner has one");
                M::address(array) + starts[part]
            };
            let (dy, dots) = (M::address(&gradient), M::address(&dots));
            let sums = M::address(&sums);
            let kernels = ["attention_back_queries_64", "attention_back_queries_any"];
            let back = launch(kernels, queries, &last).pointer(M::address(&output));
            bench.launch(back.pointer(dy).pointer(sums).pointer(dots).pointer(at(0)))?;
            let kernels = ["attention_back_keys_64", "attention_back_keys_any"];
            let back = launch(kernels, keys, &last).pointer(dy).pointer(sums).pointer(dots);
            bench.launch(back.pointer(at(1)).pointer(at(2)))?;
            for (array, gradient) in arrays.iter().zip(found) {
                if let Some(gradient) = gradient {
                    gradients.give(array.step, array.count(), gradient)?;
                }
            }
            Ok(())
        }))
    }
}

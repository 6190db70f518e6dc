//! Normalisation of rows.

use candle_core::{Result, Tensor};

use super::{CudaTape, CudaValue};
use crate::ops::cuda::{Launch, Machine};

impl<M: Machine> CudaTape<M> {
    pub(super) fn layer_norm(
        &self,
        x: &CudaValue<M>,
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<CudaValue<M>> {
        let (bench, columns, count) = (self.bench(), x.columns(), x.count());
        let rows = count / columns;
        let (y, mean, scale) = (bench.values(count)?, bench.floats(rows)?, bench.floats(rows)?);
        let scales = self.store.master(weight)?;
        let launch = Launch::rows("layer_norm", rows).pointer(x.address()).pointer(scales);
        let launch = launch.pointer(self.store.master(bias)?).pointer(M::address(&y));
        let launch = launch.pointer(M::address(&mean)).pointer(M::address(&scale));
        bench.launch(launch.count(rows).count(columns))?;
        let (input, parameters) = (x.clone(), [weight.clone(), bias.clone()]);
        let trained = [weight, bias];
        Ok(self.output(y, x.dims.clone(), &[x], &trained, move |gradient, gradients| {
            let other = gradients.take(input.step);
            let (bench, dy) = (&gradients.bench, M::address(&gradient));
            let (mean, scale) = (M::address(&mean), M::address(&scale));
            let sums: Vec<_> =
                parameters.iter().map(|of| bench.store.gradient(of)).collect::<Result<_>>()?;
            if sums.iter().any(Option::is_some) {
                let inputs = [input.address(), mean, scale, dy];
                let parts = bench.sums("layer_norm_sums", [rows, columns], 2, &inputs, &[])?;
                for (at, sum) in sums.into_iter().enumerate() {
                    let Some(sum) = sum else { continue };
                    bench.fold(&parts, at * columns..(at + 1) * columns, 1.0, sum)?;
                }
            }
            let dx = bench.values(count)?;
            let other = other.as_deref().map_or(0, M::address);
            let launch = Launch::rows("layer_norm_back", rows).pointer(input.address());
            let launch = launch.pointer(scales).pointer(mean).pointer(scale).pointer(dy);
            let launch = launch.pointer(other).pointer(M::address(&dx));
            bench.launch(launch.count(rows).count(columns))?;
            gradients.give(input.step, count, dx)
        }))
    }

    /// The rows come out as floats, and so does their gradient go in.
    pub(super) fn normalize(&self, x: &CudaValue<M>) -> Result<CudaValue<M>> {
        let (bench, columns, count) = (self.bench(), x.columns(), x.count());
        let rows = count / columns;
        let (y, lengths) = (std::sync::Arc::new(bench.floats(count)?), bench.floats(rows)?);
        let launch = Launch::rows("normalize", rows).pointer(x.address()).pointer(M::address(&y));
        bench.launch(launch.pointer(M::address(&lengths)).count(rows).count(columns))?;
        let (output, step) = (y.clone(), x.step);
        Ok(self.output(y, x.dims.clone(), &[x], &[], move |gradient, gradients| {
            let dx = gradients.bench.values(count)?;
            let launch = Launch::rows("normalize_back", rows).pointer(M::address(&output));
            let launch = launch.pointer(M::address(&lengths)).pointer(M::address(&gradient));
            gradients.bench.launch(launch.pointer(M::address(&dx)).count(rows).count(columns))?;
            gradients.give(step, count, dx)
        }))
    }
}

//! The graph by hand on a machine: each operation asks for kernels and products, and leaves a
//! closure that goes its way back.

mod attention;
mod conv;
mod linear;
mod norm;
mod tokens;

use std::{cell::RefCell, fmt, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};

use super::{Launch, Machine, Precision, Store, machine::Chunks, store::zeros};
use crate::{
    config::Activation,
    ops::{
        Peers, borrow,
        graph::{Awaited, BatchStatistics, Columns, ConvNorm, Graph, Linear, Seen},
    },
};

/// What was computed, and how to go back. Gradients of parameters are summed in the [`Store`].
pub(crate) struct CudaTape<M: Machine> {
    store: Arc<Store<M>>,
    precision: Precision,
    peers: Option<Arc<dyn Peers>>,
    steps: RefCell<Vec<Back<M>>>,
    trains: bool,
}

/// The way back through one operation: takes the gradient of its output.
type Back<M> = Box<dyn FnOnce(Array<M>, &mut Gradients<M>) -> Result<()> + Send>;

/// Values on the machine.
type Array<M> = Arc<<M as Machine>::Memory>;

/// A row-major array on a tape.
#[derive(Debug)]
pub(crate) struct CudaValue<M: Machine> {
    data: Array<M>,
    dims: Arc<[usize]>,
    /// The step that made it; `None` for what needs no gradient.
    step: Option<usize>,
}

impl<M: Machine> Clone for CudaValue<M> {
    fn clone(&self) -> Self {
        Self { data: self.data.clone(), dims: self.dims.clone(), step: self.step }
    }
}

impl<M: Machine> CudaValue<M> {
    fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Size of the last axis.
    fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    fn address(&self) -> u64 {
        M::address(&self.data)
    }

    /// Where the values lie.
    pub(crate) fn data(&self) -> &M::Memory {
        &self.data
    }
}

/// What computes, and in which precision.
#[derive(Debug)]
struct Bench<M: Machine> {
    store: Arc<Store<M>>,
    precision: Precision,
    /// Who computes the other parts of a batch.
    peers: Option<Arc<dyn Peers>>,
}

impl<M: Machine> Bench<M> {
    fn machine(&self) -> &Arc<M> {
        self.store.machine()
    }

    fn launch(&self, launch: Launch) -> Result<()> {
        self.machine().launch(self.precision, &launch)
    }

    /// Room for `count` values.
    fn values(&self, count: usize) -> Result<M::Memory> {
        self.machine().take(count * self.precision.bytes())
    }

    /// Room for `count` floats.
    fn floats(&self, count: usize) -> Result<M::Memory> {
        self.machine().take(4 * count)
    }

    fn zeros(&self, count: usize) -> Result<M::Memory> {
        zeros(self.machine(), count)
    }

    /// A contiguous tensor of floats.
    fn tensor(&self, tensor: &Tensor) -> Result<M::Memory> {
        self.machine().upload(&borrow("upload", tensor)?)
    }

    /// A kernel whose threads go down the columns of `[rows, columns]` values.
    fn columns(
        &self,
        kernel: &'static str,
        [rows, columns]: [usize; 2],
        arrays: &[u64],
        flags: &[usize],
    ) -> Result<()> {
        let chunks = Chunks::new(rows, columns, self.precision);
        let launch = Launch::columns(kernel, chunks);
        let launch = arrays.iter().fold(launch, |launch, at| launch.pointer(*at));
        let launch = launch.count(rows).count(columns).count(chunks.rows_of_one());
        self.launch(flags.iter().fold(launch, |launch, flag| launch.count(*flag)))
    }

    /// Sums over the rows of `[rows, columns]` values, in parts: `each` of them for every column,
    /// as a kernel makes them of `inputs`.
    fn sums(
        &self,
        kernel: &'static str,
        shape: [usize; 2],
        each: usize,
        inputs: &[u64],
        flags: &[usize],
    ) -> Result<Parts<M>> {
        let chunks = Chunks::new(shape[0], shape[1], self.precision).count();
        let stride = each * shape[1];
        let memory = self.floats(chunks * stride)?;
        self.columns(kernel, shape, &[inputs, &[M::address(&memory)]].concat(), flags)?;
        Ok(Parts { memory, stride, chunks })
    }

    /// Sums of the columns of `[rows, columns]` values.
    fn column_sums(&self, x: u64, rows: usize, columns: usize) -> Result<Parts<M>> {
        self.sums("column_sums", [rows, columns], 1, &[x], &[])
    }

    /// Adds `factor` times some of the sums to floats at `sum`.
    fn fold(&self, parts: &Parts<M>, some: Range<usize>, factor: f64, sum: u64) -> Result<()> {
        let from = M::address(&parts.memory) + 4 * some.start as u64;
        let fold = Launch::fold(some.len()).pointer(from).pointer(sum).count(some.len());
        self.launch(fold.count(parts.stride).count(parts.chunks).float(factor))
    }

    /// Adds the sums of the columns of `[rows, columns]` values to a parameter's gradient, from its
    /// value number `start` on.
    fn add_columns(
        &self,
        tensor: &Tensor,
        start: usize,
        x: u64,
        rows: usize,
        columns: usize,
    ) -> Result<()> {
        let Some(gradient) = self.store.gradient(tensor)? else { return Ok(()) };
        let parts = self.column_sums(x, rows, columns)?;
        self.fold(&parts, 0..columns, 1.0, gradient + 4 * start as u64)
    }
}

/// Sums in parts, one row of `stride` floats for each of `chunks` chunks of what is summed.
struct Parts<M: Machine> {
    memory: M::Memory,
    stride: usize,
    chunks: usize,
}

/// Gradients on the way back.
struct Gradients<M: Machine> {
    bench: Bench<M>,
    /// Of the output of each step
    values: Vec<Option<Array<M>>>,
}

impl<M: Machine> Gradients<M> {
    /// What a value has been given so far, for whoever adds to it as it computes more.
    fn take(&mut self, of: Option<usize>) -> Option<Array<M>> {
        self.values[of?].take()
    }

    /// Adds to the gradient of a value, of `count` values.
    fn give(
        &mut self,
        to: Option<usize>,
        count: usize,
        gradient: impl Into<Array<M>>,
    ) -> Result<()> {
        let Some(step) = to else { return Ok(()) };
        let gradient = gradient.into();
        self.values[step] = Some(match self.values[step].take() {
            None => gradient,
            Some(other) => {
                let sum = self.bench.values(count)?; // either may belong to another value, too
                let precision = self.bench.precision;
                let add = Launch::packs("add", count, precision).pointer(M::address(&gradient));
                let add = add.pointer(M::address(&other)).pointer(M::address(&sum));
                self.bench.launch(add.count(count))?;
                sum.into()
            }
        });
        Ok(())
    }
}

impl<M: Machine> fmt::Debug for CudaTape<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CudaTape")
    }
}

impl<M: Machine> CudaTape<M> {
    /// For a step of training: the parameters that are variables get a gradient.
    pub(crate) fn new(store: Arc<Store<M>>, precision: Precision) -> Self {
        Self { store, precision, peers: None, steps: RefCell::default(), trains: true }
    }

    /// With statistics of the batches of all these.
    pub(crate) fn among(self, peers: Option<Arc<dyn Peers>>) -> Self {
        Self { peers, ..self }
    }

    /// Remembers nothing.
    pub(crate) fn forgetful(store: Arc<Store<M>>, precision: Precision) -> Self {
        Self { trains: false, ..Self::new(store, precision) }
    }

    /// Goes back from `gradient`, that of `output`.
    pub(crate) fn backward(self, output: &CudaValue<M>, gradient: M::Memory) -> Result<()> {
        let steps = self.steps.into_inner();
        let values = steps.iter().map(|_| None).collect();
        let bench = Bench { store: self.store, precision: self.precision, peers: self.peers };
        let mut gradients = Gradients { bench, values };
        gradients.give(output.step, output.count(), gradient)?;
        for (step, back) in steps.into_iter().enumerate().rev() {
            if let Some(gradient) = gradients.values[step].take() {
                back(gradient, &mut gradients)?;
            }
        }
        Ok(())
    }

    fn bench(&self) -> Bench<M> {
        let (store, peers) = (self.store.clone(), self.peers.clone());
        Bench { store, precision: self.precision, peers }
    }

    /// The output of an operation on `inputs` with `parameters`.
    fn output(
        &self,
        data: impl Into<Array<M>>,
        dims: impl Into<Arc<[usize]>>,
        inputs: &[&CudaValue<M>],
        parameters: &[&Tensor],
        back: impl FnOnce(Array<M>, &mut Gradients<M>) -> Result<()> + Send + 'static,
    ) -> CudaValue<M> {
        let asked = inputs.iter().any(|input| input.step.is_some())
            || self.trains && parameters.iter().any(|tensor| tensor.is_variable());
        let step = asked.then(|| {
            let mut steps = self.steps.borrow_mut();
            steps.push(Box::new(back));
            steps.len() - 1
        });
        CudaValue { data: data.into(), dims: dims.into(), step }
    }
}

/// The dimensions with another last one.
fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    *dims.last_mut().expect("channels come last") = last;
    dims
}

impl<M: Machine> Graph for CudaTape<M> {
    type Value = CudaValue<M>;

    #[cfg(test)]
    fn leaf(&self, x: &Tensor) -> Result<CudaValue<M>> {
        let (bench, count) = (self.bench(), x.elem_count());
        let y = bench.values(count)?;
        let master = self.store.master(x)?;
        let narrow = Launch::each("narrow", count).pointer(master).pointer(M::address(&y));
        bench.launch(narrow.count(count))?;
        let parameter = x.clone();
        Ok(self.output(y, x.dims(), &[], &[x], move |gradient, gradients| {
            gradients.bench.add_columns(&parameter, 0, M::address(&gradient), 1, count)
        }))
    }

    fn ranks(&self) -> usize {
        self.peers.as_ref().map_or(1, |peers| peers.ranks())
    }

    fn dims<'a>(&self, x: &'a CudaValue<M>) -> &'a [usize] {
        &x.dims
    }

    fn reshape(&self, x: &CudaValue<M>, dims: &[usize]) -> Result<CudaValue<M>> {
        assert_eq!(x.count(), dims.iter().product::<usize>(), "the same values");
        Ok(CudaValue { dims: dims.into(), ..x.clone() })
    }

    fn image(&self, pixels: &Tensor) -> Result<CudaValue<M>> {
        self.image(pixels)
    }

    fn patches(&self, pixels: &Tensor, side: usize) -> Result<CudaValue<M>> {
        self.patches(pixels, side)
    }

    fn conv_norm(
        &self,
        x: &CudaValue<M>,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(CudaValue<M>, Awaited)> {
        self.conv_norm(x, layer, fixed)
    }

    fn avg_pool(&self, x: &CudaValue<M>, side: usize) -> Result<CudaValue<M>> {
        self.avg_pool(x, side)
    }

    fn add_relu(&self, a: &CudaValue<M>, b: &CudaValue<M>) -> Result<CudaValue<M>> {
        self.add_relu(a, b)
    }

    fn linear(
        &self,
        x: &CudaValue<M>,
        layer: Linear<'_>,
        residual: Option<&CudaValue<M>>,
    ) -> Result<CudaValue<M>> {
        self.linear(x, layer, residual)
    }

    fn project(&self, x: &CudaValue<M>, weight: &Tensor) -> Result<CudaValue<M>> {
        self.project(x, weight)
    }

    fn attention(
        &self,
        qkv: [Columns<'_, CudaValue<M>>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<CudaValue<M>> {
        self.attention(qkv, width, heads, seen)
    }

    fn layer_norm(&self, x: &CudaValue<M>, weight: &Tensor, bias: &Tensor) -> Result<CudaValue<M>> {
        self.layer_norm(x, weight, bias)
    }

    fn activate(&self, x: &CudaValue<M>, activation: Activation) -> Result<CudaValue<M>> {
        self.activate(x, activation)
    }

    fn with_mean(&self, x: &CudaValue<M>, positions: &Tensor) -> Result<CudaValue<M>> {
        self.with_first(x, None, positions)
    }

    fn with_class(
        &self,
        x: &CudaValue<M>,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<CudaValue<M>> {
        self.with_first(x, Some(class), positions)
    }

    fn embed(&self, ids: &Tensor, table: &Tensor, positions: &Tensor) -> Result<CudaValue<M>> {
        self.embed(ids, table, positions)
    }

    fn pick(&self, x: &CudaValue<M>, tokens: &[u32]) -> Result<CudaValue<M>> {
        self.pick(x, tokens)
    }

    fn normalize(&self, x: &CudaValue<M>) -> Result<CudaValue<M>> {
        self.normalize(x)
    }
}

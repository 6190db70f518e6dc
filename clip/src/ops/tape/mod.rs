//! The graph by hand, for f32 on the CPU: each operation leaves a closure that goes its way back.

mod activation;
mod arena;
mod attention;
mod batch_norm;
mod conv;
mod layer_norm;
mod linear;
pub mod pieces;
mod pool;
mod tokens;

use std::{cell::RefCell, fmt, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};

use super::{
    Gradients, cpu,
    graph::{Awaited, BatchStatistics, Columns, ConvNorm, Graph, Linear, Seen},
    peers::Peers,
};
use crate::config::Activation;

pub(crate) use arena::Arena;
use arena::Buffer;

/// What was computed, and how to go back.
///
/// Nothing is remembered where no gradient is asked for: of constants, and of operations on them.
pub(crate) struct Tape {
    arena: Arc<Arena>,
    steps: RefCell<Vec<Back>>,
    peers: Option<Arc<dyn Peers>>,
    pixels: bool,
    parameters: bool,
}

/// The way back through one operation: takes the gradient of its output.
type Back = Box<dyn FnOnce(Buffer, &mut Flow<'_>) -> Result<()> + Send>;

/// A row-major array on a tape.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    data: Arc<Buffer>,
    dims: Arc<[usize]>,
    /// The step that made it; `None` for what needs no gradient.
    step: Option<usize>,
}

impl Value {
    /// Size of the last axis.
    fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// The values, row-major.
    pub(crate) fn values(&self) -> &[f32] {
        &self.data
    }
}

/// What flows back.
pub(super) struct Flow<'a> {
    arena: Arc<Arena>,
    peers: Option<Arc<dyn Peers>>,
    /// Gradient of the output of each step.
    values: Vec<Option<Buffer>>,
    /// `None` where parameters are constants.
    parameters: Option<&'a mut Gradients>,
    pixels: Option<Vec<f32>>,
}

impl Flow<'_> {
    /// Adds to the gradient of a value.
    fn give(&mut self, to: Option<usize>, gradient: Buffer) {
        let Some(step) = to else { return };
        match &mut self.values[step] {
            Some(sum) => cpu::add(&gradient, sum),
            none => *none = Some(gradient),
        }
    }

    /// Whether a parameter gets a gradient.
    fn wants(&self, parameter: &Tensor) -> bool {
        self.parameters.as_ref().is_some_and(|gradients| gradients.has(parameter.id()))
    }

    /// Adds to the gradient of a parameter, from its value number `start` on.
    fn add(&mut self, parameter: &Tensor, start: usize, gradient: &[f32]) {
        if let Some(gradients) = &mut self.parameters {
            gradients.add(parameter.id(), start, gradient);
        }
    }

    /// The gradient of a parameter, and whether it is added to: if not, all of it must be written.
    fn target(&mut self, parameter: &Tensor) -> Option<(&mut [f32], bool)> {
        self.parameters.as_mut()?.target(parameter.id())
    }

    /// As [`Flow::target`], of some of its values.
    fn part(&mut self, parameter: &Tensor, range: Range<usize>) -> Option<(&mut [f32], bool)> {
        if range.len() == parameter.elem_count() {
            return self.target(parameter);
        }
        Some((&mut self.parameters.as_mut()?.sum(parameter.id())?[range], true))
    }

    /// The gradient of a table, to whose rows `ids` is added.
    fn rows(&mut self, table: &Tensor, ids: &[u32]) -> Option<&mut [f32]> {
        self.parameters.as_mut()?.rows(table.id(), ids)
    }
}

impl fmt::Debug for Tape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tape")
    }
}

impl Tape {
    /// For a step of training: the parameters that are variables get a gradient.
    pub(crate) fn new(arena: Arc<Arena>) -> Self {
        let steps = RefCell::default();
        Self { arena, steps, peers: None, pixels: false, parameters: true }
    }

    /// With statistics of the batches of all these.
    pub(crate) fn among(self, peers: Option<Arc<dyn Peers>>) -> Self {
        Self { peers, ..self }
    }

    /// Remembers nothing.
    pub(crate) fn forgetful(arena: Arc<Arena>) -> Self {
        Self { parameters: false, ..Self::new(arena) }
    }

    /// The pixels alone get a gradient.
    pub(crate) fn to_pixels(arena: Arc<Arena>) -> Self {
        Self { pixels: true, parameters: false, ..Self::new(arena) }
    }

    /// Goes back from `gradient`, that of `output`, and adds what parameters get to `gradients`.
    pub(crate) fn backward(
        self,
        output: &Value,
        gradient: &[f32],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let gradient = self.arena.copy(gradient);
        self.go_back(output, gradient, Some(gradients)).map(drop)
    }

    /// The gradient of the pixels, `[B, 3, H, W]`.
    pub(crate) fn backward_to_pixels(self, output: &Value, gradient: &[f32]) -> Result<Vec<f32>> {
        let gradient = self.arena.copy(gradient);
        Ok(self.go_back(output, gradient, None)?.expect("a tape that remembers the pixels"))
    }

    fn go_back(
        self,
        output: &Value,
        gradient: Buffer,
        parameters: Option<&mut Gradients>,
    ) -> Result<Option<Vec<f32>>> {
        let steps = self.steps.into_inner();
        let values = steps.iter().map(|_| None).collect();
        let (arena, peers) = (self.arena, self.peers);
        let mut flow = Flow { arena, peers, values, parameters, pixels: None };
        flow.give(output.step, gradient);
        for (step, back) in steps.into_iter().enumerate().rev() {
            if let Some(gradient) = flow.values[step].take() {
                back(gradient, &mut flow)?;
            }
        }
        Ok(flow.pixels)
    }

    /// The output of an operation on `inputs` with `parameters`.
    fn output(
        &self,
        data: impl Into<Arc<Buffer>>,
        dims: impl Into<Arc<[usize]>>,
        inputs: &[&Value],
        parameters: &[&Tensor],
        back: impl FnOnce(Buffer, &mut Flow<'_>) -> Result<()> + Send + 'static,
    ) -> Value {
        let asked = inputs.iter().any(|input| input.step.is_some())
            || self.parameters && parameters.iter().any(|tensor| tensor.is_variable());
        let step = asked.then(|| self.remember(Box::new(back)));
        Value { data: data.into(), dims: dims.into(), step }
    }

    fn remember(&self, back: Back) -> usize {
        let mut steps = self.steps.borrow_mut();
        steps.push(back);
        steps.len() - 1
    }
}

/// The dimensions with another last one.
fn with_last(dims: &[usize], last: usize) -> Vec<usize> {
    let mut dims = dims.to_vec();
    *dims.last_mut().expect("channels come last") = last;
    dims
}

impl Graph for Tape {
    type Value = Value;

    #[cfg(test)]
    fn leaf(&self, x: &Tensor) -> Result<Value> {
        let data = self.arena.copy(&super::borrow("leaf", x)?);
        let parameter = x.clone();
        Ok(self.output(data, x.dims(), &[], &[x], move |gradient, flow| {
            flow.add(&parameter, 0, &gradient);
            Ok(())
        }))
    }

    fn ranks(&self) -> usize {
        self.peers.as_ref().map_or(1, |peers| peers.ranks())
    }

    fn dims<'a>(&self, x: &'a Value) -> &'a [usize] {
        &x.dims
    }

    fn reshape(&self, x: &Value, dims: &[usize]) -> Result<Value> {
        assert_eq!(x.data.len(), dims.iter().product::<usize>(), "the same values");
        Ok(Value { dims: dims.into(), ..x.clone() })
    }

    fn image(&self, pixels: &Tensor) -> Result<Value> {
        self.image(pixels)
    }

    fn patches(&self, pixels: &Tensor, side: usize) -> Result<Value> {
        self.patches(pixels, side)
    }

    fn conv_norm(
        &self,
        x: &Value,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(Value, Awaited)> {
        self.conv_norm(x, layer, fixed)
    }

    fn avg_pool(&self, x: &Value, side: usize) -> Result<Value> {
        self.avg_pool(x, side)
    }

    fn add_relu(&self, a: &Value, b: &Value) -> Result<Value> {
        self.add_relu(a, b)
    }

    fn linear(&self, x: &Value, layer: Linear<'_>, residual: Option<&Value>) -> Result<Value> {
        self.linear(x, layer, residual)
    }

    fn project(&self, x: &Value, weight: &Tensor) -> Result<Value> {
        self.project(x, weight)
    }

    fn attention(
        &self,
        qkv: [Columns<'_, Value>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<Value> {
        self.attention(qkv, width, heads, seen)
    }

    fn layer_norm(&self, x: &Value, weight: &Tensor, bias: &Tensor) -> Result<Value> {
        self.layer_norm(x, weight, bias)
    }

    fn activate(&self, x: &Value, activation: Activation) -> Result<Value> {
        self.activate(x, activation)
    }

    fn with_mean(&self, x: &Value, positions: &Tensor) -> Result<Value> {
        self.with_mean(x, positions)
    }

    fn with_class(&self, x: &Value, class: &Tensor, positions: &Tensor) -> Result<Value> {
        self.with_class(x, class, positions)
    }

    fn embed(&self, ids: &Tensor, table: &Tensor, positions: &Tensor) -> Result<Value> {
        self.embed(ids, table, positions)
    }

    fn pick(&self, x: &Value, tokens: &[u32]) -> Result<Value> {
        self.pick(x, tokens)
    }

    fn normalize(&self, x: &Value) -> Result<Value> {
        self.normalize(x)
    }
}

#[cfg(test)]
mod tests;

//! Every operation that a tower may use.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::config::Activation;

/// A forward pass that can be gone back. Shapes that do not fit are errors of the caller.
///
/// Values are row-major, their last axis is the one of channels. Parameters are candle's tensors,
/// whoever computes with them; those that are variables get a gradient.
pub(crate) trait Graph {
    /// What an operation takes and gives.
    type Value: Clone;

    /// A tensor as a value; a variable gets a gradient.
    #[cfg(test)]
    fn leaf(&self, x: &Tensor) -> Result<Self::Value>;

    /// Processes over whose batches statistics are taken.
    fn ranks(&self) -> usize {
        1
    }

    /// Sizes of the axes.
    fn dims<'a>(&self, x: &'a Self::Value) -> &'a [usize];

    /// The same values in other axes.
    fn reshape(&self, x: &Self::Value, dims: &[usize]) -> Result<Self::Value>;

    /// Pixels channel by channel to channels pixel by pixel: `[B, 3, H, W]` -> `[B, H, W, 3]`.
    fn image(&self, pixels: &Tensor) -> Result<Self::Value>;

    /// Square tiles in reading order, each channel by channel:
    /// `[B, 3, H, W]` -> `[B, N, 3 side side]`.
    fn patches(&self, pixels: &Tensor, side: usize) -> Result<Self::Value>;

    /// A convolution, a batch normalisation (Ioffe & Szegedy 2015) and perhaps a ReLU:
    /// `[B, H, W, I]` -> `[B, H', W', O]`.
    ///
    /// With `fixed` statistics they are constants (evaluation). Without, they are those of this
    /// batch, take part in the gradient, and are returned for the running average.
    fn conv_norm(
        &self,
        x: &Self::Value,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(Self::Value, Awaited)>;

    /// Mean of each `side` x `side` tile: `[B, H, W, C]` -> `[B, H / side, W / side, C]`; `side`
    /// divides H and W.
    fn avg_pool(&self, x: &Self::Value, side: usize) -> Result<Self::Value>;

    /// `relu(a + b)`, the end of a residual block; equal shapes.
    fn add_relu(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;

    /// `x W^T + b (+ residual)`: `[.., I]` -> `[.., O]`.
    fn linear(
        &self,
        x: &Self::Value,
        layer: Linear<'_>,
        residual: Option<&Self::Value>,
    ) -> Result<Self::Value>;

    /// `x W`: `[B, I]`, `[I, O]` -> `[B, O]`.
    fn project(&self, x: &Self::Value, weight: &Tensor) -> Result<Self::Value>;

    /// `softmax(q k^T / sqrt(d)) v` per head: `[B, Q, W]`, `[B, K, W]`, `[B, K, W]` ->
    /// `[B, Q, W]`, where `width` is W and d = W / heads. The columns that are named of an array are
    /// all of its columns, each once.
    fn attention(
        &self,
        qkv: [Columns<'_, Self::Value>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<Self::Value>;

    /// `(x - mean) / sqrt(var + 1e-5) * weight + bias` over the last axis (Ba et al. 2016).
    fn layer_norm(&self, x: &Self::Value, weight: &Tensor, bias: &Tensor) -> Result<Self::Value>;

    /// The activation of an MLP; same shape out.
    fn activate(&self, x: &Self::Value, activation: Activation) -> Result<Self::Value>;

    /// The mean before all tokens, and positions on top: `[B, N, C]`, `[1 + N, C]` ->
    /// `[B, 1 + N, C]`.
    fn with_mean(&self, x: &Self::Value, positions: &Tensor) -> Result<Self::Value>;

    /// A learned token before all others, and positions on top: `[B, N, C]`, `[C]`, `[1 + N, C]` ->
    /// `[B, 1 + N, C]`.
    fn with_class(
        &self,
        x: &Self::Value,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Self::Value>;

    /// Rows of a table, and positions on top: ids `[B, T]`, `[V, C]`, `[T or more, C]` ->
    /// `[B, T, C]`.
    fn embed(&self, ids: &Tensor, table: &Tensor, positions: &Tensor) -> Result<Self::Value>;

    /// One token of each sequence: `[B, T, C]`, B numbers below T -> `[B, C]`.
    fn pick(&self, x: &Self::Value, tokens: &[u32]) -> Result<Self::Value>;

    /// Divides each row of `[B, D]` by its Euclidean length.
    fn normalize(&self, x: &Self::Value) -> Result<Self::Value>;
}

/// Added to variances, as in every CLIP.
pub(super) const EPSILON: f64 = 1e-5;
/// Keeps a zero row finite in [`Graph::normalize`].
pub(super) const SQUARE_MIN: f64 = 1e-24;
/// Slope of OpenAI's activation, `x * sigmoid(1.702 x)`.
pub(super) const SLOPE: f64 = 1.702;

/// Mean and (biased) variance of each channel, both `[C]`.
#[derive(Debug, Clone)]
pub(crate) struct BatchStatistics {
    /// `[C]`
    pub(crate) mean: Tensor,
    /// `[C]`, divided by the number of rows.
    pub(crate) variance: Tensor,
}

/// Statistics for whoever waits until they are there, which takes a GPU some time.
pub(crate) type Awaited = Box<dyn Fn() -> Result<BatchStatistics> + Send>;

/// A square window that slides over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    /// Side, in pixels.
    pub(crate) side: usize,
    /// Pixels from one place to the next.
    pub(crate) stride: usize,
    /// Zeros added on each edge.
    pub(crate) padding: usize,
}

impl Window {
    /// Places along an axis of `size` pixels.
    pub(crate) fn places(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.side) / self.stride + 1
    }

    /// The pixel under row (or column) `offset` of the window at `place`, if it is inside.
    pub(super) fn pixel(&self, place: usize, offset: usize, size: usize) -> Option<usize> {
        (place * self.stride + offset).checked_sub(self.padding).filter(|&pixel| pixel < size)
    }
}

/// The window that sees one pixel: a convolution with it is a product with each row.
pub(crate) const ONE: Window = Window { side: 1, stride: 1, padding: 0 };

/// A convolution without a bias and the normalisation after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvNorm<'a> {
    /// `[O, I, side, side]`
    pub(crate) kernel: &'a Tensor,
    /// How the kernel slides.
    pub(crate) window: Window,
    /// `[O]`
    pub(crate) weight: &'a Tensor,
    /// `[O]`
    pub(crate) bias: &'a Tensor,
    /// Whether a ReLU follows.
    pub(crate) relu: bool,
}

/// A product with a matrix as checkpoints store it.
#[derive(Debug, Clone)]
pub(crate) struct Linear<'a> {
    /// `[O, I]`, or more axes that make up I
    pub(crate) weight: &'a Tensor,
    /// `[O]`
    pub(crate) bias: Option<&'a Tensor>,
    /// Outputs that are asked for.
    pub(crate) outputs: Range<usize>,
}

impl<'a> Linear<'a> {
    /// All outputs.
    pub(crate) fn new(weight: &'a Tensor, bias: Option<&'a Tensor>) -> Self {
        Self { weight, bias, outputs: 0..weight.dims()[0] }
    }
}

/// Some neighboring channels of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns<'a, V> {
    /// `[B, T, C]`
    pub(crate) of: &'a V,
    /// The first channel.
    pub(crate) start: usize,
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen<'a> {
    /// All.
    All,
    /// Query q sees keys 0..=q; as many queries as keys.
    Causal,
    /// The only query of sequence b sees keys 0..=last[b].
    UpTo(&'a [u32]),
}

impl Seen<'_> {
    /// Keys that `query` of sequence `batch` sees.
    pub(super) fn keys(&self, batch: usize, query: usize, keys: usize) -> usize {
        match self {
            Self::All => keys,
            Self::Causal => query + 1,
            Self::UpTo(last) => last[batch] as usize + 1,
        }
    }
}

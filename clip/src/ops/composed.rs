//! The graph out of candle's own differentiable primitives.

use candle_core::{D, Result, Tensor};

use super::graph::{
    Awaited, BatchStatistics, Columns, ConvNorm, EPSILON, Graph, Linear, ONE, SLOPE, SQUARE_MIN,
    Seen, Window,
};
use crate::config::Activation;

/// Any device, any precision; candle remembers the way back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Composed;

impl Graph for Composed {
    type Value = Tensor;

    #[cfg(test)]
    fn leaf(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn dims<'a>(&self, x: &'a Tensor) -> &'a [usize] {
        x.dims()
    }

    fn reshape(&self, x: &Tensor, dims: &[usize]) -> Result<Tensor> {
        x.reshape(dims)
    }

    fn image(&self, pixels: &Tensor) -> Result<Tensor> {
        pixels.permute((0, 2, 3, 1))?.contiguous()
    }

    fn patches(&self, pixels: &Tensor, side: usize) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let (rows, columns) = (height / side, width / side);
        pixels
            .reshape(&[batch, channels, rows, side, columns, side][..])?
            .permute(&[0, 2, 4, 1, 3, 5][..])?
            .reshape((batch, rows * columns, channels * side * side))
    }

    fn conv_norm(
        &self,
        x: &Tensor,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(Tensor, Awaited)> {
        let x = conv(x, layer.kernel, layer.window)?;
        let rows = x.reshape(((), x.dim(D::Minus1)?))?;
        let statistics = match fixed {
            Some(statistics) => statistics.clone(),
            None => {
                let mean = rows.mean(0)?;
                let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
                BatchStatistics { mean, variance }
            }
        };
        let scale = (&statistics.variance + EPSILON)?.sqrt()?.recip()?;
        let n = rows.broadcast_sub(&statistics.mean)?.broadcast_mul(&scale)?;
        let y = n.broadcast_mul(layer.weight)?.broadcast_add(layer.bias)?.reshape(x.shape())?;
        let y = if layer.relu { y.relu()? } else { y };
        let BatchStatistics { mean, variance } = statistics;
        let statistics = BatchStatistics { mean: mean.detach(), variance: variance.detach() };
        Ok((y, Box::new(move || Ok(statistics.clone()))))
    }

    fn avg_pool(&self, x: &Tensor, side: usize) -> Result<Tensor> {
        if side == 1 {
            return Ok(x.clone());
        }
        let (batch, height, width, channels) = x.dims4()?;
        let x = x.reshape(&[batch, height / side, side, width / side, side, channels][..])?;
        x.mean(4)?.mean(2)
    }

    fn add_relu(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        (a + b)?.relu()
    }

    fn linear(&self, x: &Tensor, layer: Linear<'_>, residual: Option<&Tensor>) -> Result<Tensor> {
        let Linear { weight, bias, outputs } = layer;
        let (start, count) = (outputs.start, outputs.len());
        let weight = weight.reshape((weight.dim(0)?, ()))?.narrow(0, start, count)?;
        let mut shape = x.dims().to_vec();
        *shape.last_mut().expect("channels come last") = count;
        let x = x.reshape(((), weight.dim(1)?))?;
        let mut y = x.matmul(&weight.t()?)?.reshape(shape)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(&bias.narrow(0, start, count)?)?;
        }
        residual.map_or(Ok(y.clone()), |residual| y + residual)
    }

    fn project(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        x.matmul(weight)
    }

    fn attention(
        &self,
        qkv: [Columns<'_, Tensor>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<Tensor> {
        let head = width / heads;
        let split = |x: Columns<'_, Tensor>| {
            let (batch, tokens, _) = x.of.dims3()?;
            let x = x.of.narrow(D::Minus1, x.start, width)?.contiguous()?;
            x.reshape((batch, tokens, heads, head))?.transpose(1, 2)?.contiguous()
        };
        let [q, k, v] = qkv;
        let (q, k, v) = (split(q)?, split(k)?, split(v)?); // [B, heads, T, d]
        let (batch, _, queries, _) = q.dims4()?;
        let mut scores = (q.matmul(&k.t()?)? * (1.0 / (head as f64).sqrt()))?;
        let keys = scores.dim(D::Minus1)?;
        if !matches!(seen, Seen::All) {
            let alike = matches!(seen, Seen::Causal); // one mask for all sequences
            let masks = if alike { 1 } else { batch };
            let cells = (0..masks * queries * keys).map(|cell| {
                let (row, key) = (cell / keys, cell % keys);
                u8::from(key < seen.keys(row / queries, row % queries, keys))
            });
            let mask = Tensor::from_iter(cells, scores.device())?;
            let mask = mask.reshape((masks, 1, queries, keys))?.broadcast_as(scores.shape())?;
            let hidden = scores.ones_like()?.affine(0.0, f64::from(f32::MIN))?;
            scores = mask.where_cond(&scores, &hidden)?;
        }
        let shares = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
        shares.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width))
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
        x.broadcast_mul(weight)?.broadcast_add(bias)
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            // sigmoid(a) = (1 + tanh(a / 2)) / 2; with exp(-a) the gradient would be NaN far below 0.
            Activation::QuickGelu => (x * ((x * (SLOPE / 2.0))?.tanh()? + 1.0)?)? * 0.5,
            Activation::Gelu => x.gelu_erf(),
        }
    }

    fn with_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[&x.mean_keepdim(1)?, x], 1)?.broadcast_add(positions)
    }

    fn with_class(&self, x: &Tensor, class: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (batch, _, width) = x.dims3()?;
        let class = class.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?.contiguous()?;
        Tensor::cat(&[&class, x], 1)?.broadcast_add(positions)
    }

    fn embed(&self, ids: &Tensor, table: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let tokens = table.index_select(&ids.flatten_all()?, 0)?;
        let tokens = tokens.reshape((batch, length, table.dim(1)?))?;
        tokens.broadcast_add(&positions.narrow(0, 0, length)?)
    }

    fn pick(&self, x: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let (batch, length, width) = x.dims3()?;
        let rows = tokens.iter().enumerate().map(|(b, token)| b as u32 * length as u32 + token);
        let rows = Tensor::from_iter(rows, x.device())?;
        x.reshape((batch * length, width))?.index_select(&rows, 0)
    }

    fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + SQUARE_MIN)?.sqrt()?)
    }
}

/// A convolution: `[B, H, W, I]`, `[O, I, side, side]` -> `[B, H', W', O]`.
fn conv(x: &Tensor, kernel: &Tensor, window: Window) -> Result<Tensor> {
    let outputs = kernel.dim(0)?;
    let weight = kernel.permute((0, 2, 3, 1))?.reshape((outputs, ()))?;
    let cells = if window == ONE { x.clone() } else { unfold(x, window)? };
    let mut shape = cells.dims().to_vec();
    *shape.last_mut().expect("channels come last") = outputs;
    cells.reshape(((), weight.dim(1)?))?.matmul(&weight.t()?)?.reshape(shape)
}

/// The pixels under each place of the window: `[B, H, W, C]` -> `[B, H', W', side * side * C]`.
fn unfold(x: &Tensor, window: Window) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let p = window.padding;
    let x = x.pad_with_zeros(1, p, p)?.pad_with_zeros(2, p, p)?;
    let strided = |x: &Tensor, axis: usize, offset: usize, places: usize| {
        let index = (0..places).map(|place| (place * window.stride + offset) as u32);
        x.index_select(&Tensor::new(index.collect::<Vec<_>>(), x.device())?, axis)
    };
    let mut parts = Vec::with_capacity(window.side * window.side);
    for row in 0..window.side {
        let rows = strided(&x, 1, row, window.places(height))?;
        for column in 0..window.side {
            parts.push(strided(&rows, 2, column, window.places(width))?);
        }
    }
    Tensor::cat(&parts, 3)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::proof::numbers;

    #[test]
    fn a_convolution_is_candles() -> Result<()> {
        let tensor = |shape: &[usize], seed| {
            Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu)?
                .to_dtype(DType::F32)
        };
        let (x, kernel) = (tensor(&[2, 3, 8, 8], 0)?, tensor(&[5, 3, 3, 3], 1)?);
        let theirs = x.conv2d(&kernel, 1, 2, 1, 1)?;
        let window = Window { side: 3, stride: 2, padding: 1 };
        let ours = conv(&x.permute((0, 2, 3, 1))?.contiguous()?, &kernel, window)?;
        let difference = (ours.permute((0, 3, 1, 2))? - theirs)?.abs()?.max_all()?;
        assert!(difference.to_scalar::<f32>()? < 1e-5);
        Ok(())
    }
}

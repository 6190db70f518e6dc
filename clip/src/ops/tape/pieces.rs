//! Each operation at the size that it has in a step, forward and backward, for `benches/pieces.rs`.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Device, Result, Tensor, Var};

use super::{Arena, Buffer, Tape, Value};
use crate::{
    config::Activation,
    ops::{Columns, ConvNorm, Equals, Gradients, Linear, ONE, Seen, Window, cpu, info_nce},
};

/// Pairs of the batch: so many that no cache holds their values.
const BATCH: usize = if cfg!(test) { 2 } else { 256 };
/// Of a ViT on 64 pixels with patches of 8: a token per patch and one for the class.
const TOKENS: usize = 65;
/// Channels of that ViT.
const WIDTH: usize = 192;
/// Tokens of the longest caption, and the text tower's channels.
const CAPTION: (usize, usize) = (28, 512);
/// Rows of a vocabulary.
const VOCABULARY: usize = if cfg!(test) { 100 } else { 49_408 };
/// Pairs of the loss, and the width of its rows.
const LOSS: (usize, usize) = if cfg!(test) { (3, 4) } else { (1024, 512) };
/// Sides of a large product.
const PRODUCT: [usize; 3] = if cfg!(test) { [4, 3, 2] } else { [4096, 768, 768] };
/// Values of a long sum.
const STREAM: usize = if cfg!(test) { 10 } else { 1 << 25 };

/// An operation with inputs and parameters that it keeps.
pub struct Piece {
    /// What it is, and on what.
    pub name: String,
    /// What it must do at least.
    pub work: Work,
    run: Box<dyn FnMut() -> Result<Duration>>,
}

/// What bounds the time of an operation from below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// Operations in matrix products
    Flop(u64),
    /// Bytes to and from memory, if each value passes once each way
    Bytes(u64),
}

impl fmt::Debug for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Piece {}: {:?}", self.name, self.work)
    }
}

impl Piece {
    /// Goes forward and back once; how long that took.
    ///
    /// # Errors
    /// Of candle.
    pub fn run(&mut self) -> Result<Duration> {
        (self.run)()
    }

    fn new(name: &str, work: Work, mut run: impl FnMut() -> Result<()> + 'static) -> Self {
        let timed = move || {
            let began = Instant::now();
            run()?;
            Ok(began.elapsed())
        };
        Self { name: name.into(), work, run: Box::new(timed) }
    }
}

/// What the machine can do: the rate of one large product and of one long sum. Then the operations.
///
/// # Errors
/// Of candle.
pub fn pieces() -> Result<Vec<Piece>> {
    let mut pieces = vec![product(), stream()];
    let rows = (BATCH * TOKENS) as u64;
    let [width, wide] = [WIDTH as u64, 4 * WIDTH as u64];
    let tokens: &[usize] = &[BATCH, TOKENS, WIDTH];
    let hidden: &[usize] = &[BATCH, TOKENS, 4 * WIDTH];
    // Forward once, backward twice: for the input and for the weight.
    let products = |flop: u64| Work::Flop(3 * flop);
    // Forward reads and writes, backward reads the input and a gradient and writes a gradient.
    let passes = |values: u64| Work::Bytes(5 * 4 * values);
    let expand: &[&[usize]] = &[&[4 * WIDTH, WIDTH], &[4 * WIDTH]];
    let shrink: &[&[usize]] = &[&[WIDTH, 4 * WIDTH], &[WIDTH]];
    let work = products(2 * rows * width * wide);
    pieces.push(taped("linear/fc1", work, &[tokens], expand, |t, x, w| {
        t.linear(&x[0], Linear::new(&w[0], Some(&w[1])), None)
    })?);
    pieces.push(taped("linear/fc2 and residual", work, &[hidden, tokens], shrink, |t, x, w| {
        t.linear(&x[0], Linear::new(&w[0], Some(&w[1])), Some(&x[1]))
    })?);
    let packed: &[usize] = &[BATCH, TOKENS, 3 * WIDTH];
    let work = products(4 * rows * TOKENS as u64 * width);
    pieces.push(taped("attention/packed", work, &[packed], &[], |t, x, _| {
        let qkv = [0, WIDTH, 2 * WIDTH].map(|start| Columns { of: &x[0], start });
        t.attention(qkv, WIDTH, 3, Seen::All)
    })?);
    let scale: &[&[usize]] = &[&[WIDTH], &[WIDTH]];
    pieces.push(taped("layer norm", passes(rows * width), &[tokens], scale, |t, x, w| {
        t.layer_norm(&x[0], &w[0], &w[1])
    })?);
    for (name, activation) in [("gelu", Activation::Gelu), ("quick gelu", Activation::QuickGelu)] {
        let work = passes(rows * wide);
        pieces
            .push(taped(name, work, &[hidden], &[], move |t, x, _| t.activate(&x[0], activation))?);
    }
    pieces.extend(convolutions()?);
    let (length, channels) = CAPTION;
    let table: &[&[usize]] = &[&[VOCABULARY, channels], &[77, channels]];
    let ids: Vec<u32> = (0..BATCH * length).map(|at| (at * 7919 % VOCABULARY) as u32).collect();
    let ids = Tensor::from_vec(ids, (BATCH, length), &Device::Cpu)?;
    let values = (BATCH * length * channels) as u64;
    // Forward reads rows and writes, backward reads a gradient and adds to rows.
    let work = Work::Bytes(5 * 4 * values);
    pieces.push(taped("token embedding", work, &[], table, move |t, _, w| {
        t.embed(&ids, &w[0], &w[1])
    })?);
    pieces.push(contrast()?);
    Ok(pieces)
}

/// The layers of a ResNet's first stage on 64 pixels.
fn convolutions() -> Result<Vec<Piece>> {
    let (side, channels) = (16, 64);
    let pixels = (BATCH * side * side) as u64;
    let image: &[usize] = &[BATCH, side, side, channels];
    let values = pixels * channels as u64;
    let three = Window { side: 3, stride: 1, padding: 1 };
    let mut found = Vec::new();
    for (name, window) in
        [("convolution/1x1, norm, ReLU", ONE), ("convolution/3x3, norm, ReLU", three)]
    {
        let kernel = [channels, channels, window.side, window.side];
        let parameters: &[&[usize]] = &[&kernel, &[channels], &[channels]];
        // What the kernel sees beyond the edges is no work.
        let seen: usize = (0..side)
            .map(|at| (0..window.side).filter(|&row| window.pixel(at, row, side).is_some()).count())
            .sum();
        let flop = 2 * (BATCH * seen * seen * channels * channels) as u64;
        found.push(taped(name, Work::Flop(3 * flop), &[image], parameters, move |t, x, w| {
            let (kernel, weight, bias) = (&w[0], &w[1], &w[2]);
            let layer = ConvNorm { kernel, window, weight, bias, relu: true };
            Ok(t.conv_norm(&x[0], layer, None)?.0)
        })?);
    }
    // A quarter of the values leaves, and comes back.
    let work = Work::Bytes(2 * 5 * values);
    found.push(taped("average pooling", work, &[image], &[], |t, x, _| t.avg_pool(&x[0], 2))?);
    // Forward reads two and writes one, backward reads two and writes two.
    let work = Work::Bytes(7 * 4 * values);
    found.push(taped("residual and ReLU", work, &[image, image], &[], |t, x, _| {
        t.add_relu(&x[0], &x[1])
    })?);
    Ok(found)
}

/// The loss over the similarity matrix of a large batch, and its gradient at the rows.
fn contrast() -> Result<Piece> {
    let (rows, dim) = LOSS;
    let variable = |seed| {
        let values = Tensor::from_vec(numbers(rows * dim, seed), (rows, dim), &Device::Cpu)?;
        Var::from_tensor(&values.broadcast_div(&values.sqr()?.sum_keepdim(1)?.sqrt()?)?)
    };
    let (images, texts) = (variable(1)?, variable(2)?);
    let scale = Var::new(2.6f32, &Device::Cpu)?;
    let work = Work::Flop(3 * 2 * (rows * rows * dim) as u64);
    Ok(Piece::new("InfoNCE of 1024 pairs", work, move || {
        let (images, texts) = (images.as_tensor(), texts.as_tensor());
        info_nce(images, texts, scale.as_tensor(), Equals::Negatives)?.backward().map(drop)
    }))
}

/// A product of which each value is used often.
fn product() -> Piece {
    let [rows, inner, columns] = PRODUCT;
    let (a, b) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
    let mut c = vec![0.0; rows * columns];
    Piece::new("floor/product", Work::Flop(2 * (rows * inner * columns) as u64), move || {
        let [a, b] = [(&a, rows, inner), (&b, inner, columns)]
            .map(|(values, rows, columns)| cpu::Matrix::new(values, rows, columns));
        let c = cpu::MatrixMut::new(&mut c, rows, columns);
        cpu::matmul(c, a, b, 1.0, false, cpu::Threads::All);
        Ok(())
    })
}

/// A sum of which each value is used once: two are read, one is written.
fn stream() -> Piece {
    let (x, mut y) = (vec![1.0; STREAM], vec![0.0; STREAM]);
    Piece::new("floor/memory", Work::Bytes(3 * 4 * STREAM as u64), move || {
        cpu::add(&x, &mut y);
        Ok(())
    })
}

/// An operation of the tape on inputs of these shapes, all of which get a gradient.
fn taped(
    name: &str,
    work: Work,
    inputs: &[&[usize]],
    parameters: &[&[usize]],
    f: impl Fn(&Tape, &[Value], &[Tensor]) -> Result<Value> + 'static,
) -> Result<Piece> {
    let arena = Arc::new(Arena::default());
    let size = |shape: &[usize]| shape.iter().product();
    let inputs: Vec<(Arc<Buffer>, Arc<[usize]>)> = (1..)
        .zip(inputs)
        .map(|(seed, shape)| (arena.copy(&numbers(size(shape), seed)).into(), (*shape).into()))
        .collect();
    let parameters = parameters.iter().map(|shape| {
        let values = numbers(size(shape), 0);
        Ok(Var::from_tensor(&Tensor::from_vec(values, *shape, &Device::Cpu)?)?.into_inner())
    });
    let parameters: Vec<Tensor> = parameters.collect::<Result<_>>()?;
    let mut gradients = Gradients::new(&parameters);
    let forward = move |tape: &Tape| {
        let values: Vec<Value> = inputs
            .iter()
            .map(|(data, dims)| {
                let step = Some(tape.remember(Box::new(|_, _| Ok(()))));
                Value { data: data.clone(), dims: dims.clone(), step }
            })
            .collect();
        f(tape, &values, &parameters)
    };
    let outputs = forward(&Tape::new(arena.clone()))?.values().len();
    let gradient = numbers(outputs, 99);
    let run = move || {
        let gradient = arena.copy(&gradient); // in a step, the operation after this one made it
        gradients.clear();
        let began = Instant::now();
        let tape = Tape::new(arena.clone());
        let output = forward(&tape)?;
        tape.go_back(&output, gradient, Some(&mut gradients))?;
        Ok(began.elapsed())
    };
    Ok(Piece { name: name.into(), work, run: Box::new(run) })
}

/// Values in -1..1 that differ.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let step = |at: u64| (at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(seed as u32 + 7);
    (0..count as u64).map(|at| (step(at) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_forward_and_back() -> Result<()> {
        for mut piece in pieces()? {
            assert!(piece.run()? > Duration::ZERO, "{piece:?}");
            let (Work::Flop(count) | Work::Bytes(count)) = piece.work;
            assert!(count > 0, "{piece:?}");
        }
        Ok(())
    }
}

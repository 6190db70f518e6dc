//! Convolution, by unfolding a few pictures at a time into one matrix, with the batch
//! normalisation and the ReLU that follow it.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{
    Buffer, Flow, Tape, Value,
    batch_norm::{Norm, moments},
};
use crate::ops::{
    borrow,
    cpu::{self, Matrix, MatrixMut, Threads, matmul, vectorized},
    graph::{Awaited, BatchStatistics, ConvNorm, ONE, Window},
};

/// Values that are unfolded at once: they stay in the second-level cache, and the order of sums does
/// not depend on the number of threads. Few in tests, so that their pictures need more
/// than one chunk.
const UNFOLDED_MAX: usize = if cfg!(test) { 1 << 7 } else { 1 << 17 };

/// Fewest rows of a product: the kernel is packed anew for each, which fewer rows do not repay.
const ROWS_MIN: usize = if cfg!(test) { 1 } else { 256 };

impl Tape {
    /// The way back goes by the output of the convolution c alone: `y = relu(c a + shift)`, made
    /// again, is cheap.
    pub(super) fn conv_norm(
        &self,
        x: &Value,
        layer: ConvNorm<'_>,
        fixed: Option<&BatchStatistics>,
    ) -> Result<(Value, Awaited)> {
        let ConvNorm { kernel, window, weight, bias, relu } = layer;
        let plan = Plan::new(window, &x.dims, kernel.dims());
        let matrix = plan.matrix(kernel)?;
        let mut c = self.arena.take(plan.rows(&x.data) * plan.outputs);
        plan.convolve(&x.data, &matrix, &mut c);

        let (mean, variance) = match fixed {
            Some(fixed) => (fixed.mean.to_vec1()?, fixed.variance.to_vec1()?),
            None => moments(&c, plan.outputs, self.peers.as_deref()),
        };
        let norm = Norm::new(mean, &variance, weight, bias, relu)?;
        let mut y = self.arena.take(c.len());
        norm.forward(&c, &mut y);
        let statistics = match fixed {
            Some(fixed) => fixed.clone(),
            None => {
                let tensor = |values| Tensor::from_vec(values, plan.outputs, weight.device());
                BatchStatistics { mean: tensor(norm.mean.clone())?, variance: tensor(variance)? }
            }
        };

        let (step, input, dims) = (x.step, x.data.clone(), plan.dims(&x.dims));
        let parameters = [kernel, weight, bias].map(Tensor::clone);
        let is_fixed = fixed.is_some();
        let back = move |mut gradient: Buffer, flow: &mut Flow<'_>| {
            let [kernel, weight, bias] = parameters;
            norm.back(&c, &mut gradient, [&weight, &bias], is_fixed, flow);
            drop(c);
            let mut dx = step.map(|_| match window == ONE {
                true => flow.arena.take(input.len()),
                false => flow.arena.zeros(input.len()), // cells are added to it
            });
            let mut dw = flow.wants(&kernel).then(|| flow.arena.take(matrix.len()));
            plan.back(&input, &matrix, &gradient, dx.as_deref_mut(), dw.as_deref_mut());
            if let (Some((sum, add)), Some(dw)) = (flow.target(&kernel), dw) {
                plan.move_to_kernel(&dw, sum, add);
            }
            if let Some(dx) = dx {
                flow.give(step, dx);
            }
            Ok(())
        };
        let y = self.output(y, dims, &[x], &[kernel, weight, bias], back);
        Ok((y, Box::new(move || Ok(statistics.clone()))))
    }
}

/// How a picture, its unfolded cells and the weight lie in memory.
struct Plan {
    window: Window,
    /// Height, width, channels.
    picture: (usize, usize, usize),
    /// Rows of the product that one picture gives.
    places: usize,
    /// Values under one place.
    depth: usize,
    /// Channels out.
    outputs: usize,
    /// Pictures that are unfolded at once.
    at_once: usize,
}

impl Plan {
    fn new(window: Window, x: &[usize], kernel: &[usize]) -> Self {
        let (&[batch, height, width, channels], outputs) = (x, kernel[0]) else {
            panic!("`[B, H, W, C]`, not {x:?}")
        };
        let depth = channels * window.side * window.side;
        if window == ONE {
            let rows = batch * height * width;
            let picture = (1, rows, depth);
            return Self { window, picture, places: rows, depth, outputs, at_once: 1 };
        }
        let places = window.places(height) * window.places(width);
        let at_once = (UNFOLDED_MAX / (places * depth)).max(ROWS_MIN.div_ceil(places));
        Self { window, picture: (height, width, channels), places, depth, outputs, at_once }
    }

    /// Values of one picture.
    fn picture(&self) -> usize {
        self.picture.0 * self.picture.1 * self.picture.2
    }

    /// Rows of the product.
    fn rows(&self, x: &[f32]) -> usize {
        x.len() / self.picture() * self.places
    }

    /// Shape of the output for that of the input.
    fn dims(&self, x: &[usize]) -> [usize; 4] {
        let places = |size| if self.window == ONE { size } else { self.window.places(size) };
        [x[0], places(x[1]), places(x[2]), self.outputs]
    }

    /// The kernel `[O, I, side, side]` with its columns in the order of the cells: row, column,
    /// channel.
    fn matrix(&self, kernel: &Tensor) -> Result<Vec<f32>> {
        let kernel = borrow("conv", kernel)?;
        if self.window == ONE {
            return Ok(kernel.to_vec());
        }
        let mut matrix = vec![0.0; kernel.len()];
        self.places_in_kernel(|cell, place| matrix[cell] = kernel[place]);
        Ok(matrix)
    }

    /// Makes the gradient of the kernel of that of the matrix, or adds to it.
    fn move_to_kernel(&self, dw: &[f32], kernel: &mut [f32], add: bool) {
        match (self.window == ONE, add) {
            (true, false) => kernel.copy_from_slice(dw),
            (true, true) => cpu::add(dw, kernel),
            (false, false) => self.places_in_kernel(|cell, place| kernel[place] = dw[cell]),
            (false, true) => self.places_in_kernel(|cell, place| kernel[place] += dw[cell]),
        }
    }

    /// Calls `visit(index in the matrix, index in the kernel)` for each weight.
    fn places_in_kernel(&self, mut visit: impl FnMut(usize, usize)) {
        let (area, channels) = (self.window.side * self.window.side, self.picture.2);
        for output in 0..self.outputs {
            let start = output * self.depth;
            for place in 0..area {
                for channel in 0..channels {
                    visit(start + place * channels + channel, start + channel * area + place);
                }
            }
        }
    }

    /// Values of the pictures that are unfolded at once, and of their products.
    fn chunks(&self) -> (usize, usize) {
        (self.at_once * self.picture(), self.at_once * self.places * self.outputs)
    }

    fn convolve(&self, x: &[f32], matrix: &[f32], y: &mut [f32]) {
        let matrix = Matrix::new(matrix, self.outputs, self.depth).t();
        let (pictures, products) = self.chunks();
        let mut cells = Vec::new();
        for (x, y) in x.chunks(pictures).zip(y.chunks_mut(products)) {
            let rows = y.len() / self.outputs;
            let x = Matrix::new(self.cells(x, &mut cells), rows, self.depth);
            matmul(MatrixMut::new(y, rows, self.outputs), x, matrix, 1.0, false, Threads::All);
        }
    }

    /// With the unfolded x: dw += dy^T x, dx += dy w, folded back.
    fn back(
        &self,
        x: &[f32],
        matrix: &[f32],
        dy: &[f32],
        mut dx: Option<&mut [f32]>,
        mut dw: Option<&mut [f32]>,
    ) {
        let (outputs, depth) = (self.outputs, self.depth);
        let w = Matrix::new(matrix, outputs, depth);
        let (pictures, products) = self.chunks();
        let (mut cells, mut dcells) = (Vec::new(), Vec::new());
        for (chunk, (x, dy)) in x.chunks(pictures).zip(dy.chunks(products)).enumerate() {
            let rows = dy.len() / outputs;
            let dy = Matrix::new(dy, rows, outputs);
            if let Some(dw) = &mut dw {
                let x = Matrix::new(self.cells(x, &mut cells), rows, depth);
                let dw = MatrixMut::new(dw, outputs, depth);
                matmul(dw, dy.t(), x, 1.0, chunk > 0, Threads::All);
            }
            let Some(dx) = &mut dx else { continue };
            let dx = &mut dx[chunk * pictures..][..x.len()];
            if self.window == ONE {
                matmul(MatrixMut::new(dx, rows, depth), dy, w, 1.0, false, Threads::All);
            } else {
                dcells.resize(rows * depth, 0.0);
                let product = MatrixMut::new(&mut dcells, rows, depth);
                matmul(product, dy, w, 1.0, false, Threads::All);
                self.fold(&dcells, dx);
            }
        }
    }

    /// What stands under each place of each picture; zeros stay where nothing does.
    fn cells<'a>(&self, pictures: &'a [f32], cells: &'a mut Vec<f32>) -> &'a [f32] {
        if self.window == ONE {
            return pictures;
        }
        let channels = self.picture.2;
        let room = self.places * self.depth;
        let size = pictures.len() / self.picture() * room;
        if cells.len() != size {
            cells.clear();
            cells.resize(size, 0.0); // what lies outside of the pictures stays zero from now on
        }
        let pictures = pictures.par_chunks_exact(self.picture());
        cells.par_chunks_exact_mut(room).zip(pictures).for_each(|(cells, x)| {
            self.pairs(|cell, pixel| {
                cells[cell..][..channels].copy_from_slice(&x[pixel..][..channels]);
            });
        });
        cells
    }

    /// Adds each cell's values to the pixel that it shows.
    fn fold(&self, cells: &[f32], pictures: &mut [f32]) {
        let cells = cells.par_chunks_exact(self.places * self.depth);
        pictures.par_chunks_exact_mut(self.picture()).zip(cells).for_each(|(picture, cells)| {
            vectorized(Self::fold_one, (self, cells, picture));
        });
    }

    #[inline(always)]
    fn fold_one(&self, cells: &[f32], picture: &mut [f32]) {
        let channels = self.picture.2;
        self.pairs(|cell, pixel| {
            let cell = &cells[cell..][..channels];
            let pixel = &mut picture[pixel..][..channels];
            pixel.iter_mut().zip(cell).for_each(|(sum, value)| *sum += value);
        });
    }

    /// Calls `visit(cell, pixel)` for each pair of offsets of C values that belong together: a
    /// cell of the unfolded picture and the pixel of the picture that it shows.
    #[inline(always)]
    fn pairs(&self, mut visit: impl FnMut(usize, usize)) {
        let (window, (height, width, channels)) = (self.window, self.picture);
        let mut cell = 0;
        for y in 0..window.places(height) {
            for x in 0..window.places(width) {
                for row in 0..window.side {
                    let inside = window.pixel(y, row, height);
                    for column in 0..window.side {
                        let pixel = inside.zip(window.pixel(x, column, width));
                        if let Some((row, column)) = pixel {
                            visit(cell, (row * width + column) * channels);
                        }
                        cell += channels;
                    }
                }
            }
        }
    }
}

//! Convolution, by unfolding a few pictures at a time into one matrix, and average pooling, both on
//! `[B, H, W, C]`.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    borrow,
    cpu::{Matrix, matmul},
    is_fused, values,
};

/// A square window that slides over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side, in pixels.
    pub side: usize,
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Zeros added on each edge.
    pub padding: usize,
}

impl Window {
    /// Places along an axis of `size` pixels.
    pub fn places(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.side) / self.stride + 1
    }

    /// The pixel under row (or column) `offset` of the window at `place`, if it is inside.
    fn pixel(&self, place: usize, offset: usize, size: usize) -> Option<usize> {
        (place * self.stride + offset).checked_sub(self.padding).filter(|&pixel| pixel < size)
    }
}

/// The window that sees one pixel: a convolution with it is a product with each row.
pub const ONE: Window = Window { side: 1, stride: 1, padding: 0 };

/// A convolution without a bias: `[B, H, W, I]`, `[O, side * side * I]` -> `[B, H', W', O]`.
///
/// The columns of the weight are ordered (row, column, channel). With the window [`ONE`] any shape
/// `[.., I]` will do.
pub fn conv(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    if is_fused(x) {
        return x.contiguous()?.apply_op2(&weight.contiguous()?, Conv(window));
    }
    let cells = if window == ONE { x.clone() } else { unfold(x, window)? };
    let mut shape = cells.dims().to_vec();
    *shape.last_mut().expect("channels come last") = weight.dim(0)?;
    cells.reshape(((), weight.dim(1)?))?.matmul(&weight.t()?)?.reshape(shape)
}

/// The pixels under each place of the window, composed of candle's primitives:
/// `[B, H, W, C]` -> `[B, H', W', side * side * C]`.
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

/// Mean of each `side` x `side` tile: `[B, H, W, C]` -> `[B, H / side, W / side, C]`; `side`
/// divides H and W.
pub fn avg_pool(x: &Tensor, side: usize) -> Result<Tensor> {
    if side == 1 {
        return Ok(x.clone());
    }
    if is_fused(x) {
        return x.contiguous()?.apply_op1(AvgPool(side));
    }
    let (batch, height, width, channels) = x.dims4()?;
    let x = x.reshape(&[batch, height / side, side, width / side, side, channels][..])?;
    x.mean(4)?.mean(2)
}

struct Conv(Window);

/// Most values that are unfolded at once: they stay in the second-level cache, and the order of
/// sums does not depend on the number of threads. Few in tests, so that their pictures need more
/// than one chunk.
const UNFOLDED_MAX: usize = if cfg!(test) { 1 << 7 } else { 1 << 17 };

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
    fn new(window: Window, x: &Shape, weight: &Shape) -> Result<Self> {
        let (outputs, depth) = weight.dims2()?;
        if window == ONE {
            let rows = x.elem_count() / depth;
            let picture = (1, rows, depth);
            return Ok(Self { window, picture, places: rows, depth, outputs, at_once: 1 });
        }
        let (_, height, width, channels) = x.dims4()?;
        let places = window.places(height) * window.places(width);
        let at_once = (UNFOLDED_MAX / (places * depth)).max(1);
        let picture = (height, width, channels);
        Ok(Self { window, picture, places, depth, outputs, at_once })
    }

    /// Values of the pictures that are unfolded at once, and of their products.
    fn chunks(&self) -> (usize, usize) {
        let (height, width, channels) = self.picture;
        let (picture, product) = (height * width * channels, self.places * self.outputs);
        (self.at_once * picture, self.at_once * product)
    }

    /// Writes what stands under each place of each picture; zeros stay where nothing does.
    fn unfold(&self, pictures: &[f32], cells: &mut Vec<f32>) {
        let (height, width, channels) = self.picture;
        let picture = height * width * channels;
        cells.clear();
        cells.resize(pictures.len() / picture * self.places * self.depth, 0.0);
        let pictures = pictures.par_chunks_exact(picture);
        cells.par_chunks_exact_mut(self.places * self.depth).zip(pictures).for_each(
            |(cells, x)| {
                self.pairs(|cell, pixel| {
                    cells[cell..][..channels].copy_from_slice(&x[pixel..][..channels]);
                });
            },
        );
    }

    /// Adds each cell's values to the pixel that it shows.
    fn fold(&self, cells: &[f32], pictures: &mut [f32]) {
        let (height, width, channels) = self.picture;
        let cells = cells.par_chunks_exact(self.places * self.depth);
        pictures.par_chunks_exact_mut(height * width * channels).zip(cells).for_each(
            |(x, cells)| {
                self.pairs(|cell, pixel| {
                    let cell = &cells[cell..][..channels];
                    x[pixel..][..channels]
                        .iter_mut()
                        .zip(cell)
                        .for_each(|(sum, value)| *sum += value);
                });
            },
        );
    }

    /// Calls `visit(cell, pixel)` for each pair of offsets of C values that belong together: a
    /// cell of the unfolded picture and the pixel of the picture that it shows.
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

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let plan = Plan::new(self.0, x_layout.shape(), weight_layout.shape())?;
        let x = values(self.name(), x, x_layout)?;
        let weight = values(self.name(), weight, weight_layout)?;
        let weight = Matrix::new(weight, plan.outputs, plan.depth).t();
        let mut shape = x_layout.shape().dims().to_vec();
        if self.0 != ONE {
            shape[1] = self.0.places(shape[1]);
            shape[2] = self.0.places(shape[2]);
        }
        *shape.last_mut().expect("channels come last") = plan.outputs;
        let mut y = vec![0.0; shape.iter().product()];
        let (pictures, products) = plan.chunks();
        let mut cells = Vec::new();
        for (x, y) in x.chunks(pictures).zip(y.chunks_mut(products)) {
            let rows = y.len() / plan.outputs;
            let x = if self.0 == ONE {
                x
            } else {
                plan.unfold(x, &mut cells);
                &cells
            };
            matmul(y, Matrix::new(x, rows, plan.depth), weight, false);
        }
        Ok((CpuStorage::F32(y), Shape::from(shape)))
    }

    // With the unfolded x: dw = dy^T x, dx = dy w, folded back.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let plan = Plan::new(self.0, x.shape(), weight.shape())?;
        let dy = dy.contiguous()?;
        let (xs, dys) = (borrow(self.name(), x)?, borrow(self.name(), &dy)?);
        let weights = borrow(self.name(), weight)?;
        let w = Matrix::new(&weights, plan.outputs, plan.depth);
        // Pixels are an input without a gradient; a frozen tower's weights are constants.
        let (has_dx, has_dw) = (x.track_op(), weight.track_op());
        let mut dx = vec![0.0; if has_dx { xs.len() } else { 0 }];
        let mut dw = vec![0.0; if has_dw { weights.len() } else { 0 }];
        let (pictures, products) = plan.chunks();
        let (mut cells, mut dcells) = (Vec::new(), Vec::new());
        for (chunk, (x, dy)) in xs.chunks(pictures).zip(dys.chunks(products)).enumerate() {
            let rows = dy.len() / plan.outputs;
            let dy = Matrix::new(dy, rows, plan.outputs);
            if has_dw {
                let x = if self.0 == ONE {
                    x
                } else {
                    plan.unfold(x, &mut cells);
                    &cells
                };
                matmul(&mut dw, dy.t(), Matrix::new(x, rows, plan.depth), chunk > 0);
            }
            if has_dx && self.0 == ONE {
                matmul(&mut dx, dy, w, false);
            } else if has_dx {
                dcells.resize(rows * plan.depth, 0.0);
                matmul(&mut dcells, dy, w, false);
                let start = chunk * pictures;
                plan.fold(&dcells, &mut dx[start..][..x.len()]);
            }
        }
        let tensor =
            |values: Vec<f32>, of: &Tensor| Tensor::from_vec(values, of.shape(), of.device());
        Ok((
            has_dx.then(|| tensor(dx, x)).transpose()?,
            has_dw.then(|| tensor(dw, weight)).transpose()?,
        ))
    }
}

struct AvgPool(usize);

impl AvgPool {
    /// Calls `visit(tile, pixel)` for the offset of each pixel and of its tile.
    fn pairs(
        &self,
        (height, width, channels): (usize, usize, usize),
        mut visit: impl FnMut(usize, usize),
    ) {
        for row in 0..height {
            for column in 0..width {
                let tile = (row / self.0) * (width / self.0) + column / self.0;
                visit(tile * channels, (row * width + column) * channels);
            }
        }
    }
}

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), x, layout)?;
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let area = self.0 * self.0;
        let share = 1.0 / area as f32;
        let mut y = vec![0.0; x.len() / area];
        let picture = height * width * channels;
        y.par_chunks_exact_mut(picture / area).zip(x.par_chunks_exact(picture)).for_each(
            |(y, x)| {
                self.pairs((height, width, channels), |tile, pixel| {
                    let pixel = &x[pixel..][..channels];
                    y[tile..][..channels].iter_mut().zip(pixel).for_each(|(y, x)| *y += x * share);
                });
            },
        );
        Ok((CpuStorage::F32(y), Shape::from((batch, height / self.0, width / self.0, channels))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dys = borrow(self.name(), &dy)?;
        let (_, height, width, channels) = x.dims4()?;
        let area = self.0 * self.0;
        let share = 1.0 / area as f32;
        let picture = height * width * channels;
        let mut dx = vec![0.0; x.elem_count()];
        let tiles = dys.par_chunks_exact(picture / area);
        dx.par_chunks_exact_mut(picture).zip(tiles).for_each(|(dx, dy)| {
            self.pairs((height, width, channels), |tile, pixel| {
                let tile = &dy[tile..][..channels];
                dx[pixel..][..channels].iter_mut().zip(tile).for_each(|(dx, dy)| *dx = dy * share);
            });
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::{assert_gradients, numbers};
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients() -> Result<()> {
        for (stride, padding) in [(1, 1), (2, 1), (1, 0)] {
            let window = Window { side: 3, stride, padding };
            assert_gradients(&[&[2, 4, 4, 2], &[3, 18]], |x| conv(&x[0], &x[1], window))?;
        }
        assert_gradients(&[&[2, 3, 4], &[5, 4]], |x| conv(&x[0], &x[1], ONE))?;
        assert_gradients(&[&[2, 4, 4, 3]], |x| avg_pool(&x[0], 2))
    }

    #[test]
    fn a_convolution_is_candles() -> Result<()> {
        let tensor = |shape: &[usize], seed| {
            Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu)?
                .to_dtype(candle_core::DType::F32)
        };
        let (x, kernel) = (tensor(&[2, 3, 8, 8], 0)?, tensor(&[5, 3, 3, 3], 1)?);
        let theirs = x.conv2d(&kernel, 1, 2, 1, 1)?;
        let matrix = kernel.permute((0, 2, 3, 1))?.reshape((5, 27))?;
        let window = Window { side: 3, stride: 2, padding: 1 };
        let ours = conv(&x.permute((0, 2, 3, 1))?, &matrix, window)?;
        let difference = (ours.permute((0, 3, 1, 2))? - theirs)?.abs()?.max_all()?;
        assert!(difference.to_scalar::<f32>()? < 1e-5);
        Ok(())
    }
}

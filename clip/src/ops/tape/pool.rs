//! Average pooling, and the end of a residual block.

use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;

use super::{Tape, Value};
use crate::ops::cpu::{CHUNK, vectorized};

impl Tape {
    pub(super) fn avg_pool(&self, x: &Value, side: usize) -> Result<Value> {
        if side == 1 {
            return Ok(x.clone());
        }
        let &[batch, height, width, channels] = &*x.dims else { panic!("`[B, H, W, C]`") };
        let tiles = Tiles { side, height, width, channels };
        let (picture, area) = (height * width * channels, side * side);
        let mut y = self.arena.take(x.data.len() / area);
        let pictures = y.par_chunks_exact_mut(picture / area).zip(x.data.par_chunks_exact(picture));
        pictures.for_each(|(y, x)| vectorized(Tiles::mean, (tiles, x, y)));
        let dims = [batch, height / side, width / side, channels];
        let step = x.step;
        Ok(self.output(y, dims, &[x], &[], move |gradient, flow| {
            let mut dx = flow.arena.take(batch * picture);
            let pictures = dx.par_chunks_exact_mut(picture);
            let pictures = pictures.zip(gradient.par_chunks_exact(picture / area));
            pictures.for_each(|(dx, dy)| vectorized(Tiles::spread, (tiles, dy, dx)));
            flow.give(step, dx);
            Ok(())
        }))
    }

    pub(super) fn add_relu(&self, a: &Value, b: &Value) -> Result<Value> {
        let mut y = self.arena.take(a.data.len());
        let sums = a.data.par_chunks(CHUNK).zip(b.data.par_chunks(CHUNK));
        y.par_chunks_mut(CHUNK).zip(sums).for_each(|(y, (a, b))| vectorized(add_relu, (a, b, y)));
        let y = Arc::new(y);
        let (to_a, to_b, output) = (a.step, b.step, y.clone());
        Ok(self.output(y, a.dims.clone(), &[a, b], &[], move |mut gradient, flow| {
            let chunks = gradient.par_chunks_mut(CHUNK).zip(output.par_chunks(CHUNK));
            chunks.for_each(|(dy, y)| vectorized(cut, (y, dy)));
            if to_a.is_some() {
                let copy = flow.arena.copy(&gradient);
                flow.give(to_a, copy);
            }
            flow.give(to_b, gradient);
            Ok(())
        }))
    }
}

#[inline(always)]
fn add_relu(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = (a + b).max(0.0));
}

/// Where the ReLU cut, y is 0 and so is the gradient.
#[inline(always)]
fn cut(y: &[f32], gradient: &mut [f32]) {
    for (gradient, &y) in gradient.iter_mut().zip(y) {
        *gradient = if y > 0.0 { *gradient } else { 0.0 };
    }
}

/// Square tiles of a picture `[height, width, channels]`.
#[derive(Clone, Copy)]
struct Tiles {
    side: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl Tiles {
    #[inline(always)]
    fn mean(self, x: &[f32], y: &mut [f32]) {
        let share = 1.0 / (self.side * self.side) as f32;
        y.fill(0.0);
        self.pairs(|tile, pixel| {
            let pixel = &x[pixel..][..self.channels];
            let tile = &mut y[tile..][..self.channels];
            tile.iter_mut().zip(pixel).for_each(|(y, x)| *y += x * share);
        });
    }

    #[inline(always)]
    fn spread(self, dy: &[f32], dx: &mut [f32]) {
        let share = 1.0 / (self.side * self.side) as f32;
        self.pairs(|tile, pixel| {
            let tile = &dy[tile..][..self.channels];
            let pixel = &mut dx[pixel..][..self.channels];
            pixel.iter_mut().zip(tile).for_each(|(dx, dy)| *dx = dy * share);
        });
    }

    /// Calls `visit(tile, pixel)` for the offset of each pixel and of its tile.
    #[inline(always)]
    fn pairs(self, mut visit: impl FnMut(usize, usize)) {
        for row in 0..self.height {
            for column in 0..self.width {
                let tile = (row / self.side) * (self.width / self.side) + column / self.side;
                visit(tile * self.channels, (row * self.width + column) * self.channels);
            }
        }
    }
}

//! From pixels and ids to sequences of tokens, and from sequences to one row each.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{Flow, Tape, Value};
use crate::ops::{
    borrow,
    cpu::{add_rows, sums, vectorized},
};

impl Tape {
    pub(super) fn image(&self, pixels: &Tensor) -> Result<Value> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let area = height * width;
        let moves = move |planes: usize| (planes % area) * channels + planes / area;
        self.rearranged(pixels, vec![batch, height, width, channels], moves)
    }

    pub(super) fn patches(&self, pixels: &Tensor, side: usize) -> Result<Value> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let (columns, tile) = (width / side, side * side);
        let moves = move |planes: usize| {
            let (channel, pixel) = (planes / (height * width), planes % (height * width));
            let (y, x) = (pixel / width, pixel % width);
            let patch = (y / side) * columns + x / side;
            (patch * channels + channel) * tile + (y % side) * side + x % side
        };
        let count = (height / side) * columns;
        self.rearranged(pixels, vec![batch, count, channels * tile], moves)
    }

    /// Each picture's values in another order: `place(index in [3, H, W])`.
    fn rearranged(
        &self,
        pixels: &Tensor,
        dims: Vec<usize>,
        place: impl Fn(usize) -> usize,
    ) -> Result<Value> {
        let pixels = pixels.contiguous()?;
        let values = borrow("pixels", &pixels)?;
        let picture = values.len() / dims[0];
        let places: Vec<u32> = (0..picture).map(|index| place(index) as u32).collect();
        let mut x = self.arena.take(values.len());
        x.par_chunks_exact_mut(picture).zip(values.par_chunks_exact(picture)).for_each(
            |(x, pixels)| {
                places.iter().zip(pixels).for_each(|(&place, value)| x[place as usize] = *value);
            },
        );
        let back = move |gradient: super::Buffer, flow: &mut Flow<'_>| {
            let mut pixels = vec![0.0; gradient.len()];
            let pictures = pixels.par_chunks_exact_mut(picture);
            pictures.zip(gradient.par_chunks_exact(picture)).for_each(|(pixels, dx)| {
                pixels
                    .iter_mut()
                    .zip(&places)
                    .for_each(|(value, &place)| *value = dx[place as usize]);
            });
            flow.pixels = Some(pixels);
            Ok(())
        };
        let step = self.pixels.then(|| self.remember(Box::new(back)));
        Ok(Value { data: Arc::new(x), dims: dims.into(), step })
    }

    pub(super) fn with_mean(&self, x: &Value, positions: &Tensor) -> Result<Value> {
        let &[batch, count, width] = &*x.dims else { panic!("`[B, N, C]`") };
        let p = borrow("positions", positions)?;
        let room = (1 + count) * width;
        check_positions(&p, room, width)?;
        let share = 1.0 / count as f32;
        let mut y = self.arena.take(batch * room);
        let sequences = y.par_chunks_exact_mut(room).zip(x.data.par_chunks_exact(count * width));
        sequences.for_each(|(y, x)| {
            y.copy_from_slice(&p);
            let (mean, tokens) = y.split_at_mut(width);
            tokens.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            for x in x.chunks_exact(width) {
                mean.iter_mut().zip(x).for_each(|(mean, x)| *mean += x * share);
            }
        });
        drop(p);
        let (step, parameter) = (x.step, positions.clone());
        let dims = [batch, 1 + count, width];
        Ok(self.output(y, dims, &[x], &[positions], move |gradient, flow| {
            add_positions(&parameter, room, &gradient, flow);
            let mut dx = flow.arena.take(batch * count * width);
            let sequences = dx.par_chunks_exact_mut(count * width);
            sequences.zip(gradient.par_chunks_exact(room)).for_each(|(dx, dy)| {
                let (mean, tokens) = dy.split_at(width);
                dx.copy_from_slice(tokens);
                for dx in dx.chunks_exact_mut(width) {
                    dx.iter_mut().zip(mean).for_each(|(dx, mean)| *dx += mean * share);
                }
            });
            flow.give(step, dx);
            Ok(())
        }))
    }

    pub(super) fn with_class(
        &self,
        x: &Value,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Value> {
        let &[batch, count, width] = &*x.dims else { panic!("`[B, N, C]`") };
        let (p, c) = (borrow("positions", positions)?, borrow("class", class)?);
        let room = (1 + count) * width;
        check_positions(&p, room, width)?;
        let mut y = self.arena.take(batch * room);
        let sequences = y.par_chunks_exact_mut(room).zip(x.data.par_chunks_exact(count * width));
        sequences.for_each(|(y, x)| {
            y.copy_from_slice(&p);
            let (first, tokens) = y.split_at_mut(width);
            first.iter_mut().zip(&*c).for_each(|(y, c)| *y += c);
            tokens.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        });
        drop((p, c));
        let (step, parameters) = (x.step, (class.clone(), positions.clone()));
        let dims = [batch, 1 + count, width];
        Ok(self.output(y, dims, &[x], &[class, positions], move |gradient, flow| {
            let (class, positions) = parameters;
            if let Some(sum) = add_positions(&positions, room, &gradient, flow) {
                flow.add(&class, 0, &sum[..width]);
            }
            let mut dx = flow.arena.take(batch * count * width);
            let sequences = dx.par_chunks_exact_mut(count * width);
            sequences.zip(gradient.par_chunks_exact(room)).for_each(|(dx, dy)| {
                dx.copy_from_slice(&dy[width..]);
            });
            flow.give(step, dx);
            Ok(())
        }))
    }

    pub(super) fn embed(&self, ids: &Tensor, table: &Tensor, positions: &Tensor) -> Result<Value> {
        let (batch, length) = ids.dims2()?;
        let (vocabulary, width) = table.dims2()?;
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        let known = positions.dim(0)?;
        if length > known {
            bail!("{length} tokens, but there are positions for {known}");
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            bail!("token {id}, but the vocabulary has {vocabulary}");
        }
        let (t, p) = (borrow("table", table)?, borrow("positions", positions)?);
        let room = length * width;
        let mut y = self.arena.take(batch * room);
        for (at, (y, &id)) in y.chunks_exact_mut(width).zip(&ids).enumerate() {
            let (row, position) = (&t[id as usize * width..], &p[at % length * width..]);
            y.iter_mut().zip(row).zip(position).for_each(|((y, row), p)| *y = row + p);
        }
        drop((t, p));
        let parameters = (table.clone(), positions.clone());
        let dims = [batch, length, width];
        Ok(self.output(y, dims, &[], &[table, positions], move |gradient, flow| {
            let (table, positions) = parameters;
            add_positions(&positions, room, &gradient, flow);
            if let Some(sum) = flow.rows(&table, &ids) {
                for (&id, dy) in ids.iter().zip(gradient.chunks_exact(width)) {
                    let row = &mut sum[id as usize * width..][..width];
                    row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            }
            Ok(())
        }))
    }

    pub(super) fn pick(&self, x: &Value, tokens: &[u32]) -> Result<Value> {
        let &[batch, length, width] = &*x.dims else { panic!("`[B, T, C]`") };
        let tokens = tokens.to_vec();
        let start = move |sequence: usize, token: u32| (sequence * length + token as usize) * width;
        let mut y = self.arena.take(batch * width);
        for (sequence, (y, &token)) in y.chunks_exact_mut(width).zip(&tokens).enumerate() {
            y.copy_from_slice(&x.data[start(sequence, token)..][..width]);
        }
        let step = x.step;
        Ok(self.output(y, [batch, width], &[x], &[], move |gradient, flow| {
            let mut dx = flow.arena.zeros(batch * length * width);
            for (sequence, (dy, &token)) in gradient.chunks_exact(width).zip(&tokens).enumerate() {
                dx[start(sequence, token)..][..width].copy_from_slice(dy);
            }
            flow.give(step, dx);
            Ok(())
        }))
    }
}

/// Refuses sequences that have not as many tokens as there are positions.
fn check_positions(positions: &[f32], room: usize, width: usize) -> Result<()> {
    if positions.len() != room {
        bail!("{} tokens, but there are positions for {}", room / width, positions.len() / width);
    }
    Ok(())
}

/// Adds the sum over all sequences to the gradient of the positions, if they want one; returns it.
fn add_positions(
    positions: &Tensor,
    room: usize,
    gradient: &[f32],
    flow: &mut Flow<'_>,
) -> Option<Vec<f32>> {
    if !flow.wants(positions) {
        return None;
    }
    let sum = sums(gradient, room, room, |_, dy, sums| vectorized(add_rows, (dy, sums)));
    flow.add(positions, 0, &sum);
    Some(sum)
}

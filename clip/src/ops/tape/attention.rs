//! Attention straight on the columns of packed projections; no table of queries by keys is kept.

use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;

use super::{Buffer, Flow, Tape, Value};
use crate::ops::{
    cpu::{Matrix, MatrixMut, Threads, exp, matmul, vectorized},
    graph::{Columns, Seen},
};

impl Tape {
    pub(super) fn attention(
        &self,
        qkv: [Columns<'_, Value>; 3],
        width: usize,
        heads: usize,
        seen: Seen<'_>,
    ) -> Result<Value> {
        let (&[batch, queries, _], keys) = (&*qkv[0].of.dims, qkv[1].of.dims[1]) else {
            panic!("`[B, T, C]`")
        };
        let shape = Shape { queries, keys, width, head: width / heads };
        for columns in &qkv {
            let named = qkv.iter().filter(|other| Arc::ptr_eq(&other.of.data, &columns.of.data));
            let mut starts: Vec<usize> = named.map(|columns| columns.start).collect();
            starts.sort_unstable();
            let all = (0..columns.of.columns()).step_by(width);
            assert!(all.eq(starts), "the columns of each array are named once");
        }
        let inputs = qkv.each_ref().map(|columns| columns.of);
        let sides = qkv.map(|columns| Side::new(columns, batch));
        let last = match seen {
            Seen::All => Last::Key,
            Seen::Causal => Last::Query,
            Seen::UpTo(last) => Last::Of(last.to_vec()),
        };
        let mut y = self.arena.take(batch * queries * width);
        y.par_chunks_exact_mut(queries * width).enumerate().for_each(|(sequence, y)| {
            let [q, k, v] = sides.each_ref().map(|side| side.sequence(sequence));
            let mut shares = vec![0.0; queries * keys];
            for head in 0..heads {
                shape.shares(q, k, head, last.seen(sequence), &mut shares);
                let product =
                    MatrixMut::within(&mut y[head * shape.head..], queries, shape.head, width);
                let shares = Matrix::new(&shares, queries, keys);
                matmul(product, shares, v.head(&shape, head), 1.0, false, Threads::One);
            }
        });
        Ok(self.output(y, [batch, queries, width], &inputs, &[], move |gradient, flow| {
            shape.back(&sides, &last, &gradient, flow);
            Ok(())
        }))
    }
}

#[derive(Clone, Copy)]
struct Shape {
    queries: usize,
    keys: usize,
    width: usize,
    /// Width of a head
    head: usize,
}

/// Queries, keys or values: some columns of an array `[B, T, C]`.
struct Side {
    data: Arc<Buffer>,
    step: Option<usize>,
    start: usize,
    /// Columns of the array.
    stride: usize,
    /// Values of one sequence.
    room: usize,
}

/// One sequence of a [`Side`].
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    start: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// `[T, d]`
    fn head(self, shape: &Shape, head: usize) -> Matrix<'a> {
        let values = &self.values[self.start + head * shape.head..];
        let rows = self.values.len() / self.stride;
        Matrix::within(values, rows, shape.head, self.stride)
    }
}

impl Side {
    fn new(columns: Columns<'_, Value>, batch: usize) -> Self {
        let Value { data, step, .. } = columns.of;
        let (stride, room) = (columns.of.columns(), data.len() / batch);
        Self { data: data.clone(), step: *step, start: columns.start, stride, room }
    }

    fn sequence(&self, sequence: usize) -> Rows<'_> {
        let values = &self.data[sequence * self.room..][..self.room];
        Rows { values, start: self.start, stride: self.stride }
    }
}

/// The last key that a query sees.
enum Last {
    Key,
    Query,
    Of(Vec<u32>),
}

impl Last {
    fn seen(&self, sequence: usize) -> impl Fn(usize, usize) -> usize + Copy {
        let seen = match self {
            Self::Key => Seen::All,
            Self::Query => Seen::Causal,
            Self::Of(last) => Seen::UpTo(last),
        };
        move |query, keys| seen.keys(sequence, query, keys)
    }
}

impl Shape {
    fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// `softmax(q k^T / sqrt(d))` of one head, `[Q, K]`.
    fn shares(
        &self,
        q: Rows<'_>,
        k: Rows<'_>,
        head: usize,
        seen: impl Fn(usize, usize) -> usize,
        shares: &mut [f32],
    ) {
        let scores = MatrixMut::new(shares, self.queries, self.keys);
        let (q, k) = (q.head(self, head), k.head(self, head).t());
        matmul(scores, q, k, self.scale(), false, Threads::One);
        for (query, row) in shares.chunks_exact_mut(self.keys).enumerate() {
            let seen = seen(query, self.keys);
            row[seen..].fill(0.0);
            vectorized(softmax, (&mut row[..seen],));
        }
    }

    /// With P the shares: dV = P^T dO, dP = dO V^T, dS = P (dP - sum(P dP)) / sqrt(d),
    /// dQ = dS K, dK = dS^T Q.
    fn back(&self, sides: &[Side; 3], last: &Last, gradient: &[f32], flow: &mut Flow<'_>) {
        let heads = self.width / self.head;
        // One buffer for each array; columns of one array share it.
        let mut arrays: Vec<Buffer> = Vec::new();
        let mut of = [0; 3];
        for (index, side) in sides.iter().enumerate() {
            let twin = sides[..index].iter().position(|other| Arc::ptr_eq(&other.data, &side.data));
            of[index] = match twin {
                Some(twin) => of[twin],
                None => {
                    arrays.push(flow.arena.take(side.data.len()));
                    arrays.len() - 1
                }
            };
        }
        let mut sequences: Vec<Vec<&mut [f32]>> = Vec::new();
        for array in &mut arrays {
            let batch = gradient.len() / (self.queries * self.width);
            let room = array.len() / batch;
            for (sequence, part) in array.chunks_exact_mut(room).enumerate() {
                match sequences.get_mut(sequence) {
                    Some(parts) => parts.push(part),
                    None => sequences.push(vec![part]),
                }
            }
        }
        let outputs = gradient.par_chunks_exact(self.queries * self.width);
        sequences.par_iter_mut().zip(outputs).enumerate().for_each(|(sequence, (parts, dy))| {
            let [q, k, v] = sides.each_ref().map(|side| side.sequence(sequence));
            let (queries, keys) = (self.queries, self.keys);
            let mut shares = vec![0.0; queries * keys];
            let mut slopes = vec![0.0; queries * keys];
            let dy = Rows { values: dy, start: 0, stride: self.width };
            for head in 0..heads {
                let mut write = |side: usize, a: Matrix<'_>, b: Matrix<'_>| {
                    let (Side { start, stride, .. }, part) = (&sides[side], &mut parts[of[side]]);
                    let rows = part.len() / stride;
                    let values = &mut part[start + head * self.head..];
                    let target = MatrixMut::within(values, rows, self.head, *stride);
                    matmul(target, a, b, 1.0, false, Threads::One);
                };
                self.shares(q, k, head, last.seen(sequence), &mut shares);
                let dy = dy.head(self, head);
                write(2, Matrix::new(&shares, queries, keys).t(), dy);
                let target = MatrixMut::new(&mut slopes, queries, keys);
                matmul(target, dy, v.head(self, head).t(), 1.0, false, Threads::One);
                let rows = shares.chunks_exact(keys).zip(slopes.chunks_exact_mut(keys));
                rows.for_each(|(p, dp)| vectorized(softmax_back, (p, dp, self.scale())));
                let slopes = Matrix::new(&slopes, queries, keys);
                write(0, slopes, k.head(self, head));
                write(1, slopes.t(), q.head(self, head));
            }
        });
        drop(sequences);
        for (index, array) in arrays.into_iter().enumerate() {
            let side = of.iter().position(|&array| array == index).expect("each has a side");
            flow.give(sides[side].step, array);
        }
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    let factor = 1.0 / row.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= factor);
}

/// `dp = scale p (dp - sum(p dp))`
#[inline(always)]
fn softmax_back(p: &[f32], dp: &mut [f32], scale: f32) {
    let dot: f32 = p.iter().zip(&*dp).map(|(p, dp)| p * dp).sum();
    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = scale * p * (*dp - dot));
}

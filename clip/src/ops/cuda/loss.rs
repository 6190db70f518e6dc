//! InfoNCE with its gradient, and the nearest rows of a pool.

use std::{fmt, sync::Arc};

use candle_core::Result;

use super::{
    Launch, Machine, Operand, Precision, Product,
    machine::Chunks,
    store::{floats, zeros},
};

/// Rows of a pool that are compared at a time.
const SLOTS: usize = if cfg!(test) { 3 } else { 8192 };

/// What InfoNCE makes of a batch.
#[derive(Debug)]
pub(crate) struct Loss {
    /// In nats
    pub(crate) value: f32,
    /// The gradient of the logit scale
    pub(crate) scale: f32,
    /// `[B, D]`, that of the images' rows
    pub(crate) image: Vec<f32>,
    /// `[B, D]`, that of the texts' rows
    pub(crate) text: Vec<f32>,
}

/// A machine that compares rows; all arrays are the CPU's.
pub(crate) trait Contrast: fmt::Debug + Send + Sync {
    /// The symmetric cross-entropy of images' and texts' `[B, D]` rows, as `ops::info_nce` has it,
    /// and its gradient; pairs of one of `groups` are no negatives of each other.
    fn info_nce(
        &self,
        rows: [&[f32]; 2],
        count: usize,
        logit_scale: f32,
        groups: Option<&[u32]>,
    ) -> Result<Loss>;

    /// Takes `[P, D]` rows to look through.
    fn keep(&self, rows: &[f32], dim: usize) -> Result<Box<dyn Keys>>;
}

/// Rows on a machine.
pub(crate) trait Keys: fmt::Debug + Send {
    /// Writes over rows from number `first` on.
    fn put(&mut self, first: usize, rows: &[f32]) -> Result<()>;

    /// For each of `[B, D]` queries the nearest of as many rows as there are `groups`, as
    /// `ops::nearest` has it.
    fn nearest(&self, queries: &[f32], own: &[u32], groups: &[u32]) -> Result<Vec<u32>>;
}

impl<M: Machine> Contrast for Arc<M> {
    fn info_nce(
        &self,
        rows: [&[f32]; 2],
        count: usize,
        logit_scale: f32,
        groups: Option<&[u32]>,
    ) -> Result<Loss> {
        let (machine, dim) = (self, rows[0].len() / count);
        assert!(rows.iter().all(|rows| rows.len() == count * dim), "as many images as texts");
        assert!(groups.is_none_or(|groups| groups.len() == count), "a group for each pair");
        let room = |count: usize| machine.take(4 * count);
        let launch = |launch: Launch| machine.launch(Precision::F32, &launch);
        let multiply = |shape, a, b, d: &M::Memory| {
            machine.multiply(Precision::F32, &Product::new(shape, a, b, M::address(d)))
        };
        let [image, text] = rows.map(|rows| machine.upload(rows));
        let (image, text, scale) = (image?, text?, machine.upload(&[logit_scale])?);
        let (images, texts, scale) = (M::address(&image), M::address(&text), M::address(&scale));
        let groups = groups.map(|groups| machine.upload(groups)).transpose()?;
        let groups = groups.as_ref().map_or(0, M::address);
        let cosines = room(count * count)?;
        let (a, b) = (Operand::new(images, dim), Operand::transposed(texts, dim));
        multiply([count, count, dim], a, b, &cosines)?;
        let sums = [room(count)?, room(count)?];
        for (sums, [along, across]) in sums.iter().zip([[count, 1], [1, count]]) {
            let sum = Launch::rows("nce_sums", count).pointer(M::address(&cosines)).pointer(scale);
            let sum = sum.pointer(groups).pointer(M::address(sums));
            launch(sum.count(count).count(along).count(across))?;
        }
        let each = room(2 * count)?;
        let back = Launch::rows("nce_gradient", count).pointer(M::address(&cosines)).pointer(scale);
        let back = back.pointer(groups).pointer(M::address(&sums[0]));
        let back = back.pointer(M::address(&sums[1])).pointer(M::address(&cosines)); // in its place
        launch(back.pointer(M::address(&each)).count(count))?;

        let chunks = Chunks::new(count, 2, Precision::F32);
        let (parts, both) = (room(2 * chunks.count())?, zeros(machine, 2)?);
        let sum = Launch::columns("column_sums", chunks).pointer(M::address(&each));
        launch(sum.pointer(M::address(&parts)).count(count).count(2).count(chunks.rows_of_one()))?;
        let fold = Launch::fold(2).pointer(M::address(&parts)).pointer(M::address(&both));
        launch(fold.count(2).count(2).count(chunks.count()).float(1.0))?;

        let (to_image, to_text) = (room(count * dim)?, room(count * dim)?);
        let g = M::address(&cosines);
        let (a, b) = (Operand::new(g, count), Operand::new(texts, dim));
        multiply([count, dim, count], a, b, &to_image)?;
        let (a, b) = (Operand::transposed(g, count), Operand::new(images, dim));
        multiply([count, dim, count], a, b, &to_text)?;
        let both = floats(&**machine, &both, 0, 2)?;
        Ok(Loss {
            value: both[0],
            scale: both[1],
            image: floats(&**machine, &to_image, 0, count * dim)?,
            text: floats(&**machine, &to_text, 0, count * dim)?,
        })
    }

    fn keep(&self, rows: &[f32], dim: usize) -> Result<Box<dyn Keys>> {
        Ok(Box::new(KeysOn {
            machine: self.clone(),
            count: rows.len() / dim,
            rows: self.upload(rows)?,
            dim,
        }))
    }
}

/// `[count, dim]` floats.
#[derive(Debug)]
struct KeysOn<M: Machine> {
    machine: Arc<M>,
    count: usize,
    rows: M::Memory,
    dim: usize,
}

impl<M: Machine> Keys for KeysOn<M> {
    fn put(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        let count = rows.len();
        assert!(first * self.dim + count <= self.count * self.dim, "rows that are there");
        let rows = self.machine.upload(rows)?;
        let to = M::address(&self.rows) + 4 * (first * self.dim) as u64;
        let copy = Launch::each("narrow", count).pointer(M::address(&rows)).pointer(to);
        self.machine.launch(Precision::F32, &copy.count(count))
    }

    fn nearest(&self, queries: &[f32], own: &[u32], groups: &[u32]) -> Result<Vec<u32>> {
        let (machine, dim, count, filled) = (&self.machine, self.dim, own.len(), groups.len());
        assert!((1..=self.count).contains(&filled), "rows that are there");
        assert_eq!(queries.len(), count * dim, "queries as wide as the rows");
        let (queries, own) = (machine.upload(queries)?, machine.upload(own)?);
        let (groups, mut found) = (machine.upload(groups)?, vec![0u32; count]);
        let (slots, best) = (machine.upload(&found)?, machine.take(4 * count)?);
        // All blocks have one size, so that equal rows get products that are equal to the last bit:
        // the last may begin in the one before.
        let some = SLOTS.min(filled);
        let cosines = machine.take(4 * count * some)?;
        for first in (0..filled).step_by(SLOTS) {
            let first = first.min(filled - some);
            let a = Operand::new(M::address(&queries), dim);
            let rows = M::address(&self.rows) + 4 * (first * dim) as u64;
            let b = Operand::transposed(rows, dim);
            let product = Product::new([count, some, dim], a, b, M::address(&cosines));
            machine.multiply(Precision::F32, &product)?;
            let launch = Launch::rows("nearest", count).pointer(M::address(&cosines));
            let launch = launch.pointer(M::address(&groups)).pointer(M::address(&own));
            let launch = launch.pointer(M::address(&best)).pointer(M::address(&slots));
            machine.launch(Precision::F32, &launch.count(count).count(first).count(some))?;
        }
        machine.read(&slots, 0, bytemuck::cast_slice_mut(&mut found))?;
        Ok(found)
    }
}

//! InfoNCE with its gradient, and the nearest rows of a pool, where the rows are.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Launch, Machine, Operand, Precision, Product, Store, machine::ColumnSums};

/// Slots of a pool that are compared at a time.
const SLOTS: usize = if cfg!(test) { 3 } else { 8192 };

/// What InfoNCE makes of a batch; all of it still on the machine.
#[derive(Debug)]
pub(crate) struct Loss<M: Machine> {
    /// The loss in nats, and the gradient of the logit scale
    pub(crate) values: M::Memory,
    /// `[B, D]` floats
    pub(crate) image: M::Memory,
    /// `[B, D]` floats
    pub(crate) text: M::Memory,
}

fn upload<M: Machine>(machine: &Arc<M>, values: &[u32]) -> Result<M::Memory> {
    let mut memory = machine.take(4 * values.len())?;
    machine.write(&mut memory, bytemuck::cast_slice(values))?;
    Ok(memory)
}

impl<M: Machine> Store<M> {
    /// The symmetric cross-entropy of `[B, D]` rows (floats), as `ops::info_nce` has it. Adds to
    /// the gradient of the logit scale.
    pub(crate) fn info_nce(
        &self,
        image: &M::Memory,
        text: &M::Memory,
        [count, dim]: [usize; 2],
        logit_scale: &Tensor,
        groups: Option<&[u32]>,
    ) -> Result<Loss<M>> {
        let machine = self.machine();
        let floats = |count: usize| machine.take(4 * count);
        let launch = |launch: Launch| machine.launch(Precision::F32, &launch);
        let multiply = |shape, a, b, d: &M::Memory| {
            machine.multiply(Precision::F32, &Product::new(shape, a, b, M::address(d)))
        };
        let scale = self.master(logit_scale)?;
        let groups = groups.map(|groups| upload(machine, groups)).transpose()?;
        let groups = groups.as_ref().map_or(0, M::address);
        let (images, texts) = (M::address(image), M::address(text));
        let cosines = floats(count * count)?;
        let (a, b) = (Operand::new(images, dim), Operand::transposed(texts, dim));
        multiply([count, count, dim], a, b, &cosines)?;
        let sums = [floats(count)?, floats(count)?];
        for (sums, [along, across]) in sums.iter().zip([[count, 1], [1, count]]) {
            let sum = Launch::rows("nce_sums", count).pointer(M::address(&cosines)).pointer(scale);
            let sum = sum.pointer(groups).pointer(M::address(sums));
            launch(sum.count(count).count(along).count(across))?;
        }
        let (gradient, each) = (floats(count * count)?, floats(2 * count)?);
        let back = Launch::rows("nce_gradient", count).pointer(M::address(&cosines)).pointer(scale);
        let back = back.pointer(groups).pointer(M::address(&sums[0]));
        let back = back.pointer(M::address(&sums[1])).pointer(M::address(&gradient));
        launch(back.pointer(M::address(&each)).count(count))?;

        let sums = ColumnSums::new(count, 2, Precision::F32);
        let (parts, values) = (floats(2 * sums.chunks())?, self.zeros(2)?);
        let sum = Launch::columns("column_sums", sums).pointer(M::address(&each));
        launch(sum.pointer(M::address(&parts)).count(count).count(2).count(sums.chunk()))?;
        let fold = |start: u64, count: usize, sum: u64| {
            let fold = Launch::fold(count).pointer(M::address(&parts) + 4 * start).pointer(sum);
            launch(fold.count(count).count(2).count(sums.chunks()).float(1.0))
        };
        fold(0, 2, M::address(&values))?;
        if let Some(sum) = self.gradient(logit_scale)? {
            fold(1, 1, sum)?;
        }
        let (to_image, to_text) = (floats(count * dim)?, floats(count * dim)?);
        let g = M::address(&gradient);
        let (a, b) = (Operand::new(g, count), Operand::new(texts, dim));
        multiply([count, dim, count], a, b, &to_image)?;
        let (a, b) = (Operand::transposed(g, count), Operand::new(images, dim));
        multiply([count, dim, count], a, b, &to_text)?;
        Ok(Loss { values, image: to_image, text: to_text })
    }

    /// For each of `[B, D]` images the slot of the nearest of `filled` rows `[P, D]` (all floats),
    /// of which those of the image's own data-set row are passed over: B numbers, not waited for.
    pub(crate) fn nearest(
        &self,
        images: &M::Memory,
        rows: &[u32],
        pool: &M::Memory,
        owners: &[u32],
        dim: usize,
    ) -> Result<M::Memory> {
        let (machine, count) = (self.machine(), rows.len());
        let (rows, slots) = (upload(machine, rows)?, upload(machine, &vec![0; count])?);
        let filled = owners.len();
        let owners = upload(machine, owners)?;
        let best = machine.take(4 * count)?;
        let cosines = machine.take(4 * count * SLOTS.min(filled))?;
        for first in (0..filled).step_by(SLOTS) {
            let some = SLOTS.min(filled - first);
            let a = Operand::new(M::address(images), dim);
            let b = Operand::transposed(M::address(pool) + 4 * (first * dim) as u64, dim);
            let product = Product::new([count, some, dim], a, b, M::address(&cosines));
            machine.multiply(Precision::F32, &product)?;
            let launch = Launch::rows("nearest", count).pointer(M::address(&cosines));
            let launch = launch.pointer(M::address(&owners)).pointer(M::address(&rows));
            let launch = launch.pointer(M::address(&best)).pointer(M::address(&slots));
            machine.launch(Precision::F32, &launch.count(count).count(first).count(some))?;
        }
        Ok(slots)
    }
}

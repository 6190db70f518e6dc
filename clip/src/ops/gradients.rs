//! The gradient of every parameter, in one buffer that each step uses again.

use std::{collections::HashMap, mem, ops::Range};

use candle_core::{DType, Result, Tensor, TensorId, backprop::GradStore};

use super::Peers;

/// Gradients of parameters, added up over the passes of a step.
///
/// What nobody has written to since [`Gradients::clear`] has no gradient, whatever an earlier step
/// left there. Of a table that is looked up, only the rows that were asked for cost anything.
#[derive(Debug)]
pub struct Gradients {
    values: Vec<f32>,
    entries: Vec<Entry>,
    index: HashMap<TensorId, usize>,
}

#[derive(Debug)]
struct Entry {
    span: Range<usize>,
    /// Values of a row, for [`Gradients::rows`].
    width: usize,
    written: bool,
    other_than_zero: Places,
}

/// Where an entry may hold something other than zeros.
#[derive(Debug)]
enum Places {
    All,
    /// Numbers of rows; a number may come twice.
    Rows(Vec<u32>),
}

impl Gradients {
    /// None yet, for these variables; the number of one is its place in this order.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let (mut entries, mut index, mut end) = (Vec::new(), HashMap::new(), 0);
        for tensor in parameters {
            let span = end..end + tensor.elem_count();
            end = span.end;
            let width = tensor.dims().last().copied().unwrap_or(1);
            index.insert(tensor.id(), entries.len());
            let other_than_zero = Places::Rows(Vec::new());
            entries.push(Entry { span, width, written: false, other_than_zero });
        }
        Self { values: vec![0.0; end], entries, index }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.written = false);
    }

    /// The gradient of parameter `number`, row-major, if it has one.
    pub fn get(&self, number: usize) -> Option<&[f32]> {
        let entry = &self.entries[number];
        entry.written.then(|| &self.values[entry.span.clone()])
    }

    /// The parts of the gradient of parameter `number` that may differ from zero, in order.
    pub fn parts(&self, number: usize) -> Vec<&[f32]> {
        let Some(values) = self.get(number) else { return Vec::new() };
        let entry = &self.entries[number];
        match &entry.other_than_zero {
            Places::All => vec![values],
            Places::Rows(rows) => {
                let mut rows = rows.clone();
                rows.sort_unstable();
                rows.dedup();
                rows.iter()
                    .map(|&row| &values[row as usize * entry.width..][..entry.width])
                    .collect()
            }
        }
    }

    /// Adds what candle found for these parameters, in whatever precision.
    pub fn extend(&mut self, found: &GradStore) -> Result<()> {
        let ids: Vec<TensorId> =
            found.get_ids().copied().filter(|id| self.index.contains_key(id)).collect();
        for id in ids {
            let gradient = found.get_id(id).expect("an id of the store");
            let gradient = gradient.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            self.add(id, 0, &gradient);
        }
        Ok(())
    }

    /// Puts in the place of each gradient its sum over all ranks, which have one of the same
    /// parameters. Of the numbers that do not count here, zeros are added.
    pub fn sum_over(&mut self, peers: &dyn Peers, counts: impl Fn(usize) -> bool) {
        let mut run = 0..0; // neighbors are summed by one call
        for (number, entry) in self.entries.iter_mut().enumerate().filter(|(_, e)| e.written) {
            entry.other_than_zero = Places::All; // in the rows of other ranks, too
            if !counts(number) {
                self.values[entry.span.clone()].fill(0.0);
            }
            if run.end != entry.span.start {
                peers.sum(&mut self.values[run]);
                run = entry.span.start..entry.span.start;
            }
            run.end = entry.span.end;
        }
        peers.sum(&mut self.values[run]);
    }

    /// Whether this is one of the parameters.
    pub(super) fn has(&self, parameter: TensorId) -> bool {
        self.index.contains_key(&parameter)
    }

    /// Adds to a part of a gradient, from its value number `start` on.
    pub(super) fn add(&mut self, parameter: TensorId, start: usize, gradient: &[f32]) {
        if let Some(sum) = self.sum(parameter) {
            super::cpu::add(gradient, &mut sum[start..][..gradient.len()]);
        }
    }

    /// A gradient that is added to: zeros at first.
    pub(super) fn sum(&mut self, parameter: TensorId) -> Option<&mut [f32]> {
        let (values, add) = self.target(parameter)?;
        if !add {
            values.fill(0.0);
        }
        Some(values)
    }

    /// All of a gradient, and whether it is added to: if not, all of it must be written.
    pub(super) fn target(&mut self, parameter: TensorId) -> Option<(&mut [f32], bool)> {
        let entry = &mut self.entries[*self.index.get(&parameter)?];
        entry.other_than_zero = Places::All;
        let add = mem::replace(&mut entry.written, true);
        Some((&mut self.values[entry.span.clone()], add))
    }

    /// The gradient of a table, to whose rows `ids` is added.
    pub(super) fn rows(&mut self, table: TensorId, ids: &[u32]) -> Option<&mut [f32]> {
        let entry = &mut self.entries[*self.index.get(&table)?];
        let values = &mut self.values[entry.span.clone()];
        if !mem::replace(&mut entry.written, true) {
            match mem::replace(&mut entry.other_than_zero, Places::Rows(Vec::new())) {
                Places::All => values.fill(0.0),
                Places::Rows(old) => old.iter().for_each(|&row| {
                    values[row as usize * entry.width..][..entry.width].fill(0.0);
                }),
            }
        }
        if let Places::Rows(rows) = &mut entry.other_than_zero {
            rows.extend_from_slice(ids);
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn zeros(shape: &[usize]) -> Var {
        Var::zeros(shape, DType::F32, &Device::Cpu).expect("memory")
    }

    #[test]
    fn what_is_cleared_is_absent_and_begins_at_zero() {
        let (weight, table) = (zeros(&[2]), zeros(&[3, 2]));
        let mut gradients = Gradients::new([weight.as_tensor(), table.as_tensor()]);
        for round in 0..3 {
            assert_eq!((gradients.get(0), gradients.get(1)), (None, None), "round {round}");
            gradients.add(weight.id(), 1, &[4.0]);
            gradients.add(weight.id(), 0, &[1.0, 1.0]);
            assert_eq!(gradients.get(0), Some(&[1.0, 5.0][..]));
            let row = round % 2; // another row each time: what the last one left must go
            gradients.rows(table.id(), &[row as u32]).expect("a parameter")[2 * row] += 7.0;
            let sum: f32 = gradients.get(1).expect("written").iter().sum();
            assert_eq!(sum, 7.0);
            assert_eq!(gradients.parts(1), [[7.0, 0.0]]);
            gradients.clear();
        }
    }

    #[test]
    fn rows_and_the_whole_add_up() {
        let table = zeros(&[2, 2]);
        let mut gradients = Gradients::new([table.as_tensor()]);
        gradients.rows(table.id(), &[1, 1]).expect("a parameter")[3] += 1.0;
        gradients.add(table.id(), 0, &[1.0; 4]);
        gradients.rows(table.id(), &[0]).expect("a parameter")[0] += 1.0;
        assert_eq!(gradients.parts(0), [[2.0, 1.0, 1.0, 2.0]]);
        gradients.clear();
        gradients.rows(table.id(), &[0]).expect("a parameter")[1] += 1.0;
        assert_eq!(gradients.get(0), Some(&[0.0, 1.0, 0.0, 0.0][..]));
    }

    /// As if each other rank had the same.
    #[derive(Debug)]
    struct Alike;

    impl Peers for Alike {
        fn ranks(&self) -> usize {
            3
        }

        fn sum(&self, values: &mut [f32]) {
            values.iter_mut().for_each(|value| *value *= 3.0);
        }
    }

    #[test]
    fn what_ranks_have_is_summed_once_and_what_rests_stays_absent() {
        let all = [zeros(&[2]), zeros(&[2, 1]), zeros(&[1]), zeros(&[1])];
        let mut gradients = Gradients::new(all.iter().map(|var| var.as_tensor()));
        gradients.add(all[0].id(), 0, &[1.0, 2.0]);
        gradients.rows(all[1].id(), &[1]).expect("a parameter")[1] += 4.0;
        gradients.add(all[3].id(), 0, &[5.0]);
        gradients.sum_over(&Alike, |number| number != 3);
        let found: Vec<_> = (0..4).map(|number| gradients.get(number)).collect();
        assert_eq!(found, [Some(&[3.0, 6.0][..]), Some(&[0.0, 12.0][..]), None, Some(&[0.0][..])]);
        assert_eq!(gradients.parts(1), [[0.0, 12.0]]);
    }

    #[test]
    fn what_candle_found_is_added() -> Result<()> {
        let (weight, other) = (zeros(&[2]), zeros(&[2]));
        let mut gradients = Gradients::new([weight.as_tensor()]);
        let found = (weight.as_tensor() * 3.0)?.add(&other)?.sum_all()?.backward()?;
        gradients.extend(&found)?;
        gradients.extend(&found)?;
        assert_eq!(gradients.get(0), Some(&[6.0, 6.0][..]));
        Ok(())
    }
}

//! The pool of caption embeddings that RoCLIP matches images against.

use candle_core::{DType, Device, Result, Tensor};
use clip::ops;

use crate::state::State;

/// The last `capacity` caption embeddings; the oldest is overwritten first.
///
/// `next < capacity`; `filled <= capacity`; while `filled < capacity`, `next == filled`.
#[derive(Debug)]
pub struct Pool {
    /// `[P, D]`, unit rows, constants
    rows: Tensor,
    /// Data-set row of each slot
    owners: Vec<u32>,
    /// Number of each slot's caption: equal texts have equal numbers
    captions: Vec<u32>,
    next: usize,
    filled: usize,
}

/// The nearest pooled caption of each image of a batch.
#[derive(Debug)]
pub struct Neighbors {
    /// `[B, D]`, unit rows, constants
    pub rows: Tensor,
    /// Slot of each
    pub slots: Vec<u32>,
    /// Number of each one's caption
    pub captions: Vec<u32>,
    /// Data-set row of each one's caption; none if it came from no row
    pub owners: Vec<Option<u32>>,
}

/// Everything that a pool holds, for checkpoints.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// `[P, D]`
    pub rows: Tensor,
    /// Data-set row of each slot
    pub owners: Vec<u32>,
    /// Caption of each slot
    pub captions: Vec<u32>,
    /// Slot that is written next
    pub next: usize,
    /// Slots in use
    pub filled: usize,
}

impl PoolState {
    /// Under the names of a checkpoint.
    pub fn named(self) -> Result<State> {
        let mut state = State::default();
        state.floats(ROWS, self.rows.dims(), self.rows.flatten_all()?.to_vec1()?);
        state.numbers(OWNERS, self.owners);
        state.numbers(CAPTIONS, self.captions);
        state.numbers(PLACE, vec![self.next as u32, self.filled as u32]);
        Ok(state)
    }

    /// What [`PoolState::named`] gave; `None` if it is anything else.
    pub fn from_named(mut state: State, device: &Device) -> Option<Self> {
        let rows = state.take_floats(ROWS)?;
        let [next, filled] = state.take_numbers(PLACE)?.try_into().ok()?;
        let (owners, captions) = (state.take_numbers(OWNERS)?, state.take_numbers(CAPTIONS)?);
        let rows = Tensor::from_vec(rows.values, rows.shape, device).ok()?;
        let (next, filled) = (next as usize, filled as usize);
        state.is_empty().then_some(Self { rows, owners, captions, next, filled })
    }
}

const ROWS: &str = "pool/rows";
const OWNERS: &str = "pool/owners";
const CAPTIONS: &str = "pool/captions";
/// Next slot and slots in use.
const PLACE: &str = "pool/place";

/// No data-set row has this number.
const NOBODY: u32 = u32::MAX;

impl Pool {
    /// An empty pool of `capacity` rows of width `dim`.
    pub fn new(capacity: usize, dim: usize, device: &Device) -> Result<Self> {
        assert!(capacity > 0, "`config` asks for a share above 0");
        Ok(Self {
            rows: Tensor::zeros((capacity, dim), DType::F32, device)?,
            owners: vec![NOBODY; capacity],
            captions: vec![NOBODY; capacity],
            next: 0,
            filled: 0,
        })
    }

    /// Rows that it can hold.
    pub fn capacity(&self) -> usize {
        self.owners.len()
    }

    /// Where the rows live.
    pub fn device(&self) -> &Device {
        self.rows.device()
    }

    /// Rows that it holds.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Takes in the captions of a batch: `[B, D]` unit rows, their data-set rows and texts. Of a
    /// batch larger than the pool the last rows stay.
    pub fn enqueue(&mut self, rows: &Tensor, owners: &[u32], captions: &[u32]) -> Result<()> {
        let capacity = self.capacity();
        let skipped = owners.len().saturating_sub(capacity);
        let rows = rows.detach();
        let mut from = skipped;
        while from < owners.len() {
            let count = (owners.len() - from).min(capacity - self.next);
            self.rows.slice_set(&rows.narrow(0, from, count)?.contiguous()?, 0, self.next)?;
            self.owners[self.next..][..count].copy_from_slice(&owners[from..][..count]);
            self.captions[self.next..][..count].copy_from_slice(&captions[from..][..count]);
            self.next = (self.next + count) % capacity;
            self.filled = (self.filled + count).min(capacity);
            from += count;
        }
        Ok(())
    }

    /// The nearest pooled caption of each image: `[B, D]` unit rows.
    ///
    /// A caption that came from the image's own data-set row is passed over: it may be the
    /// poisoned one (it could be met while the pool still holds the previous epoch).
    pub fn nearest(&self, image: &Tensor, rows: &[u32]) -> Result<Neighbors> {
        assert!(self.filled > 0, "`config` asks for a warm-up before the first match");
        let pooled = self.rows.narrow(0, 0, self.filled)?;
        let slots = ops::nearest(image, &pooled, rows, &self.owners[..self.filled])?;
        let captions = slots.iter().map(|&slot| self.captions[slot as usize]).collect();
        let index = Tensor::new(slots.as_slice(), self.rows.device())?;
        let owner = |&slot: &u32| Some(self.owners[slot as usize]).filter(|&row| row != NOBODY);
        let owners = slots.iter().map(owner).collect();
        Ok(Neighbors { rows: self.rows.index_select(&index, 0)?, slots, captions, owners })
    }

    /// A copy of everything.
    pub fn state(&self) -> Result<PoolState> {
        Ok(PoolState {
            rows: self.rows.copy()?,
            owners: self.owners.clone(),
            captions: self.captions.clone(),
            next: self.next,
            filled: self.filled,
        })
    }

    /// The pool that `state` was taken from; `None` if the parts do not fit together.
    pub fn from_state(state: PoolState) -> Option<Self> {
        let PoolState { rows, owners, captions, next, filled } = state;
        let capacity = owners.len();
        let fits = rows.dim(0).ok() == Some(capacity)
            && captions.len() == capacity
            && next < capacity
            && filled <= capacity
            && (filled == capacity || next == filled);
        fits.then_some(Self { rows, owners, captions, next, filled })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn column(values: impl Iterator<Item = u32>) -> Result<(Tensor, Vec<u32>)> {
        let numbers: Vec<u32> = values.collect();
        let rows: Vec<f32> = numbers.iter().map(|&n| n as f32).collect();
        Ok((Tensor::from_vec(rows, (numbers.len(), 1), &Device::Cpu)?, numbers))
    }

    fn oldest_first(pool: &Pool) -> Result<Vec<u32>> {
        let rows = pool.rows.flatten_all()?.to_vec1::<f32>()?;
        let start = if pool.filled < pool.capacity() { 0 } else { pool.next };
        let slots = (0..pool.filled).map(|age| (start + age) % pool.capacity());
        Ok(slots
            .inspect(|&slot| assert_eq!(rows[slot] as u32, pool.owners[slot]))
            .map(|slot| pool.owners[slot])
            .collect())
    }

    proptest! {
        #[test]
        fn a_pool_is_a_bounded_queue(capacity in 1usize..40, sizes in vec(1u32..60, 0..20)) {
            let check = || -> Result<()> {
                let (mut pool, mut model) = (Pool::new(capacity, 1, &Device::Cpu)?, VecDeque::new());
                for (step, size) in sizes.iter().enumerate() {
                    let (rows, numbers) = column((0..*size).map(|i| 100 * step as u32 + i))?;
                    pool.enqueue(&rows, &numbers, &numbers)?;
                    model.extend(numbers);
                    model.drain(..model.len().saturating_sub(capacity));
                    assert_eq!(oldest_first(&pool)?, Vec::from(model.clone()));
                }
                Ok(())
            };
            check().expect("candle can");
        }
    }

    #[test]
    fn an_image_never_meets_the_caption_of_its_own_row() -> Result<()> {
        let mut pool = Pool::new(4, 2, &Device::Cpu)?;
        let rows = Tensor::new(&[[1f32, 0.0], [0.6, 0.8], [0.0, 1.0]], &Device::Cpu)?;
        pool.enqueue(&rows, &[10, 11, 12], &[0, 1, 2])?;
        let image = Tensor::new(&[[1f32, 0.0], [1.0, 0.0]], &Device::Cpu)?;
        let found = pool.nearest(&image, &[10, 99])?;
        assert_eq!((found.slots, found.captions), (vec![1, 0], vec![1, 0]));
        assert_eq!(found.rows.to_vec2::<f32>()?, [[0.6, 0.8], [1.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn pooled_rows_are_constants() -> Result<()> {
        let text = candle_core::Var::new(&[[1f32, 0.0]], &Device::Cpu)?;
        let image = candle_core::Var::new(&[[1f32, 0.0]], &Device::Cpu)?;
        let mut pool = Pool::new(1, 2, &Device::Cpu)?;
        pool.enqueue(text.as_tensor(), &[0], &[0])?;
        let found = pool.nearest(image.as_tensor(), &[1])?;
        let grads = (found.rows * image.as_tensor())?.sum_all()?.backward()?;
        assert!(grads.get(&text).is_none());
        assert!(grads.get(&image).is_some());
        Ok(())
    }
}

//! A pool of embeddings to look partners up in: RoCLIP does, and forms of SafeCLIP and the sieve.

use std::cell::OnceCell;

use candle_core::{DType, Device, Result, Tensor};
use clip::ops::{Engine, Kept};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{config::Wrap, state::State};

/// The last `capacity` embeddings of captions, or of images; the oldest is overwritten first.
///
/// `next < capacity`; `filled <= capacity`; while `filled < capacity`, `next == filled`.
#[derive(Debug)]
pub struct Pool {
    /// `[P, D]`, unit rows, constants
    rows: Tensor,
    /// What a found row is multiplied by; `None` if all are to be found as unit rows
    lengths: Option<Vec<f32>>,
    /// Data-set row of each slot
    owners: Vec<u32>,
    /// Number of each slot's text, or data-set row of its picture: equal ones are one
    kinds: Vec<u32>,
    next: usize,
    filled: usize,
    /// The rows where they are looked up, from the first look on
    kept: OnceCell<Kept>,
}

/// The nearest pooled row of each of a batch.
#[derive(Debug)]
pub struct Neighbors {
    /// `[B, D]`, constants: unit rows, but for noise
    pub rows: Tensor,
    /// Slot of each
    pub slots: Vec<u32>,
    /// Number of each one's text, or data-set row of its picture
    pub kinds: Vec<u32>,
    /// Data-set row of each one; none if it is noise
    pub owners: Vec<Option<u32>>,
}

/// Parts of a pool in a checkpoint, after the pool's name.
const ROWS: &str = "rows";
const LENGTHS: &str = "lengths";
const OWNERS: &str = "owners";
const KINDS: &str = "kinds";
/// Next slot and slots in use.
const PLACE: &str = "place";

/// No data-set row has this number: noise does.
const NOBODY: u32 = u32::MAX;
/// Nor this one: who passes over nothing.
const NO_OWN: u32 = u32::MAX - 1;

impl Pool {
    /// A pool of `capacity` rows of width `dim`: empty, or full of noise that (seed, stream) draw.
    ///
    /// Noise is normal with unit variance per number, so about `sqrt(dim)` long. It is compared by
    /// its direction and found as it is: what RoCLIP's released code comes to.
    pub fn new(
        capacity: usize,
        dim: usize,
        noise: Option<(u64, u64)>,
        device: &Device,
    ) -> Result<Self> {
        assert!(capacity > 0, "`config` asks for a row at least");
        let mut pool = Self {
            rows: Tensor::zeros((capacity, dim), DType::F32, device)?,
            lengths: None,
            owners: vec![NOBODY; capacity],
            kinds: (0..capacity as u32).map(|slot| NO_OWN - 1 - slot).collect(), // all differ
            next: 0,
            filled: 0,
            kept: OnceCell::new(),
        };
        if let Some((seed, stream)) = noise {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(NOISE | stream);
            let normal = StandardNormal.sample_iter(&mut rng).take(capacity * dim).collect();
            let noise: Tensor = Tensor::from_vec::<_, f32>(normal, (capacity, dim), device)?;
            let lengths = noise.sqr()?.sum_keepdim(1)?.sqrt()?; // [P, 1]
            pool.rows = noise.broadcast_div(&lengths)?;
            pool.lengths = Some(lengths.flatten_all()?.to_vec1()?);
            pool.filled = capacity;
        }
        Ok(pool)
    }

    /// Rows that it can hold.
    pub fn capacity(&self) -> usize {
        self.owners.len()
    }

    /// Rows that it holds.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// `[P, D]`, unit rows: those that it holds.
    pub fn rows(&self) -> Result<Tensor> {
        self.rows.narrow(0, 0, self.filled)
    }

    /// Number of the text or picture of each row that it holds.
    pub fn kinds(&self) -> &[u32] {
        &self.kinds[..self.filled]
    }

    /// Takes in a batch: `[B, D]` unit rows, their data-set rows, and the numbers of their texts or
    /// pictures. Of a batch larger than the pool the last rows stay, unless the end of the pool
    /// drops what is left of a batch.
    pub fn enqueue(
        &mut self,
        rows: &Tensor,
        owners: &[u32],
        kinds: &[u32],
        wrap: Wrap,
    ) -> Result<()> {
        let capacity = self.capacity();
        let rows = rows.detach();
        let skipped = owners.len().saturating_sub(capacity);
        let mut from = if wrap == Wrap::Drops { 0 } else { skipped };
        while from < owners.len() {
            let count = (owners.len() - from).min(capacity - self.next);
            let some = rows.narrow(0, from, count)?.contiguous()?;
            self.rows.slice_set(&some, 0, self.next)?;
            if let Some(kept) = self.kept.get_mut() {
                kept.put(self.next, &some)?;
            }
            self.owners[self.next..][..count].copy_from_slice(&owners[from..][..count]);
            self.kinds[self.next..][..count].copy_from_slice(&kinds[from..][..count]);
            if let Some(lengths) = &mut self.lengths {
                lengths[self.next..][..count].fill(1.0);
            }
            self.next = (self.next + count) % capacity;
            self.filled = (self.filled + count).min(capacity);
            from += count;
            if self.next == 0 && wrap == Wrap::Drops {
                break;
            }
        }
        Ok(())
    }

    /// The nearest pooled row of each of a batch: `[B, D]` unit rows.
    ///
    /// They are looked up where the first engine that asks computes, from then on.
    ///
    /// What came from a row's own data-set row, one of `own`, is passed over: its caption may be the
    /// poisoned one (it could be met while the pool still holds the previous epoch).
    pub fn nearest(
        &self,
        engine: &Engine,
        batch: &Tensor,
        own: Option<&[u32]>,
    ) -> Result<Neighbors> {
        assert!(self.filled > 0, "`config` asks for a warm-up before the first match");
        let nothing = vec![NO_OWN; batch.dim(0)?];
        let own = own.unwrap_or(&nothing);
        if self.kept.get().is_none() {
            let _ = self.kept.set(engine.keep(&self.rows)?);
        }
        let kept = self.kept.get().expect("set just now");
        let slots = kept.nearest(batch, &self.rows()?, own, &self.owners[..self.filled])?;
        let kinds = slots.iter().map(|&slot| self.kinds[slot as usize]).collect();
        let index = Tensor::new(slots.as_slice(), self.rows.device())?;
        let mut rows = self.rows.index_select(&index, 0)?;
        if let Some(lengths) = &self.lengths {
            let lengths: Vec<f32> = slots.iter().map(|&slot| lengths[slot as usize]).collect();
            rows = rows.broadcast_mul(&Tensor::new(lengths, rows.device())?.unsqueeze(1)?)?;
        }
        let owner = |&slot: &u32| Some(self.owners[slot as usize]).filter(|&row| row != NOBODY);
        let owners = slots.iter().map(owner).collect();
        Ok(Neighbors { rows, slots, kinds, owners })
    }

    /// Puts everything into `state`, under names that begin with `name`.
    pub fn keep(&self, name: &str, state: &mut State) -> Result<()> {
        let named = |part| format!("{name}/{part}");
        state.floats(&named(ROWS), self.rows.dims(), self.rows.flatten_all()?.to_vec1()?);
        if let Some(lengths) = &self.lengths {
            state.floats(&named(LENGTHS), &[lengths.len()], lengths.clone());
        }
        state.numbers(&named(OWNERS), self.owners.clone());
        state.numbers(&named(KINDS), self.kinds.clone());
        state.numbers(&named(PLACE), vec![self.next as u32, self.filled as u32]);
        Ok(())
    }

    /// Takes out what [`Pool::keep`] put in; false, and the pool as it was, if it does not fit.
    pub fn restore(&mut self, name: &str, state: &mut State) -> bool {
        self.restored(name, state).map(|pool| *self = pool).is_some()
    }

    fn restored(&self, name: &str, state: &mut State) -> Option<Self> {
        let named = |part| format!("{name}/{part}");
        let rows = state.take_floats(&named(ROWS))?;
        let [next, filled] = state.take_numbers(&named(PLACE))?.try_into().ok()?;
        let (next, filled, capacity) = (next as usize, filled as usize, self.capacity());
        let owners = state.take_numbers(&named(OWNERS))?;
        let kinds = state.take_numbers(&named(KINDS))?;
        let lengths = state.take_floats(&named(LENGTHS)).map(|lengths| lengths.values);
        let fits = rows.shape == self.rows.dims()
            && [owners.len(), kinds.len()] == [capacity; 2]
            && lengths.as_ref().map(Vec::len) == self.lengths.as_ref().map(Vec::len)
            && next < capacity
            && (1..=capacity).contains(&filled)
            && (filled == capacity || next == filled);
        let rows = Tensor::from_vec(rows.values, rows.shape, self.rows.device()).ok()?;
        let kept = OnceCell::new();
        fits.then_some(Self { rows, lengths, owners, kinds, next, filled, kept })
    }
}

/// Random streams of noise, beside all others.
const NOISE: u64 = 5 << 61;

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
                let (mut pool, mut model) = (Pool::new(capacity, 1, None, &Device::Cpu)?, VecDeque::new());
                for (step, size) in sizes.iter().enumerate() {
                    let (rows, numbers) = column((0..*size).map(|i| 100 * step as u32 + i))?;
                    pool.enqueue(&rows, &numbers, &numbers, Wrap::Continues)?;
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
        let mut pool = Pool::new(4, 2, None, &Device::Cpu)?;
        let rows = Tensor::new(&[[1f32, 0.0], [0.6, 0.8], [0.0, 1.0]], &Device::Cpu)?;
        pool.enqueue(&rows, &[10, 11, 12], &[0, 1, 2], Wrap::Continues)?;
        let image = Tensor::new(&[[1f32, 0.0], [1.0, 0.0]], &Device::Cpu)?;
        let found = pool.nearest(&Engine::default(), &image, Some(&[10, 99]))?;
        assert_eq!((found.slots, found.kinds), (vec![1, 0], vec![1, 0]));
        assert_eq!(found.rows.to_vec2::<f32>()?, [[0.6, 0.8], [1.0, 0.0]]);
        assert_eq!(pool.nearest(&Engine::default(), &image, None)?.slots, [0, 0], "unless it may");
        Ok(())
    }

    #[test]
    fn pooled_rows_are_constants() -> Result<()> {
        let text = candle_core::Var::new(&[[1f32, 0.0]], &Device::Cpu)?;
        let image = candle_core::Var::new(&[[1f32, 0.0]], &Device::Cpu)?;
        let mut pool = Pool::new(1, 2, None, &Device::Cpu)?;
        pool.enqueue(text.as_tensor(), &[0], &[0], Wrap::Continues)?;
        let found = pool.nearest(&Engine::default(), image.as_tensor(), Some(&[1]))?;
        let grads = (found.rows * image.as_tensor())?.sum_all()?.backward()?;
        assert!(grads.get(&text).is_none());
        assert!(grads.get(&image).is_some());
        Ok(())
    }

    #[test]
    fn at_the_end_of_the_pool_a_batch_goes_on_or_is_dropped() -> Result<()> {
        let check = |wrap, expected: [u32; 4]| -> Result<()> {
            let mut pool = Pool::new(4, 1, None, &Device::Cpu)?;
            for first in [0, 3] {
                let (rows, numbers) = column(first..first + 3)?;
                pool.enqueue(&rows, &numbers, &numbers, wrap)?;
            }
            let (rows, numbers) = column(6..7)?;
            pool.enqueue(&rows, &numbers, &numbers, wrap)?;
            assert_eq!(pool.owners, expected);
            Ok(())
        };
        check(Wrap::Continues, [4, 5, 6, 3])?;
        check(Wrap::Drops, [6, 1, 2, 3])
    }

    /// RoCLIP's released code compares directions and returns what it compared as it was.
    #[test]
    fn noise_is_compared_by_direction_and_found_as_long_as_it_is() -> Result<()> {
        let (dim, capacity) = (256, 50);
        let mut pool = Pool::new(capacity, dim, Some((7, 0)), &Device::Cpu)?;
        assert_eq!(pool.filled(), capacity);
        let other = Pool::new(capacity, dim, Some((7, 1)), &Device::Cpu)?;
        let first = pool.rows()?.narrow(0, 0, 1)?.copy()?;
        assert_ne!(first.to_vec2::<f32>()?, other.rows()?.narrow(0, 0, 1)?.to_vec2::<f32>()?);
        let found = pool.nearest(&Engine::default(), &first, Some(&[0]))?;
        assert_eq!((found.slots, pool.owners[0]), (vec![0], NOBODY));
        let length = |found: &Tensor| found.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
        assert!((length(&found.rows)? - 16.0).abs() < 3.0, "about the root of the width");
        pool.enqueue(&first, &[3], &[4], Wrap::Continues)?;
        let found = pool.nearest(&Engine::default(), &first, None)?;
        assert_eq!((found.slots, found.kinds), (vec![0], vec![4]));
        assert!((length(&found.rows)? - 1.0).abs() < 1e-5);
        Ok(())
    }

    #[test]
    fn a_pool_comes_back_from_a_checkpoint_and_another_does_not() -> Result<()> {
        for noise in [None, Some((7, 0))] {
            let new = |capacity, noise| Pool::new(capacity, 1, noise, &Device::Cpu);
            let mut pool = new(5, noise)?;
            let (rows, numbers) = column(0..3)?;
            pool.enqueue(&rows, &numbers, &numbers, Wrap::Continues)?;
            let mut state = State::default();
            pool.keep("pool", &mut state)?;
            let mut back = new(5, noise)?;
            assert!(back.restore("pool", &mut state.clone()));
            let mut again = State::default();
            back.keep("pool", &mut again)?;
            assert_eq!(again, state);
            assert!(!new(4, noise)?.restore("pool", &mut state.clone()));
            assert!(!new(5, noise)?.restore("images", &mut state.clone()));
            let other = if noise.is_none() { Some((7, 0)) } else { None };
            assert!(!new(5, other)?.restore("pool", &mut state));
        }
        Ok(())
    }
}

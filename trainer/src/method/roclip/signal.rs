//! A start of matching that is measured: whether images find captions like their own.

use candle_core::{DType, Tensor};

use super::Pairs;
use crate::{error::Result, pool::Pool, state::State};

/// Pooled captions that are compared at one time.
const BLOCK: usize = 4096;

/// Waits until images find captions like their own.
///
/// An image's share is that of the pooled captions that are no closer to its own caption than the
/// one that it finds is. A tower that knows nothing may have a high one: all images find one
/// caption in the middle, which is close to all. So the share with the caption that *another* image
/// finds is taken off: (a - b) / (1 - b), means of a batch, is 0 where images find nothing of their
/// own. It needs no labels, and few poisoned pairs move the means by no more than their share.
#[derive(Debug)]
pub(super) struct Signal {
    least: f64,
    /// Agreement of the batches of the epoch so far: its sum, and their number.
    sum: f64,
    count: u32,
    /// The first epoch that may be matched.
    given: Option<u32>,
}

impl Signal {
    /// Given once the mean agreement of an epoch is at `least`.
    pub(super) fn new(least: f64) -> Self {
        Self { least, sum: 0.0, count: 0, given: None }
    }

    /// The first epoch that may be matched, once it is known.
    pub(super) fn given(&self) -> Option<u32> {
        self.given
    }

    /// Looks at a batch of plain training, before it enters the pool; its agreement. `None` while
    /// the pool is not full, and once the signal is given.
    pub(super) fn see(&mut self, pool: &Pool, pairs: &Pairs) -> Result<Option<f32>> {
        let count = pairs.rows.len();
        if self.given.is_some() || pool.filled() < pool.capacity() || count < 2 {
            return Ok(None);
        }
        let found = pool.nearest(&pairs.engine, &pairs.image, Some(&pairs.rows))?.rows;
        let next: Vec<u32> = (0..count as u32).map(|at| (at + 1) % count as u32).collect();
        let others = found.index_select(&Tensor::new(next, found.device())?, 0)?;
        let text = pairs.text.detach();
        let near = |found: Tensor| -> Result<Tensor> { Ok((&text * found)?.sum_keepdim(1)?) };
        let (own, other) = (near(found)?, near(others)?); // [B, 1]
        let (mut at_own, mut at_other) = (0.0, 0.0);
        let rows = pool.rows()?;
        for from in (0..pool.filled()).step_by(BLOCK) {
            let block = rows.narrow(0, from, BLOCK.min(pool.filled() - from))?;
            let all = text.matmul(&block.t()?)?; // [B, BLOCK]
            let no_closer = |than: &Tensor| -> Result<f64> {
                let one = all.broadcast_le(than)?.to_dtype(DType::F32)?;
                Ok(f64::from(one.sum_all()?.to_scalar::<f32>()?))
            };
            at_own += no_closer(&own)?;
            at_other += no_closer(&other)?;
        }
        let pairs = (count * pool.filled()) as f64;
        let (own, other) = (at_own / pairs, at_other / pairs);
        let agreement = if other < 1.0 { (own - other) / (1.0 - other) } else { 0.0 };
        self.sum += agreement;
        self.count += 1;
        Ok(Some(agreement as f32))
    }

    /// Comes before each epoch, with what the one before has shown.
    pub(super) fn begin(&mut self, epoch: u32) {
        if self.count > 0 && self.sum / f64::from(self.count) >= self.least {
            self.given.get_or_insert(epoch);
        }
        (self.sum, self.count) = (0.0, 0);
    }

    pub(super) fn keep(&self, state: &mut State) {
        let bits = self.sum.to_bits();
        let (low, high) = (bits as u32, (bits >> 32) as u32);
        state.numbers(SIGNAL, vec![low, high, self.count, self.given.unwrap_or(0)]);
    }

    pub(super) fn restore(&mut self, state: &mut State) -> bool {
        let Some(Ok([low, high, count, given])) =
            state.take_numbers(SIGNAL).map(<[u32; 4]>::try_from)
        else {
            return false;
        };
        self.sum = f64::from_bits(u64::from(low) | u64::from(high) << 32);
        (self.count, self.given) = (count, (given > 0).then_some(given));
        self.sum.is_finite()
    }
}

const SIGNAL: &str = "signal";

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use clip::ops::Engine;

    use crate::config::Wrap;

    #[test]
    fn it_waits_for_images_that_find_captions_like_their_own() -> Result<()> {
        let rows = |rows: &[[f32; 2]]| {
            let values: Vec<f32> = rows.concat();
            Tensor::from_vec(values, (rows.len(), 2), &Device::Cpu)
        };
        let mut pool = Pool::new(4, 2, None, &Device::Cpu)?;
        let captions = rows(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])?;
        let pairs = |image, text| Pairs {
            image,
            text,
            engine: Engine::default(),
            second: None,
            rows: vec![8, 9],
            captions: vec![8, 9],
            epoch: 1,
            step: 0,
        };
        let text = rows(&[[1.0, 0.0], [0.0, 1.0]])?;
        let lost = pairs(rows(&[[-1.0, 0.0], [0.0, -1.0]])?, text.clone());
        let hub = pairs(rows(&[[0.6, 0.8], [0.6, 0.8]])?, text.clone());
        let known = pairs(text.clone(), text);
        let mut signal = Signal::new(0.9);
        assert_eq!(signal.see(&pool, &lost)?, None, "nothing to find yet");
        pool.enqueue(&captions, &[0, 1, 2, 3], &[0, 1, 2, 3], Wrap::Continues)?;
        // Each finds the farthest of four captions, where another finds one in the middle.
        let agreement = |found: Option<f32>| found.expect("the pool is full");
        assert!((agreement(signal.see(&pool, &lost)?) - (0.25 - 0.75) / 0.25).abs() < 1e-6);
        assert_eq!(signal.see(&pool, &hub)?, Some(0.0), "one caption for all");
        signal.begin(2);
        assert_eq!(signal.given(), None);
        assert_eq!(signal.see(&pool, &known)?, Some(1.0));
        let mut state = State::default();
        signal.keep(&mut state);
        let mut other = Signal::new(0.9);
        assert!(other.restore(&mut state));
        other.begin(3);
        other.begin(4);
        assert_eq!(other.given(), Some(3));
        assert!(!other.restore(&mut state), "nothing left");
        Ok(())
    }
}

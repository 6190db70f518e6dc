//! A start of matching that is measured: whether images find captions like their own.

use candle_core::DType;

use super::Pairs;
use crate::{error::Result, pool::Pool, state::State};

/// Waits until the caption that an image finds in the pool is closer to the image's own caption than
/// most others of the pool are. Half of them where the towers know nothing; it needs no labels, and
/// few poisoned pairs move the mean by no more than their share.
#[derive(Debug)]
pub(super) struct Signal {
    least: f64,
    /// Shares of the epoch so far: their sum and number.
    sum: f64,
    count: u32,
    is_given: bool,
}

impl Signal {
    /// Given once the mean share of an epoch is at `least`.
    pub(super) fn new(least: f64) -> Self {
        Self { least, sum: 0.0, count: 0, is_given: false }
    }

    /// Whether matching may begin.
    pub(super) fn is_given(&self) -> bool {
        self.is_given
    }

    /// Looks at a batch of plain training, before it enters the pool; the mean over its images of the
    /// share of pooled captions that are no closer to the image's own one than the found one is.
    /// `None` while the pool is not full.
    pub(super) fn see(&mut self, pool: &Pool, pairs: &Pairs) -> Result<Option<f32>> {
        if self.is_given || pool.filled() < pool.capacity() {
            return Ok(None);
        }
        let found = pool.nearest(&pairs.image, Some(&pairs.rows))?;
        let text = pairs.text.detach();
        let of_found = (&text * &found.rows)?.sum_keepdim(1)?; // [B, 1]
        let of_all = text.matmul(&pool.rows()?.t()?)?; // [B, P]
        let closer = of_all.broadcast_le(&of_found)?.to_dtype(DType::F32)?;
        let share = closer.mean_all()?.to_scalar::<f32>()?;
        self.sum += f64::from(share);
        self.count += 1;
        Ok(Some(share))
    }

    /// Comes before each epoch, with what the one before has shown.
    pub(super) fn end_epoch(&mut self) {
        self.is_given |= self.count > 0 && self.sum / f64::from(self.count) >= self.least;
        (self.sum, self.count) = (0.0, 0);
    }

    pub(super) fn keep(&self, state: &mut State) {
        let bits = self.sum.to_bits();
        let sum = [bits as u32, (bits >> 32) as u32];
        state.numbers(SIGNAL, vec![sum[0], sum[1], self.count, u32::from(self.is_given)]);
    }

    pub(super) fn restore(&mut self, state: &mut State) -> bool {
        let Some(Ok([low, high, count, is_given])) =
            state.take_numbers(SIGNAL).map(<[u32; 4]>::try_from)
        else {
            return false;
        };
        self.sum = f64::from_bits(u64::from(low) | u64::from(high) << 32);
        (self.count, self.is_given) = (count, is_given == 1);
        is_given <= 1 && self.sum.is_finite()
    }
}

const SIGNAL: &str = "signal";

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
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
            rows: vec![8, 9],
            captions: vec![8, 9],
            epoch: 1,
            step: 0,
        };
        let text = rows(&[[1.0, 0.0], [0.0, 1.0]])?;
        let lost = pairs(rows(&[[-1.0, 0.0], [0.0, -1.0]])?, text.clone());
        let known = pairs(text.clone(), text);
        let mut signal = Signal::new(0.9);
        assert_eq!(signal.see(&pool, &lost)?, None, "nothing to find yet");
        pool.enqueue(&captions, &[0, 1, 2, 3], &[0, 1, 2, 3], Wrap::Continues)?;
        // The farthest of four captions: one of them is no closer than it.
        assert_eq!(signal.see(&pool, &lost)?, Some(0.25));
        signal.end_epoch();
        assert!(!signal.is_given());
        assert_eq!(signal.see(&pool, &known)?, Some(1.0));
        let mut state = State::default();
        signal.keep(&mut state);
        let mut other = Signal::new(0.9);
        assert!(other.restore(&mut state));
        other.end_epoch();
        assert!(other.is_given());
        assert!(!other.restore(&mut state), "nothing left");
        Ok(())
    }
}

//! RoCLIP (Yang et al., NeurIPS 2023, algorithm 1): every K-th epoch each image is pulled towards
//! the nearest caption of a pool instead of towards its own.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use clip::ops::info_nce;

use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Towers};
use crate::{
    config,
    error::{Error, Result},
    pool::{Pool, PoolState},
    state::State,
};

/// The pool, and when to match.
#[derive(Debug)]
pub struct Roclip {
    pool: Pool,
    match_every_epochs: u32,
    match_from_epoch: u32,
}

impl Roclip {
    /// For a data set of `rows` pairs in batches of `batch_size`.
    pub fn new(
        settings: &config::Roclip,
        rows: usize,
        batch_size: usize,
        dim: usize,
        device: &Device,
    ) -> Result<Self> {
        let capacity = (settings.pool_share * rows as f64).round() as usize;
        if capacity < batch_size {
            let share = settings.pool_share;
            return Err(Error::SmallPool { share, rows, capacity, batch_size });
        }
        Ok(Self {
            pool: Pool::new(capacity, dim, device)?,
            match_every_epochs: settings.match_every_epochs,
            match_from_epoch: settings.match_from_epoch,
        })
    }

    /// Epochs count from 1. The pool takes in every batch of every epoch, so that it is full of
    /// real captions before the first match and fresh at each later one.
    fn phase(&self, epoch: u32) -> Phase {
        match epoch.checked_sub(self.match_from_epoch) {
            None => Phase::Warmup,
            Some(since) if since % self.match_every_epochs == 0 => Phase::Match,
            Some(_) => Phase::Plain,
        }
    }
}

impl Method for Roclip {
    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let phase = self.phase(pairs.epoch);
        let mut matched = None;
        let (loss, trained, unique_neighbors) = if phase == Phase::Match {
            let nearest = self.pool.nearest(&pairs.image, &pairs.rows)?; // before this batch enters
            let groups = &nearest.captions; // one caption twice is no negative of itself
            let loss = info_nce(&pairs.image, &nearest.rows, logit_scale, Some(groups))?;
            let unique = groups.iter().collect::<BTreeSet<_>>().len();
            matched = Some(pairs.rows.iter().copied().zip(nearest.owners).collect());
            (loss, Towers::IMAGE, Some(unique)) // pooled rows are constants
        } else {
            (info_nce(&pairs.image, &pairs.text, logit_scale, None)?, Towers::BOTH, None)
        };
        self.pool.enqueue(&pairs.text, &pairs.rows, &pairs.captions)?;
        let pool_filled = Some(self.pool.filled());
        let new = MethodReport::new(phase);
        let report = MethodReport { pool_filled, unique_neighbors, matched, ..new };
        Ok(MethodLoss { loss, trained, report })
    }

    fn state(&self) -> Result<State> {
        Ok(self.pool.state()?.named()?)
    }

    fn restore(&mut self, state: State) -> bool {
        let state = PoolState::from_named(state, self.pool.device());
        let pool = state.and_then(Pool::from_state);
        let pool = pool.filter(|pool| pool.capacity() == self.pool.capacity());
        pool.map(|pool| self.pool = pool).is_some()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;

    fn method(settings: &config::Roclip) -> Result<Roclip> {
        Roclip::new(settings, 20, 2, 2, &Device::Cpu)
    }

    #[test]
    fn matching_starts_late_and_comes_every_kth_epoch() -> Result<()> {
        let settings =
            config::Roclip { pool_share: 0.2, match_every_epochs: 2, match_from_epoch: 4 };
        let method = method(&settings)?;
        let phases: Vec<Phase> = (1..=7).map(|epoch| method.phase(epoch)).collect();
        use Phase::{Match, Plain, Warmup};
        assert_eq!(phases, [Warmup, Warmup, Warmup, Match, Plain, Match, Plain]);
        Ok(())
    }

    #[test]
    fn lookup_comes_before_enqueue_and_own_captions_play_no_part() -> Result<()> {
        let settings =
            config::Roclip { pool_share: 0.2, match_every_epochs: 1, match_from_epoch: 2 };
        let mut method = method(&settings)?;
        let rows = |a: [f32; 2], b: [f32; 2]| Var::new(&[a, b], &Device::Cpu);
        let scale = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        let mut loss = |epoch, image: &Var, text: &Var, rows: [u32; 2]| {
            let (image, text) = (image.as_tensor().clone(), text.as_tensor().clone());
            let pairs = Pairs { image, text, rows: rows.to_vec(), captions: rows.to_vec(), epoch };
            method.loss(&pairs, &scale)
        };
        let first = rows([1.0, 0.0], [0.0, 1.0])?;
        loss(1, &first, &first, [0, 1])?;
        // The images point to the pooled captions, their own captions elsewhere.
        let (image, text) = (rows([1.0, 0.0], [0.0, 1.0])?, rows([-1.0, 0.0], [0.0, -1.0])?);
        let matched = loss(2, &image, &text, [2, 3])?;
        let expected = (1.0 + (-1f32).exp()).ln();
        assert!((matched.loss.to_scalar::<f32>()? - expected).abs() < 1e-6);
        assert_eq!(matched.trained, Towers::IMAGE);
        assert_eq!(matched.report.unique_neighbors, Some(2));
        assert_eq!(matched.report.matched, Some(vec![(2, Some(0)), (3, Some(1))]));
        let grads = matched.loss.backward()?;
        assert!(grads.get(&image).is_some() && grads.get(&text).is_none());
        Ok(())
    }

    #[test]
    fn a_pool_below_one_batch_is_refused() {
        let settings = config::Roclip { pool_share: 0.05, ..Default::default() };
        let error = method(&settings).expect_err("one row, batches of two").to_string();
        assert!(error.contains("pool"), "{error}");
    }
}

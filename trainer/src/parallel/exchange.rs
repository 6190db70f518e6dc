//! What a step and a run exchange.

use candle_core::{Tensor, Var, backprop::GradStore};
use clip::{model::Clip, ops::Gradients};

use super::Collective;
use crate::error::{Error, Result};

impl dyn Collective + '_ {
    /// Whether this rank writes files, evaluates and talks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The rows of all ranks, as a leaf: `[B / R, D]` -> `[B, D]`. One process keeps its own leaf.
    pub fn gather_rows(&self, own: &Tensor) -> Result<Tensor> {
        if self.ranks() == 1 {
            return Ok(own.clone());
        }
        let (count, dim) = own.dims2()?;
        let rows = self.gather(&own.flatten_all()?.to_vec1::<f32>()?);
        let rows = Var::from_vec(rows, (self.ranks() * count, dim), own.device())?;
        Ok(rows.into_inner())
    }

    /// One of the `views` of which each rank gave all of its part, one after the other:
    /// `[R V B / R, D]`, which [`gather_rows`] gave, -> `[B, D]`.
    ///
    /// [`gather_rows`]: #method.gather_rows
    pub fn view(&self, all: &Tensor, views: usize, number: usize) -> Result<Tensor> {
        if views == 1 {
            return Ok(all.clone());
        }
        let (rows, dim) = all.dims2()?;
        let of_ranks = all.reshape((self.ranks(), views, rows / views / self.ranks(), dim))?;
        Ok(of_ranks.narrow(1, number, 1)?.reshape((rows / views, dim))?)
    }

    /// Puts in the place of the gradient at the rows `all`, which [`gather_rows`] gave, its part at
    /// this rank's `own`. Nothing is summed: the loss was that of the whole batch on every rank.
    ///
    /// [`gather_rows`]: #method.gather_rows
    pub fn keep_own(&self, grads: &mut GradStore, all: &Tensor, own: &Tensor) -> Result<()> {
        if let Some(gradient) = grads.remove(all) {
            let count = own.dim(0)?;
            let part = gradient.detach().narrow(0, self.rank() * count, count)?;
            grads.insert(own, part.contiguous()?);
        }
        Ok(())
    }

    /// Sums the gradients of all parameters over all ranks.
    pub fn sum_gradients(&self, model: &Clip, gradients: &mut Gradients) -> Result<()> {
        if self.ranks() > 1 {
            model.sum_gradients(self, self.is_first(), gradients)?;
        }
        Ok(())
    }

    /// Whether something holds on all ranks: none goes on alone where another one stops.
    pub fn all(&self, holds: bool) -> bool {
        match self.ranks() {
            1 => holds,
            _ => self.gather_numbers(&[holds.into()]).iter().all(|&holds| holds != 0),
        }
    }

    /// What each rank has come to, if all have succeeded. The first rank that has not keeps its
    /// error, the others get [`Error::Elsewhere`].
    pub fn agree<T>(&self, outcome: Result<T>) -> Result<T> {
        let failed = self.gather_numbers(&[outcome.is_err().into()]);
        match failed.iter().position(|&failed| failed != 0) {
            Some(rank) if rank != self.rank() => Err(Error::Elsewhere { rank }),
            _ => outcome,
        }
    }

    /// Refuses if a rank has another `sha256` than the first, which says so.
    pub fn check_same(&self, what: &'static str, sha256: [u8; 32]) -> Result<()> {
        let (words, _) = sha256.as_chunks::<4>();
        let own: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let all = self.gather_numbers(&own);
        let other = all.chunks_exact(own.len()).position(|words| words != &all[..own.len()]);
        let outcome = match other {
            Some(rank) if self.is_first() => Err(Error::Apart { rank, what }),
            _ => Ok(()),
        };
        self.agree(outcome)
    }
}

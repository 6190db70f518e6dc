//! Where a tower's tensors come from, and the names under which they go out again.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device, Tensor, Var};

use super::Parameter;
use crate::{
    Error, Result,
    ops::{Awaited, BatchStatistics},
    weights::Weights,
};

/// Share of the newest batch in the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// Hands out the tensors of [`Weights`] by name, and remembers what it handed out.
pub(super) struct Source<'a> {
    weights: &'a Weights,
    device: &'a Device,
    dtype: DType,
    trainable: bool,
    given: RefCell<Given>,
}

type Given = (Vec<(String, Tensor)>, Vec<Parameter>, Vec<(String, Running)>);

impl<'a> Source<'a> {
    pub(super) fn new(
        weights: &'a Weights,
        device: &'a Device,
        dtype: DType,
        trainable: bool,
    ) -> Self {
        Self { weights, device, dtype, trainable, given: RefCell::default() }
    }

    pub(super) fn device(&self) -> &'a Device {
        self.device
    }

    /// Tensors by name, trained parameters, running statistics.
    pub(super) fn finish(self) -> Given {
        self.given.into_inner()
    }

    fn constant(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let refuse = |problem| Error::Parameter { name: name.to_owned(), problem };
        let array = self.weights.get(name).ok_or_else(|| refuse("is missing".into()))?;
        if array.shape != shape {
            return Err(refuse(format!("has shape {:?}, expected {shape:?}", array.shape)));
        }
        let tensor = Tensor::from_slice(&array.values, shape, self.device)?;
        Ok(tensor.to_dtype(self.dtype)?)
    }

    /// A parameter: a variable if this source trains, otherwise a constant.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let mut tensor = self.constant(name, shape)?;
        let mut given = self.given.borrow_mut();
        if self.trainable {
            let var = Var::from_tensor(&tensor)?;
            tensor = var.as_tensor().clone();
            given.1.push(Parameter { name: name.to_owned(), var });
        }
        given.0.push((name.to_owned(), tensor.clone()));
        Ok(tensor)
    }

    /// Weight and bias of one layer.
    pub(super) fn pair(&self, name: &str, weight: &[usize]) -> Result<(Tensor, Tensor)> {
        let bias = self.tensor(&format!("{name}.bias"), &weight[..1])?;
        Ok((self.tensor(&format!("{name}.weight"), weight)?, bias))
    }

    /// Running statistics of a batch normalisation.
    pub(super) fn running(&self, name: &str, channels: usize) -> Result<Running> {
        let statistics = BatchStatistics {
            mean: self.constant(&format!("{name}.running_mean"), &[channels])?,
            variance: self.constant(&format!("{name}.running_var"), &[channels])?,
        };
        let running = Running(Arc::new(Mutex::new(Followed { statistics, batch: None })));
        self.given.borrow_mut().2.push((name.to_owned(), running.clone()));
        Ok(running)
    }
}

/// Running mean and variance, shared between the layer and the model that writes them out.
#[derive(Debug, Clone)]
pub(super) struct Running(Arc<Mutex<Followed>>);

/// Statistics, and those of a batch of so many rows that they have not followed yet.
struct Followed {
    statistics: BatchStatistics,
    batch: Option<(Awaited, usize)>,
}

impl fmt::Debug for Followed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Followed").field("statistics", &self.statistics).finish()
    }
}

impl Running {
    /// As they are now; waits for the newest batch's.
    pub(super) fn statistics(&self) -> candle_core::Result<BatchStatistics> {
        let mut followed = self.0.lock().expect("no thread panics with it");
        followed.settle()?;
        Ok(followed.statistics.clone())
    }

    /// Follows the statistics of a batch of `rows`, once somebody asks for more.
    pub(super) fn follow(&self, batch: Awaited, rows: usize) -> candle_core::Result<()> {
        let mut followed = self.0.lock().expect("no thread panics with it");
        followed.settle()?;
        followed.batch = Some((batch, rows));
        Ok(())
    }
}

impl Followed {
    /// Moves a tenth of the way to the statistics of the batch; the running variance is the
    /// unbiased one, as in PyTorch.
    fn settle(&mut self) -> candle_core::Result<()> {
        let Some((batch, rows)) = &self.batch else { return Ok(()) };
        let batch = batch()?;
        let unbiased = *rows as f64 / (rows.max(&2) - 1) as f64;
        let blend = |old: &Tensor, new: &Tensor, factor: f64| {
            (old * (1.0 - MOMENTUM))? + (new * (MOMENTUM * factor))?
        };
        let old = &self.statistics;
        let mean = blend(&old.mean, &batch.mean, 1.0)?;
        let variance = blend(&old.variance, &batch.variance, unbiased)?;
        *self = Self { statistics: BatchStatistics { mean, variance }, batch: None };
        Ok(())
    }
}

//! A method is a loss, the state that it keeps, and what it reports.

mod cleanclip;
mod clip;
mod mixture;
mod pool_size;
#[cfg(test)]
mod proof;
mod roclip;
mod safeclip;
mod sieve;

use ::clip::{config::Tower, ops::Engine};
use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::{
    config::{Config, MethodName},
    data::{Selection, Views},
    doubted::Doubted,
    error::Result,
    optim::Schedule,
    state::State,
    survey::Survey,
};

pub use cleanclip::Cleanclip;
pub use clip::Clip;
pub use roclip::Roclip;
pub use safeclip::Safeclip;
pub use sieve::Sieve;

/// Embeddings of a batch.
#[derive(Debug)]
pub struct Pairs {
    /// `[B, D]`, unit rows
    pub image: Tensor,
    /// `[B, D]`, unit rows
    pub text: Tensor,
    /// What computes their loss
    pub engine: Engine,
    /// The same pairs in another view, of a method that asks for two
    pub second: Option<Second>,
    /// Data-set row of each pair
    pub rows: Vec<u32>,
    /// Number of each caption: equal texts have equal numbers
    pub captions: Vec<u32>,
    /// Counted from 1
    pub epoch: u32,
    /// Updates before this one
    pub step: u64,
}

/// Embeddings of another view of each pair, which the same towers computed in the same pass.
#[derive(Debug)]
pub struct Second {
    /// `[B, D]`, unit rows
    pub image: Tensor,
    /// `[B, D]`, unit rows
    pub text: Tensor,
}

impl Pairs {
    /// The second view of these pairs; a method that asks for it is given it.
    pub fn second(&self) -> &Second {
        self.second.as_ref().expect("`Method::views` asked for two")
    }
}

/// Which towers a loss trains; the others rest: no gradient, no momentum, no decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Towers {
    /// The image tower
    pub image: bool,
    /// The text tower
    pub text: bool,
}

impl Towers {
    /// Both towers learn.
    pub const BOTH: Self = Self { image: true, text: true };
    /// The image tower alone learns.
    pub const IMAGE: Self = Self { image: true, text: false };

    /// These but one that is locked.
    pub fn without(self, locked: Option<Tower>) -> Self {
        let learns = |tower| locked != Some(tower);
        let Self { image, text } = self;
        Self { image: image && learns(Tower::Image), text: text && learns(Tower::Text) }
    }
}

/// What a method makes of a batch.
#[derive(Debug)]
pub struct MethodLoss {
    /// `[]`, in nats
    pub loss: Tensor,
    /// Towers that it trains
    pub trained: Towers,
    /// What is recorded
    pub report: MethodReport,
}

/// The method's part of a step record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodReport {
    /// What happens to the pairs
    pub phase: Phase,
    /// Rows in the pool
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_filled: Option<usize>,
    /// Distinct captions among the neighbors of the batch
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_neighbors: Option<usize>,
    /// How far the captions that images would find agree with their own, while matching waits for
    /// that: 1 where they mean the same, 0 where they might as well be drawn, below where less
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_agreement: Option<f32>,
    /// Pairs that are not doubted
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<usize>,
    /// Pictures of doubted pairs that come with other captions
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recaptioned: Option<usize>,
    /// Data-set row of each image, and of the pooled caption that it was matched with: none if that
    /// is noise. Not recorded, but watched
    #[serde(skip)]
    pub matched: Option<Vec<(u32, Option<u32>)>>,
    /// Whether the batch has entered the pool. Not recorded, but watched
    #[serde(skip)]
    pub enqueued: bool,
    /// Whether all captions of the loss are constants: the text tower learns nothing from it. Not
    /// recorded, but watched
    #[serde(skip)]
    pub constants_only: bool,
}

impl MethodReport {
    /// Nothing but the phase.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            pool_filled: None,
            unique_neighbors: None,
            match_agreement: None,
            kept: None,
            recaptioned: None,
            matched: None,
            enqueued: false,
            constants_only: false,
        }
    }
}

/// What happens to pairs in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Own captions, until the first match
    Warmup,
    /// Own captions
    Plain,
    /// Nearest pooled captions
    Match,
    /// Own captions of all pairs, by towers that are given up later
    Believer,
    /// Own captions of the pairs that are not doubted, by towers that are given up later
    Scout,
    /// Own captions of the pairs that are not doubted
    Sieve,
    /// Two views of each image and of each caption, without regard to which belong together
    Unimodal,
    /// Own captions of the pairs that are safe, views of the others
    Split,
}

/// A way of pre-training.
pub trait Method: Send {
    /// Comes before the first batch of an epoch, which is counted from 1; the answer is lines of
    /// what the user may not have meant or should know. `survey` embeds all pairs with the towers
    /// as they are.
    fn begin_epoch(&mut self, _: u32, _: &mut Survey<'_>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether the towers are new in this epoch, and all that the optimizer has learnt is
    /// forgotten: what came before was to know the pairs.
    fn starts_over(&self, _epoch: u32) -> bool {
        false
    }

    /// The pairs that an epoch which has begun trains on.
    fn selected(&self, _epoch: u32) -> Selection {
        Selection::default()
    }

    /// The pairs that are not trusted in this epoch, if there are any; `rows` are all of the data
    /// set.
    fn doubted(&self, _rows: &[u32]) -> Option<Vec<Doubted>> {
        None
    }

    /// In which views the batches of an epoch bring their pairs.
    fn views(&self, _epoch: u32) -> Views {
        Views::One
    }

    /// Learning rate of a step of the run, counted from 0, which is in an epoch: that of the run's
    /// schedule, unless the method has phases with their own.
    fn lr(&self, schedule: &Schedule, _epoch: u32, step: u64) -> f64 {
        schedule.lr(step)
    }

    /// The loss of a batch; may keep what the next batches need.
    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss>;

    /// What the method keeps from batch to batch, for a checkpoint; nothing unless it says so.
    fn state(&self) -> Result<State> {
        Ok(State::default())
    }

    /// Takes back what [`Method::state`] gave; false if it does not fit.
    fn restore(&mut self, state: State) -> bool {
        state.is_empty()
    }
}

/// What a method is made for.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Pairs of the data set
    pub rows: usize,
    /// Of these, how many an epoch trains on
    pub epoch_rows: usize,
    /// Width of embeddings
    pub dim: usize,
}

impl Sizes {
    /// Of epochs that train on all of `rows` pairs.
    pub fn whole(rows: usize, dim: usize) -> Self {
        Self { rows, epoch_rows: rows, dim }
    }
}

/// The configured method.
pub fn new(config: &Config, sizes: Sizes, device: &Device) -> Result<Box<dyn Method>> {
    Ok(match config.method.name {
        MethodName::Clip => Box::new(Clip),
        MethodName::Roclip | MethodName::RoclipAsPublished => {
            Box::new(Roclip::new(config, sizes, device)?)
        }
        MethodName::Sieve => Box::new(Sieve::new(config, sizes, device)?),
        MethodName::Cleanclip => Box::new(Cleanclip::new(config.method.cleanclip())),
        MethodName::Safeclip => Box::new(Safeclip::new(config, sizes, device)?),
    })
}

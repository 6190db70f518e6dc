//! RoCLIP (Yang et al., NeurIPS 2023, algorithm 1): in matched steps each image is pulled towards
//! the nearest caption of a pool instead of towards its own. `docs/roclip.md` has the other
//! published forms, and what the released code does otherwise.

mod phases;
mod signal;

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use clip::ops::{Equals, info_nce_one_way};

use self::{phases::Phases, signal::Signal};
use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Sizes, Towers, pool_size::PoolSize};
use crate::{
    config::{self, Config, Duplicates, Enqueue, Fill, Retrieval, TextTower},
    error::Result,
    pool::{Neighbors, Pool},
    state::State,
    survey::Survey,
};

/// The pools, and when to match.
#[derive(Debug)]
pub struct Roclip {
    settings: config::Roclip,
    phases: Phases,
    /// Of the whole run.
    epochs: u32,
    size: PoolSize,
    /// Of matching that waits until the towers know enough.
    signal: Option<Signal>,
    captions: Pool,
    /// Of the forms that look for images.
    images: Option<Pool>,
}

impl Roclip {
    /// For a data set and embeddings of these sizes.
    pub fn new(config: &Config, sizes: Sizes, device: &Device) -> Result<Self> {
        let Sizes { epoch_rows, dim, .. } = sizes;
        let settings = config.method.roclip();
        let (rows, share) = (settings.pool_rows, settings.pool_share);
        let size = PoolSize::new(rows, share, epoch_rows, config.data.batch_size)?;
        let noise = (settings.fill == Fill::Gaussian).then_some(config.seed);
        let pool = |stream| Pool::new(size.rows, dim, noise.map(|seed| (seed, stream)), device);
        let looks_for_images = settings.retrieval != Retrieval::TextPool;
        Ok(Self {
            captions: pool(0)?,
            images: looks_for_images.then(|| pool(1)).transpose()?,
            phases: Phases::new(&settings, config.optim.epochs, config.seed),
            epochs: config.optim.epochs,
            size,
            signal: settings.match_from_agreement.map(Signal::new),
            settings,
        })
    }

    /// What the user may not have meant, at the begin of an epoch.
    fn warning(&self, epoch: u32) -> Option<String> {
        let is_matched = |from| self.phases.some(from, self.epochs);
        if epoch == self.epochs && !self.from().is_some_and(is_matched) {
            let why = if self.is_full() {
                "the agreement of `method.roclip.match_from_agreement` was not reached in time"
            } else {
                "the pool is not full: lower `method.roclip.enqueue_every_batches`"
            };
            return Some(format!("nothing has been matched: {why}"));
        }
        (epoch == 1).then(|| self.size.warning("roclip")).flatten()
    }

    /// The loss of a matched step, and the captions or images that were found.
    fn matched(&self, pairs: &Pairs, scale: &Tensor) -> Result<(Tensor, Neighbors)> {
        let (image, text, engine) = (&pairs.image, &pairs.text, &pairs.engine);
        let own = if self.settings.own_rows { None } else { Some(pairs.rows.as_slice()) };
        let images = || self.images.as_ref().expect("a form that looks for images has their pool");
        let equals = |found| self.equals(found);
        Ok(match self.settings.retrieval {
            Retrieval::TextPool => {
                let caption = self.captions.nearest(engine, image, own)?;
                let mut loss = engine.info_nce(image, &caption.rows, scale, equals(&caption))?;
                if self.settings.text_tower == TextTower::Learns {
                    let found = self.captions.nearest(engine, text, own)?;
                    let of_texts = engine.info_nce(text, &found.rows, scale, equals(&found))?;
                    loss = ((loss + of_texts)? * 0.5)?;
                }
                (loss, caption)
            }
            Retrieval::Both => {
                let (caption, found) = (
                    self.captions.nearest(engine, image, own)?,
                    images().nearest(engine, text, own)?,
                );
                let of_images = engine.info_nce(image, &caption.rows, scale, equals(&caption))?;
                let of_captions = engine.info_nce(&found.rows, text, scale, equals(&found))?;
                (((of_images + of_captions)? * 0.5)?, caption)
            }
            Retrieval::Intra => {
                let (caption, found) = (
                    self.captions.nearest(engine, text, own)?,
                    images().nearest(engine, image, own)?,
                );
                let of_images = info_nce_one_way(image, &caption.rows, scale, equals(&caption))?;
                let of_captions = info_nce_one_way(text, &found.rows, scale, equals(&found))?;
                (((of_images + of_captions)? * 0.5)?, caption)
            }
        })
    }

    /// What pairs are to each other for which the same was found.
    fn equals<'a>(&self, found: &'a Neighbors) -> Equals<'a> {
        match self.settings.duplicates {
            Duplicates::Masked => Equals::LeftOut(&found.kinds),
            Duplicates::Soft => Equals::Positives(&found.kinds),
            Duplicates::Untreated => Equals::Negatives,
        }
    }

    /// Whether a matched step has a gradient for the text tower: pooled rows are constants.
    fn text_learns(&self) -> bool {
        self.settings.retrieval != Retrieval::TextPool
            || self.settings.text_tower == TextTower::Learns
    }

    /// The towers that a matched step moves.
    fn trained(&self) -> Towers {
        let drifts = self.settings.text_tower == TextTower::Drifts;
        Towers { image: true, text: drifts || self.text_learns() }
    }

    /// The first epoch that may be matched; `None` while matching waits.
    fn from(&self) -> Option<u32> {
        let given = self.signal.as_ref().map_or(Some(1), Signal::given);
        given.filter(|_| self.is_full()).map(|epoch| epoch.max(self.settings.match_from_epoch))
    }

    fn is_full(&self) -> bool {
        self.captions.filled() == self.captions.capacity()
    }

    /// Takes in a batch, after the lookup; whether it was due.
    fn enqueue(&mut self, pairs: &Pairs, phase: Phase) -> Result<bool> {
        let is_due = pairs.step.is_multiple_of(u64::from(self.settings.enqueue_every_batches))
            && (phase == Phase::Match || self.settings.enqueue == Enqueue::EveryEpoch);
        if is_due {
            let (wrap, rows) = (self.settings.wrap, &pairs.rows);
            self.captions.enqueue(&pairs.text, rows, &pairs.captions, wrap)?;
            if let Some(images) = &mut self.images {
                images.enqueue(&pairs.image, rows, rows, wrap)?;
            }
        }
        Ok(is_due)
    }
}

impl Method for Roclip {
    fn begin_epoch(&mut self, epoch: u32, _: &mut Survey<'_>) -> Result<Vec<String>> {
        if let Some(signal) = &mut self.signal {
            signal.begin(epoch);
        }
        Ok(self.warning(epoch).into_iter().collect())
    }

    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let phase = match self.from() {
            Some(from) => self.phases.at(pairs.epoch, pairs.step, from),
            None => Phase::Warmup,
        };
        let mut report = MethodReport::new(phase);
        report.constants_only = phase == Phase::Match && !self.text_learns();
        let (loss, trained) = if phase == Phase::Match {
            let (mut loss, found) = self.matched(pairs, logit_scale)?; // before this batch enters
            report.unique_neighbors = Some(found.kinds.iter().collect::<BTreeSet<_>>().len());
            report.matched = Some(pairs.rows.iter().copied().zip(found.owners).collect());
            if self.trained().text && !self.text_learns() {
                let nothing = (&pairs.text * pairs.text.zeros_like()?)?.sum_all()?;
                loss = (loss + nothing)?; // a gradient of zero: momentum and decay go on
            }
            (loss, self.trained())
        } else {
            if let Some(signal) = &mut self.signal {
                report.match_agreement = signal.see(&self.captions, pairs)?;
            }
            let equals = Equals::Negatives;
            (pairs.engine.info_nce(&pairs.image, &pairs.text, logit_scale, equals)?, Towers::BOTH)
        };
        report.enqueued = self.enqueue(pairs, phase)?;
        report.pool_filled = Some(self.captions.filled());
        Ok(MethodLoss { loss, trained, report })
    }

    fn state(&self) -> Result<State> {
        let mut state = State::default();
        self.captions.keep(CAPTIONS, &mut state)?;
        if let Some(images) = &self.images {
            images.keep(IMAGES, &mut state)?;
        }
        if let Some(signal) = &self.signal {
            signal.keep(&mut state);
        }
        Ok(state)
    }

    fn restore(&mut self, mut state: State) -> bool {
        self.captions.restore(CAPTIONS, &mut state)
            && self.images.as_mut().is_none_or(|images| images.restore(IMAGES, &mut state))
            && self.signal.as_mut().is_none_or(|signal| signal.restore(&mut state))
            && state.is_empty()
    }
}

const CAPTIONS: &str = "pool";
const IMAGES: &str = "image-pool";
#[cfg(test)]
mod tests;

//! SafeCLIP (Yang et al., ICML 2024, algorithm 1): each modality learns by itself before images
//! meet their captions, a short and slow CLIP shows which pairs agree, and from then on CLIP has
//! the safe pairs alone, while the others go on modality by modality. `docs/safeclip-cleanclip.md`
//! has the definition, and what the released code does otherwise.

mod split;

use candle_core::{Device, Tensor};
use clip::ops::{Engine, Equals, info_nce_one_way};

use self::split::{Split, best, cosines, likely};
use super::{
    Method, MethodLoss, MethodReport, Pairs, Phase, Second, Sizes, Towers, pool_size::PoolSize,
};
use crate::{
    config::{self, Config, Wrap},
    data::Views,
    doubted::Doubted,
    error::Result,
    optim::Schedule,
    pool::Pool,
    state::State,
    survey::Survey,
};

/// The pools, and which pairs are safe.
#[derive(Debug)]
pub struct Safeclip {
    settings: config::Safeclip,
    /// Pairs of the data set.
    count: usize,
    /// Of the whole run.
    epochs: u32,
    size: PoolSize,
    images: Pool,
    captions: Pool,
    /// Of this epoch, once pairs are split.
    split: Option<Split>,
}

impl Safeclip {
    /// For a data set and embeddings of these sizes.
    pub fn new(config: &Config, sizes: Sizes, device: &Device) -> Result<Self> {
        let Sizes { rows: count, epoch_rows, dim } = sizes;
        let settings = config.method.safeclip();
        let size = PoolSize::new(None, settings.pool_share, epoch_rows, config.data.batch_size)?;
        let pool = || Pool::new(size.rows, dim, None, device);
        let (epochs, images, captions) = (config.optim.epochs, pool()?, pool()?);
        Ok(Self { settings, count, epochs, size, images, captions, split: None })
    }

    fn phase(&self, epoch: u32) -> Phase {
        match epoch {
            _ if epoch <= self.settings.unimodal_epochs => Phase::Unimodal,
            _ if epoch < self.settings.split_from() => Phase::Plain,
            _ => Phase::Split,
        }
    }

    /// What the user may not have meant, at the begin of an epoch before the first split.
    fn warning(&self, epoch: u32) -> Option<String> {
        (epoch == 1).then(|| self.size.warning("safeclip")).flatten()
    }

    /// Safe pairs of an epoch after the first split, which found `first`.
    fn safe_count(&self, first: usize, epoch: u32) -> usize {
        let config::Safeclip { growth, safe_max, .. } = self.settings;
        let grown = growth * f64::from(epoch - self.settings.split_from());
        let share = (first as f64 / self.count as f64 + grown).min(safe_max);
        (share * self.count as f64).round() as usize
    }

    /// Own captions of the safe pairs, views of the others, one loss added to the other.
    fn loss_of_split(&self, pairs: &Pairs, scale: &Tensor) -> Result<Tensor> {
        let split = self.split.as_ref().expect("`begin_epoch` splits before the first batch");
        let is_safe = |at: &u32| split.is_safe(pairs.rows[*at as usize]);
        let (safe, risky): (Vec<u32>, Vec<u32>) = (0..pairs.rows.len() as u32).partition(is_safe);
        Ok(match (safe.is_empty(), risky.is_empty()) {
            (_, true) => of_pairs(pairs, scale)?,
            (true, _) => self.unimodal(pairs, scale)?,
            _ => {
                let of_safe = of_pairs(&part(pairs, &safe)?, scale)?;
                (of_safe + self.unimodal(&part(pairs, &risky)?, scale)?)?
            }
        })
    }

    /// Images among images and captions among captions, the mean of both.
    fn unimodal(&self, pairs: &Pairs, scale: &Tensor) -> Result<Tensor> {
        let second = pairs.second();
        let of_images =
            contrast(&self.images, &pairs.engine, [&pairs.image, &second.image], scale)?;
        let of_texts = contrast(&self.captions, &pairs.engine, [&pairs.text, &second.text], scale)?;
        Ok(((of_images + of_texts)? * 0.5)?)
    }
}

/// InfoNCE of each image and its own caption.
fn of_pairs(pairs: &Pairs, scale: &Tensor) -> Result<Tensor> {
    Ok(pairs.engine.info_nce(&pairs.image, &pairs.text, scale, Equals::Negatives)?)
}

/// InfoNCE of the second view of each of a batch and what the pool holds nearest to its first view;
/// until the pool is full, its first view itself. `[B, D]`, unit rows.
fn contrast(
    pool: &Pool,
    engine: &Engine,
    [first, second]: [&Tensor; 2],
    scale: &Tensor,
) -> Result<Tensor> {
    let partners = match pool.filled() < pool.capacity() {
        true => first.clone(),
        false => pool.nearest(engine, first, None)?.rows,
    };
    Ok(info_nce_one_way(second, &partners, scale, Equals::Negatives)?)
}

/// The pairs of these numbers of a batch.
fn part(pairs: &Pairs, at: &[u32]) -> Result<Pairs> {
    let index = Tensor::new(at, pairs.image.device())?;
    let rows = |all: &Tensor| all.index_select(&index, 0);
    let numbers = |all: &[u32]| at.iter().map(|&at| all[at as usize]).collect();
    let Second { image, text } = pairs.second();
    Ok(Pairs {
        image: rows(&pairs.image)?,
        text: rows(&pairs.text)?,
        engine: pairs.engine.clone(),
        second: Some(Second { image: rows(image)?, text: rows(text)? }),
        rows: numbers(&pairs.rows),
        captions: numbers(&pairs.captions),
        ..*pairs
    })
}

impl Method for Safeclip {
    fn views(&self, epoch: u32) -> Views {
        match self.phase(epoch) {
            Phase::Plain => Views::One,
            _ => Views::TwoVaried,
        }
    }

    fn lr(&self, schedule: &Schedule, epoch: u32, step: u64) -> f64 {
        let split = schedule.steps_of(self.settings.split_from() - 1, self.epochs);
        match self.phase(epoch) {
            Phase::Unimodal => schedule.lr_within(0..split, step),
            Phase::Plain => self.settings.clip_lr_share * schedule.lr,
            _ => schedule.lr_within(split..schedule.steps, step),
        }
    }

    fn begin_epoch(&mut self, epoch: u32, survey: &mut Survey<'_>) -> Result<Vec<String>> {
        if self.phase(epoch) != Phase::Split {
            return Ok(self.warning(epoch).into_iter().collect());
        }
        let (rows, cosines) = (survey.rows(), cosines(survey)?);
        let first = self.split.as_ref().map(|split| split.first);
        let safe = match first {
            None => likely(&cosines, self.settings.safe_chance),
            Some(first) => best(&cosines, self.safe_count(first, epoch)),
        };
        let (first, is_lost) = (first.unwrap_or(safe.len()), safe.is_empty());
        let safe = safe.into_iter().map(|pair| rows[pair]).collect();
        self.split = Some(Split { cosines, safe, first });
        let lost =
            "no pair is safe: the towers do not know enough to tell (more epochs or pairs help)";
        Ok(is_lost.then(|| lost.to_owned()).into_iter().collect())
    }

    fn doubted(&self, rows: &[u32]) -> Option<Vec<Doubted>> {
        let split = self.split.as_ref()?; // in the order of the data set
        let all = rows.iter().zip(&split.cosines);
        let risky = all.filter(|(row, _)| !split.is_safe(**row));
        let doubted = |(&row, &agreement)| Doubted { row, agreement, ..Default::default() };
        Some(risky.map(doubted).collect())
    }

    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let phase = self.phase(pairs.epoch);
        let loss = match phase {
            Phase::Unimodal => self.unimodal(pairs, logit_scale)?,
            Phase::Plain => of_pairs(pairs, logit_scale)?,
            _ => self.loss_of_split(pairs, logit_scale)?,
        };
        let (rows, wrap) = (&pairs.rows, Wrap::Continues); // after the lookup, in every phase
        self.images.enqueue(&pairs.image, rows, rows, wrap)?;
        self.captions.enqueue(&pairs.text, rows, &pairs.captions, wrap)?;
        let report = MethodReport {
            pool_filled: Some(self.images.filled()),
            kept: self.split.as_ref().map(|split| split.safe.len()),
            ..MethodReport::new(phase)
        };
        Ok(MethodLoss { loss, trained: Towers::BOTH, report })
    }

    fn state(&self) -> Result<State> {
        let mut state = State::default();
        self.images.keep(IMAGES, &mut state)?;
        self.captions.keep(CAPTIONS, &mut state)?;
        if let Some(split) = &self.split {
            split.keep(&mut state);
        }
        Ok(state)
    }

    fn restore(&mut self, mut state: State) -> bool {
        let split = Split::restored(self.count, &mut state);
        let fits = split.is_some()
            && self.images.restore(IMAGES, &mut state)
            && self.captions.restore(CAPTIONS, &mut state)
            && state.is_empty();
        self.split = split.flatten();
        fits
    }
}

const IMAGES: &str = "image-pool";
const CAPTIONS: &str = "pool";

#[cfg(test)]
mod tests;

//! The sieve: every pair is asked how well it agrees, and the pairs in doubt stay out. Ours;
//! SafeCLIP (Yang et al., ICML 2024, section 4) splits pairs by a mixture, too. `docs/sieve.md` has
//! the definition, and what was measured.

mod ask;
mod crowds;
mod kept;
mod keystones;
mod neighbors;
mod pooled;
mod recaption;
mod sample;

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor};
use clip::ops::Equals;

use self::{
    ask::{ask, chance},
    crowds::crowds,
    kept::{kept, kept_in_company},
    keystones::Keystone,
    neighbors::Neighbors,
    recaption::{Pictures, Recaptions},
};
use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Sizes, Towers, pool_size::PoolSize};
use crate::{
    config::{self, Config, Fate, Parts, Score, Wrap},
    data::Selection,
    doubted::{self, Doubted},
    error::Result,
    optim::Schedule,
    pool::Pool,
    state::State,
    survey::{Quarter, Survey},
};

/// One in so many pairs is left at least, crowds or not.
const LEFT_MIN: usize = 4;

/// What each pair scored, and which are trained on.
#[derive(Debug)]
pub struct Sieve {
    settings: config::Sieve,
    fate: Fate,
    /// Pairs of the data set.
    rows: usize,
    parts: Parts,
    seed: u64,
    /// Smoothed agreement of each pair, in nats or, with a pool, as a cosine; no number where
    /// nobody asked; empty before the first are known.
    agreement: Vec<f32>,
    /// Pairs whose pictures are alike, from when the believer has said so until nobody asks again.
    neighbors: Neighbors,
    /// Share of each pair's neighbors that are in doubt by themselves, since they were last asked.
    company: Vec<f32>,
    /// By the data-set rows of the pairs that most likely bear a patch: how much more the captions
    /// of pictures like theirs owe to one quarter than to any other, in nats. Since the verdict.
    keystones: BTreeMap<u32, f32>,
    /// What the model learns of the pairs in doubt, since the verdict.
    recaptions: Recaptions,
    /// What the steps of this epoch say, where they are asked.
    fresh: Vec<f32>,
    /// Data-set rows, once the first epoch is sieved.
    kept: Option<Arc<[u32]>>,
    /// Where pairs are compared with it or matched to it.
    pool: Option<Pool>,
}

impl Sieve {
    /// For a data set and embeddings of these sizes.
    pub fn new(config: &Config, sizes: Sizes, device: &Device) -> Result<Self> {
        let Sizes { rows, epoch_rows, dim } = sizes;
        let settings = config.method.sieve();
        let pool = || -> Result<Pool> {
            let size = PoolSize::new(None, None, epoch_rows, config.data.batch_size)?;
            Ok(Pool::new(size.rows, dim, None, device)?)
        };
        Ok(Self {
            pool: settings.has_pool().then(pool).transpose()?,
            parts: config.parts(),
            fate: settings.fate(config.optim.epochs),
            settings,
            rows,
            seed: config.seed,
            agreement: Vec::new(),
            neighbors: Neighbors::default(),
            company: Vec::new(),
            keystones: BTreeMap::new(),
            recaptions: Recaptions::default(),
            fresh: Vec::new(),
            kept: None,
        })
    }

    /// Smooths over epochs, the `asked`-th time: a pair that was doubted by mistake comes back.
    fn remember(&mut self, fresh: Vec<f32>, asked: u32) {
        if self.agreement.is_empty() {
            self.agreement = fresh;
            return;
        }
        let mean_of_all = f64::from(asked - 1) / f64::from(asked);
        let smoothing = self.settings.smoothing.min(mean_of_all) as f32;
        for (old, new) in self.agreement.iter_mut().zip(fresh) {
            if !new.is_nan() {
                *old = if old.is_nan() { new } else { smoothing * *old + (1.0 - smoothing) * new };
            }
        }
    }

    /// Doubts the pairs that most likely bear a patch, too; the answer is in which quarter.
    fn doubt_patched(
        &mut self,
        epoch: u32,
        survey: &mut Survey<'_>,
    ) -> Result<BTreeMap<u32, Quarter>> {
        let ranges = self.settings.keystone_ranges;
        if self.neighbors.is_empty() || self.parts.scout == 0 || ranges == 0.0 {
            return Ok(BTreeMap::new());
        }
        let keystones = keystones::of_all(&self.settings, self.seed, epoch, survey)?;
        let own: Vec<f32> = keystones.iter().map(Keystone::nats).collect();
        let nats = self.neighbors.mean(&self.neighbors.mean(&own));
        let (rows, kept) = (survey.rows(), self.kept.as_deref().unwrap_or_default());
        let place = |row: &u32| rows.binary_search(row).expect("a row of the data set");
        let places: Vec<usize> = kept.iter().map(place).collect();
        let patched = keystones::patched(&nats, &self.neighbors, &places, ranges);
        self.keystones = patched.iter().map(|&pair| (rows[pair], nats[pair])).collect();
        let is_patched = |row: &u32| self.keystones.contains_key(row);
        self.kept = Some(kept.iter().copied().filter(|row| !is_patched(row)).collect());
        Ok(patched.into_iter().map(|pair| (rows[pair], keystones[pair].quarter)).collect())
    }

    /// Other captions for the `patched` pictures and those in the worst company, once the verdict
    /// is known.
    fn recaption(
        &mut self,
        patched: BTreeMap<u32, Quarter>,
        survey: &mut Survey<'_>,
    ) -> Result<()> {
        let (rows, kept) = (survey.rows(), self.kept.as_deref().unwrap_or_default());
        let worst = recaption::in_worst_company(rows, kept, &self.company);
        let mut pictures: Pictures = worst.into_iter().map(|row| (row, None)).collect();
        pictures.extend(patched.into_iter().map(|(row, quarter)| (row, Some(quarter))));
        let (epochs, views) = (self.recaptioned_epochs(), self.settings.views);
        self.recaptions = Recaptions::draw(&pictures, kept, epochs, self.seed, views, survey)?;
        Ok(())
    }

    /// Rows of the captions with which pictures come in `epoch` that have their own no more.
    fn other_captions(&self, epoch: u32) -> &[u32] {
        let own = epoch.checked_sub(self.parts.given_up() + 1);
        own.map(|epoch| self.recaptions.captions_in(epoch)).unwrap_or_default()
    }

    /// So many of the model's epochs, the first ones, have pictures with other captions.
    fn recaptioned_epochs(&self) -> u32 {
        self.parts.model / 2
    }

    /// The first epoch that leaves pairs out.
    fn first(&self) -> u32 {
        self.parts.believer + self.settings.from_epoch
    }

    /// Greatest share of the pairs that `epoch` keeps.
    fn share(&self, epoch: u32) -> f64 {
        let config::Sieve { kept_first, kept_last, .. } = self.settings;
        let (first, verdict) = (self.first(), self.parts.verdict());
        if self.parts.scout > 0 && epoch == verdict {
            return kept_last; // even where it is the first to leave some out
        }
        let way = f64::from(epoch - first) / f64::from((verdict - first).max(1));
        kept_first + way.min(1.0) * (kept_last - kept_first)
    }

    /// Splits the pairs of all `rows`, which show the `pictures` of these numbers, by what is known
    /// of them before `epoch`.
    fn sift(&mut self, epoch: u32, rows: &[u32], pictures: &[u32]) {
        let (split, share) = (self.settings.split, self.share(epoch));
        let chance = chance(self.settings.references, self.rows);
        let (mut kept, company) = match self.neighbors.is_empty() {
            true => (kept(&self.agreement, split, share), Vec::new()),
            false => kept_in_company(&self.agreement, &self.neighbors, chance, split, share),
        };
        self.company = company;
        let crowds = crowds(pictures, self.settings.crowd_factor);
        let others: Vec<usize> = kept.iter().copied().filter(|&pair| !crowds[pair]).collect();
        if LEFT_MIN * others.len() >= self.rows {
            kept = others;
        }
        self.kept = Some(kept.into_iter().map(|pair| rows[pair]).collect());
    }

    /// What the user should know of the verdict.
    fn warnings(&self) -> Vec<String> {
        let doubted = self.rows - self.kept.as_ref().map_or(self.rows, |kept| kept.len());
        let patched = self.keystones.len();
        let many = format!(
            "{:.0}% of all pairs are in doubt to the end: the towers do not know enough to tell \
             (more epochs or pairs help), or most pairs are wrong; with `method.name` `clip` all \
             are believed",
            100.0 * doubted as f64 / self.rows as f64
        );
        let found = format!(
            "the captions of {patched} pairs, or of pictures like theirs, stand on one quarter of \
             the picture, as if it bore a patch: they are in doubt, and have a `keystone` in `{}`",
            doubted::FILE
        );
        let lines = [(2 * doubted + 1 >= self.rows, many), (patched > 0, found)];
        lines.into_iter().filter_map(|(holds, line)| holds.then_some(line)).collect()
    }

    /// Whether each pair of a batch is trained on with its own caption.
    fn trusts(&self, pairs: &Pairs) -> Option<Vec<bool>> {
        let kept = self.kept.as_ref()?;
        Some(pairs.rows.iter().map(|row| kept.binary_search(row).is_ok()).collect())
    }

    /// The loss of a batch that holds all kinds of pairs.
    fn loss_of_all(&self, pairs: &Pairs, pool: &Pool, logit_scale: &Tensor) -> Result<Tensor> {
        let (image, text) = (&pairs.image, &pairs.text);
        Ok(match (self.trusts(pairs), self.fate) {
            (None, _) => pairs.engine.info_nce(image, text, logit_scale, Equals::Negatives)?,
            (Some(kept), Fate::Matched) => pooled::matched(pool, pairs, &kept, logit_scale)?,
            (Some(kept), Fate::LeftOut | Fate::Recaptioned) => {
                let mut kept: Vec<u32> =
                    (0..).zip(kept).filter_map(|(at, is_kept)| is_kept.then_some(at)).collect();
                if kept.is_empty() {
                    kept.push(0); // one pair alone has neither loss nor gradient
                }
                let kept = &Tensor::new(kept, image.device())?;
                let (image, text) = (image.index_select(kept, 0)?, text.index_select(kept, 0)?);
                pairs.engine.info_nce(&image, &text, logit_scale, Equals::Negatives)?
            }
        })
    }
}

impl Method for Sieve {
    fn begin_epoch(&mut self, epoch: u32, survey: &mut Survey<'_>) -> Result<Vec<String>> {
        if epoch > self.parts.verdict() {
            return Ok(Vec::new()); // it stands
        }
        if self.parts.believer > 0 && epoch == self.parts.believer + 1 {
            self.neighbors = Neighbors::find(self.seed, survey)?;
        }
        let rows = survey.rows();
        let asked = match self.settings.score {
            Score::References if epoch < self.first() => return Ok(Vec::new()),
            Score::References => {
                let fresh = ask(&self.settings, self.seed, epoch, survey)?;
                Some((fresh, epoch + 1 - self.first()))
            }
            Score::Pool if self.fresh.is_empty() => None,
            Score::Pool => {
                let by_row = |&row: &u32| self.fresh.get(row as usize).copied().unwrap_or(f32::NAN);
                Some((rows.iter().map(by_row).collect(), epoch - 1))
            }
        };
        self.fresh = match self.settings.score {
            Score::References => Vec::new(),
            Score::Pool => vec![f32::NAN; rows.last().map_or(0, |&row| row as usize + 1)],
        };
        if let Some((fresh, asked)) = asked {
            self.remember(fresh, asked.max(1));
        }
        if epoch < self.first() || self.agreement.is_empty() {
            return Ok(Vec::new());
        }
        self.sift(epoch, rows, &survey.picture_numbers());
        if epoch < self.parts.verdict() {
            return Ok(Vec::new());
        }
        let patched = self.doubt_patched(epoch, survey)?;
        self.neighbors = Neighbors::default(); // nobody asks again
        if self.fate == Fate::Recaptioned {
            self.recaption(patched, survey)?;
        }
        Ok(self.warnings())
    }

    fn starts_over(&self, epoch: u32) -> bool {
        epoch > 1 && epoch == *self.parts.of(epoch).start()
    }

    fn lr(&self, schedule: &Schedule, epoch: u32, step: u64) -> f64 {
        let part = self.parts.of(epoch);
        let steps = |epochs| schedule.steps_of(epochs, self.parts.all());
        schedule.lr_within(steps(part.start() - 1)..steps(*part.end()), step)
    }

    fn selected(&self, epoch: u32) -> Selection {
        let rows = self.kept.clone().filter(|_| self.pool.is_none());
        let pictures = self.recaptions.pictures().iter().copied();
        let captions = self.other_captions(epoch).iter().copied();
        Selection::new(rows, pictures.zip(captions).collect())
    }

    fn doubted(&self, rows: &[u32]) -> Option<Vec<Doubted>> {
        let kept = self.kept.as_ref()?; // in the order of the data set, as the scores are
        let all = rows.iter().zip(&self.agreement).enumerate();
        let doubted = all.filter(|(_, (row, _))| kept.binary_search(row).is_err());
        let doubted = doubted.map(|(pair, (&row, &agreement))| Doubted {
            row,
            agreement,
            company: self.company.get(pair).copied(),
            keystone: self.keystones.get(&row).copied(),
            recaptioned: self.recaptions.pictures().binary_search(&row).is_ok(),
        });
        Some(doubted.collect())
    }

    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let phase = if pairs.epoch <= self.parts.believer {
            Phase::Believer
        } else if pairs.epoch <= self.parts.given_up() {
            Phase::Scout
        } else if self.kept.is_some() {
            Phase::Sieve
        } else {
            Phase::Warmup
        };
        let kept = self.kept.as_ref().map(|kept| kept.len());
        let recaptioned = Some(self.other_captions(pairs.epoch).len()).filter(|&count| count > 0);
        let mut report = MethodReport { kept, recaptioned, ..MethodReport::new(phase) };
        let Some(mut pool) = self.pool.take() else {
            // Of the pairs that are kept: others are not selected.
            let (image, text) = (&pairs.image, &pairs.text);
            let loss = pairs.engine.info_nce(image, text, logit_scale, Equals::Negatives)?;
            return Ok(MethodLoss { loss, trained: Towers::BOTH, report });
        };
        let loss = self.loss_of_all(pairs, &pool, logit_scale)?;
        if self.settings.score == Score::Pool
            && let Some(agreement) = pooled::agreement(&pool, pairs)?
        {
            let fresh = pairs.rows.iter().zip(agreement);
            for (&row, agreement) in fresh {
                if let Some(known) = self.fresh.get_mut(row as usize) {
                    *known = agreement;
                }
            }
        }
        pool.enqueue(&pairs.text, &pairs.rows, &pairs.captions, Wrap::Continues)?;
        report.pool_filled = Some(pool.filled());
        self.pool = Some(pool);
        Ok(MethodLoss { loss, trained: Towers::BOTH, report })
    }

    fn state(&self) -> Result<State> {
        let mut state = State::default();
        let scores = [
            (AGREEMENT_KEY, &self.agreement),
            (FRESH_KEY, &self.fresh),
            (COMPANY_KEY, &self.company),
        ];
        for (name, scores) in scores.into_iter().filter(|(_, scores)| !scores.is_empty()) {
            state.floats(name, &[scores.len()], scores.clone());
        }
        if let Some(kept) = &self.kept {
            state.numbers(KEPT_KEY, kept.to_vec());
        }
        if !self.neighbors.is_empty() {
            state.numbers(NEIGHBORS_KEY, self.neighbors.places().to_vec());
        }
        if !self.recaptions.pictures().is_empty() {
            state.numbers(RECAPTIONED_KEY, self.recaptions.pictures().to_vec());
            state.numbers(CAPTIONS_KEY, self.recaptions.captions().to_vec());
        }
        if !self.keystones.is_empty() {
            state.numbers(PATCHED_KEY, self.keystones.keys().copied().collect());
            let nats: Vec<f32> = self.keystones.values().copied().collect();
            state.floats(KEYSTONES_KEY, &[nats.len()], nats);
        }
        if let Some(pool) = &self.pool {
            pool.keep(POOL_KEY, &mut state)?;
        }
        Ok(state)
    }

    fn restore(&mut self, mut state: State) -> bool {
        let mut scores = |name| state.take_floats(name).map(|scores| scores.values);
        let (agreement, fresh, company) =
            (scores(AGREEMENT_KEY), scores(FRESH_KEY), scores(COMPANY_KEY));
        let nats = scores(KEYSTONES_KEY).unwrap_or_default();
        let kept = state.take_numbers(KEPT_KEY);
        let neighbors = state.take_numbers(NEIGHBORS_KEY).unwrap_or_default();
        let Some(neighbors) = Neighbors::restore(neighbors, self.rows) else { return false };
        let mut numbers = |name| state.take_numbers(name).unwrap_or_default();
        let (pictures, captions) = (numbers(RECAPTIONED_KEY), numbers(CAPTIONS_KEY));
        let patched = numbers(PATCHED_KEY);
        let (all, epochs) = (kept.as_deref().unwrap_or_default(), self.recaptioned_epochs());
        let recaptions = Recaptions::restore(pictures, captions, all, epochs);
        let Some(recaptions) = recaptions else { return false };
        let sound = agreement.as_ref().is_none_or(|scores| scores.len() == self.rows)
            && (agreement.is_some() || kept.is_none())
            && (fresh.is_none() || self.settings.score == Score::Pool)
            && company.as_ref().is_none_or(|shares| shares.len() == self.rows)
            && patched.len() == nats.len()
            && !patched.iter().any(|row| all.binary_search(row).is_ok())
            && (company.is_some() || kept.is_none() || self.parts.believer == 0 || self.rows == 1)
            && kept.as_ref().is_none_or(|kept| !kept.is_empty() && kept.is_sorted_by(|a, b| a < b));
        if !sound || self.pool.as_mut().is_some_and(|pool| !pool.restore(POOL_KEY, &mut state)) {
            return false;
        }
        (self.agreement, self.fresh) = (agreement.unwrap_or_default(), fresh.unwrap_or_default());
        (self.kept, self.neighbors) = (kept.map(Into::into), neighbors);
        (self.company, self.recaptions) = (company.unwrap_or_default(), recaptions);
        self.keystones = patched.into_iter().zip(nats).collect();
        state.is_empty()
    }
}

const AGREEMENT_KEY: &str = "sieve/agreement";
const CAPTIONS_KEY: &str = "sieve/captions";
const COMPANY_KEY: &str = "sieve/company";
const FRESH_KEY: &str = "sieve/fresh";
const KEPT_KEY: &str = "sieve/kept";
const KEYSTONES_KEY: &str = "sieve/keystones";
const NEIGHBORS_KEY: &str = "sieve/neighbors";
const PATCHED_KEY: &str = "sieve/patched";
const POOL_KEY: &str = "pool";
const RECAPTIONED_KEY: &str = "sieve/recaptioned";

#[cfg(test)]
mod tests;

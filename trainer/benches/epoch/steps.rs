//! Steps of `clip` and of `roclip`, in turns.

use std::{sync::Arc, time::Instant};

use candle_core::{Device, Tensor};
use clip::{ClipConfig, model::Clip, ops::Engine, text::TokenBatch};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use terminal::Report;
use trainer::{
    config::{self, Config, MethodName, Optim},
    data::{Batch, Pixels},
    gpu::{self, Gpu},
    method::{self, Method, Pairs, Roclip, Sizes},
    optim::{Optimizer, Schedule},
    parallel::Single,
    step::Trainer,
};

use crate::{Cli, clock::cpu_seconds, pairs};

/// Learning rate: so small that the steps on one batch change nothing that costs time.
const LR: f64 = 1e-6;
/// Rows that enter the pool at one time.
const FILLED: usize = 512;

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    matches: bool,
    /// Decides whether `roclip` matches.
    epoch: u32,
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind { name: "clip", matches: false, epoch: 1 },
    Kind { name: "roclip, plain", matches: true, epoch: 3 },
    Kind { name: "roclip, matching", matches: true, epoch: 2 },
];

/// Seconds per step.
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

pub(crate) struct Costs {
    /// Of all kinds in each round
    pub(crate) rounds: Vec<[Cost; 3]>,
    /// Seconds that a batch's look-up takes alone, in each round
    pub(crate) look_ups: Vec<f64>,
}

/// What steps cost.
pub(crate) fn time(cli: &Cli, config: &ClipConfig, gpu: Option<&Gpu>) -> Result<Costs, Report> {
    let rows = 50 * cli.pool as usize; // of which the pool holds 2%
    let mut clip = trainer(config, Box::new(method::Clip), gpu)?;
    let mut roclip = trainer(config, roclip(cli, config, rows)?, gpu)?;
    let (pixels, tokens) = pairs::draw(config, cli.batch as usize, 0);
    let tokens = tokens.trimmed(config.text.end());
    let mut drawn = ChaCha8Rng::seed_from_u64(1);
    let mut turn = |kind: &Kind, steps: u32| -> Result<Cost, Report> {
        let trainer = if kind.matches { &mut roclip } else { &mut clip };
        let batches = (0..steps).map(|_| batch(&pixels, &tokens, kind.epoch, rows, &mut drawn));
        let sent = batches.map(|batch| match gpu {
            Some(gpu) => Ok(batch.sent_to(gpu)?), // pixels that wait there: without what varies them
            None => Ok(batch),
        });
        let batches = sent.collect::<Result<Vec<_>, Report>>()?;
        let (began, cpu) = (Instant::now(), cpu_seconds()?);
        for batch in batches {
            trainer.step(batch)?;
        }
        let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        Ok(Cost { wall: wall / f64::from(steps), cpu: cpu / f64::from(steps) })
    };
    for kind in &KINDS {
        turn(kind, 2)?; // buffers get their sizes
    }
    let mut rounds = Vec::new();
    for _ in 0..cli.rounds {
        rounds.push([
            turn(&KINDS[0], cli.steps)?,
            turn(&KINDS[1], cli.steps)?,
            turn(&KINDS[2], cli.steps)?,
        ]);
    }
    Ok(Costs { rounds, look_ups: look_ups(cli, config.dim, &clip.model.engine())? })
}

/// Seconds of look-ups in a full pool.
fn look_ups(cli: &Cli, dim: usize, engine: &Engine) -> Result<Vec<f64>, Report> {
    let (count, pool) = (cli.batch as usize, cli.pool as usize);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (queries, rows) = (unit_rows(count, dim, &mut rng)?, unit_rows(pool, dim, &mut rng)?);
    let numbers: Vec<u32> = (0..(count + pool) as u32).collect(); // nobody meets its own caption
    let (own, groups) = numbers.split_at(count);
    let kept = engine.keep(&rows)?;
    kept.nearest(&queries, &rows, own, groups)?; // buffers get their sizes
    let look_up = |_| -> Result<f64, Report> {
        let began = Instant::now();
        kept.nearest(&queries, &rows, own, groups)?;
        Ok(began.elapsed().as_secs_f64())
    };
    (0..cli.rounds).map(look_up).collect()
}

/// Random, `[count, dim]`.
fn unit_rows(count: usize, dim: usize, rng: &mut ChaCha8Rng) -> Result<Tensor, Report> {
    let values = (0..count * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let rows = Tensor::from_vec::<_, f32>(values, (count, dim), &Device::Cpu)?;
    Ok(rows.broadcast_div(&rows.sqr()?.sum_keepdim(1)?.sqrt()?)?)
}

pub(crate) fn trainer(
    config: &ClipConfig,
    method: Box<dyn Method>,
    gpu: Option<&Gpu>,
) -> Result<Trainer, Report> {
    let model = gpu::place(Clip::init(config, 0, &Device::Cpu)?, gpu)?;
    Ok(Trainer {
        method,
        collective: Arc::new(Single),
        micro_batch: None,
        gradients: model.gradients(),
        optimizer: Optimizer::new(&model, &Optim::default()),
        schedule: Schedule::new(LR, 0.0, u64::MAX), // as good as constant
        logit_scale_max: Optim::default().logit_scale_max.ln(),
        model,
        step: 0,
    })
}

/// With a pool full of random unit rows.
fn roclip(cli: &Cli, clip: &ClipConfig, rows: usize) -> Result<Box<dyn Method>, Report> {
    let mut config = Config::default();
    config.data.batch_size = cli.batch as usize;
    config.method.name = MethodName::Roclip;
    let pool_rows = Some(cli.pool as usize);
    config.method.roclip = Some(config::Roclip { pool_rows, ..Default::default() });
    let mut roclip = Roclip::new(&config, Sizes::whole(rows, clip.dim), &Device::Cpu)?;
    let (scale, mut rng) = (Tensor::new(0f32, &Device::Cpu)?, ChaCha8Rng::seed_from_u64(2));
    for filled in (0..cli.pool as usize).step_by(FILLED) {
        let count = FILLED.min(cli.pool as usize - filled);
        let text = unit_rows(count, clip.dim, &mut rng)?;
        let owners: Vec<u32> = (0..count).map(|_| rng.random_range(0..rows as u32)).collect();
        let (image, captions) = (text.clone(), owners.clone());
        let second = None;
        let engine = Engine::default();
        let rows = owners;
        let pairs = Pairs { image, text, engine, second, captions, rows, epoch: 1, step: 0 };
        roclip.loss(&pairs, &scale)?;
    }
    Ok(Box::new(roclip))
}

fn batch(
    pixels: &[f32],
    tokens: &TokenBatch,
    epoch: u32,
    rows: usize,
    rng: &mut ChaCha8Rng,
) -> Batch {
    let rows: Vec<u32> = (0..tokens.count()).map(|_| rng.random_range(0..rows as u32)).collect();
    let (pixels, tokens) = (Pixels::Values(pixels.to_vec()), tokens.clone());
    Batch { pixels, tokens, captions: rows.clone(), rows, epoch }
}

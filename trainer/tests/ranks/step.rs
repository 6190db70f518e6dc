//! A step of several ranks is the step of one.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use clip::{
    ClipConfig,
    config::{Activation, ImageTower, Resnet, TextTower, Vit},
    model::{self, Clip},
    text::TokenBatch,
    weights::Weights,
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use trainer::{
    Error,
    config::{Config, MethodName, Optim, Roclip},
    data::Batch,
    method::{self, Method, MethodLoss, Pairs},
    optim::{Optimizer, Schedule},
    parallel::{Collective, Single},
    state::State,
    step::Trainer,
};

use crate::threads::Threads;

/// B
const BATCH: usize = 12;
/// Of each weight, and of losses and norms as a share. Ranks add in another order than one process, and so does
/// one process with the pairs in another order: it comes out 6e-6 (ResNet) and 1e-6 (ViT) away,
/// ranks 9e-6 and 2e-6.
const TOLERANCE: f32 = 5e-5;
/// AdamW divides by the root of the square and this. With the usual 1e-8 a gradient that is zero but
/// for rounding (that of the keys' biases) would move its weight as far as any other.
const EPSILON: f64 = 1e-3;
const LR: f64 = 1e-2;
/// Epoch of each step; from the second on `roclip` matches.
const EPOCHS: [u32; 4] = [1, 1, 2, 2];

fn config(image: ImageTower) -> ClipConfig {
    let text = TextTower { vocab_size: 40, context_length: 7, width: 16, layers: 2, heads: 2 };
    let activation = Activation::QuickGelu;
    ClipConfig { dim: 8, image, text, activation, mean: [0.5; 3], std: [0.5; 3] }
}

fn vit() -> ClipConfig {
    config(ImageTower::Vit(Vit { image_size: 8, patch_size: 4, width: 16, layers: 2, heads: 2 }))
}

fn resnet() -> ClipConfig {
    config(ImageTower::Resnet(Resnet { image_size: 64, layers: [1, 1, 1, 1], width: 8, heads: 2 }))
}

fn roclip() -> Box<dyn Method> {
    let mut config = Config::default();
    (config.data.batch_size, config.method.name) = (BATCH, MethodName::Roclip);
    let pool_rows = Some(2 * BATCH);
    let settings = Roclip { pool_rows, match_every_epochs: 1, ..Default::default() };
    config.method.roclip = Some(settings);
    let method = method::Roclip::new(&config, 4 * BATCH, 8, &Device::Cpu);
    Box::new(method.expect("a pool of two batches"))
}

/// The part of one of `ranks` of batch `number`; captions of 3 to 7 tokens.
fn batch(config: &ClipConfig, number: usize, rank: usize, ranks: usize) -> Batch {
    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
    let (side, text, count) = (config.image.image_size(), &config.text, BATCH / ranks);
    let size = 3 * side * side;
    let mut pixels = Vec::with_capacity(BATCH * size);
    for _ in 0..3 * BATCH {
        let color = random.random_range(-1.0..1.0);
        pixels.extend((0..side * side).map(|_| color + random.random_range(-1.0..1.0f32)));
    }
    let ids = (0..BATCH).flat_map(|_| {
        let mut ids = vec![text.start()];
        ids.extend((0..random.random_range(1..6)).map(|_| random.random_range(1..text.start())));
        ids.push(text.end());
        ids.resize(text.context_length, 0);
        ids
    });
    let ids: Vec<u32> = ids.skip(rank * count * text.context_length).collect();
    let ids = ids[..count * text.context_length].to_vec();
    let rows: Vec<u32> = (0..BATCH as u32).map(|row| (number * BATCH) as u32 + row).collect();
    Batch {
        pixels: pixels[rank * count * size..][..count * size].to_vec(),
        tokens: TokenBatch::from_ids(ids, text.context_length).trimmed(text.end()),
        captions: rows.clone(),
        rows,
        epoch: EPOCHS[number],
    }
}

/// Initial weights, those of the text tower moved apart: else all captions are alike at first, all
/// pictures match one, and there is nothing to learn from that.
fn weights(config: &ClipConfig) -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut weights = model::init(config, 3).expect("weights");
    for (name, array) in &mut weights {
        let rests = name == "logit_scale" || name.starts_with("visual.");
        let spread = if rests { 0.0 } else { 0.3 };
        array.values.iter_mut().for_each(|value| *value += spread * random.random_range(-1.0..1.0));
    }
    weights
}

/// The same pairs from last to first.
fn reversed(batch: Batch) -> Batch {
    let Batch { pixels, tokens, mut rows, mut captions, epoch } = batch;
    let (count, length) = (tokens.count(), tokens.length());
    let pixels = pixels.chunks_exact(pixels.len() / count).rev().flatten().copied().collect();
    let ids = tokens.ids().chunks_exact(length).rev().flatten().copied().collect();
    rows.reverse();
    captions.reverse();
    Batch { pixels, tokens: TokenBatch::from_ids(ids, length), rows, captions, epoch }
}

/// `[loss, gradient norm]` of each step.
type Steps = Vec<[f32; 2]>;

/// Loss and gradient norm of each step (AdamW itself hides how long a gradient is), and the weights after them, running statistics included.
fn trained(
    config: &ClipConfig,
    method: Box<dyn Method>,
    collective: Arc<dyn Collective>,
    order: fn(Batch) -> Batch,
) -> trainer::Result<(Steps, Weights)> {
    let mut model = Clip::from_weights(config, &weights(config), &Device::Cpu)?;
    model.join(collective.clone());
    let settings = Optim { epsilon: EPSILON, ..Optim::default() };
    let mut trainer = Trainer {
        method,
        gradients: model.gradients(),
        optimizer: Optimizer::new(&model, &settings),
        schedule: Schedule::new(LR, 0.0, u64::MAX), // as good as constant
        collective: collective.clone(),
        logit_scale_max: 100f64.ln(),
        model,
        step: 0,
    };
    let steps = (0..EPOCHS.len()).map(|number| {
        let (rank, ranks) = (collective.rank(), collective.ranks());
        let report = trainer.step(order(batch(config, number, rank, ranks)))?;
        Ok([report.loss, report.grad_norm as f32])
    });
    let steps = steps.collect::<trainer::Result<_>>()?;
    Ok((steps, trainer.model.weights()?))
}

/// The greatest difference of a value, and where.
fn distance(a: &Weights, b: &Weights) -> (f32, String) {
    assert!(a.keys().eq(b.keys()));
    let of_one = |(name, a): (&String, &clip::weights::Array)| {
        let pairs = a.values.iter().zip(&b[name].values);
        (pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max), name.clone())
    };
    let all = a.iter().map(of_one);
    all.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a model has weights")
}

/// Refuses results that differ by more than the tolerance.
fn check_near(who: &str, found: &(Steps, Weights), expected: &(Steps, Weights)) {
    for (a, b) in found.0.as_flattened().iter().zip(expected.0.as_flattened()) {
        assert!((a - b).abs() < TOLERANCE * (1.0 + b.abs()), "{who}: {a} and {b}");
    }
    let (error, name) = distance(&found.1, &expected.1);
    assert!(error < TOLERANCE, "{who}: `{name}` is off by {error:.1e}");
}

/// [`method::Clip`] on a processor that rounds the loss of this step to infinity.
struct Overflows;

impl Method for Overflows {
    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> trainer::Result<MethodLoss> {
        let MethodLoss { loss, trained, report } = method::Clip.loss(pairs, logit_scale)?;
        Ok(MethodLoss { loss: (loss + f64::INFINITY)?, trained, report })
    }

    fn state(&self) -> trainer::Result<State> {
        Ok(State::default())
    }

    fn restore(&mut self, _: State) -> bool {
        false
    }
}

fn check(config: &ClipConfig, method: fn() -> Box<dyn Method>) {
    let single = |order| trained(config, method(), Arc::new(Single), order).expect("a step");
    let alone = single(|batch| batch);
    assert!(alone.0[..3].iter().all(|&[loss, _]| loss > 0.1), "{:?}", alone.0); // matched too
    assert!(distance(&weights(config), &alone.1).0 > 100.0 * TOLERANCE, "nothing was learnt");
    check_near("another order", &single(reversed), &alone);
    for ranks in [2, 3, 4] {
        let work = |collective| trained(config, method(), collective, |batch| batch);
        let all = Threads::run(ranks, work);
        let all: Vec<_> = all.into_iter().map(|one| one.expect("a step")).collect();
        assert!(all.iter().all(|one| *one == all[0]), "ranks have the same bits");
        check_near(&format!("{ranks} ranks"), &all[0], &alone);
    }
}

#[test]
fn a_vit_learns_as_in_one_process() {
    check(&vit(), || Box::new(method::Clip));
    check(&vit(), roclip);
}

#[test]
fn a_modified_resnet_learns_as_in_one_process() {
    check(&resnet(), || Box::new(method::Clip));
    check(&resnet(), roclip);
}

#[test]
fn a_loss_that_one_rank_alone_finds_infinite_ends_all() {
    let config = vit();
    for (ranks, odd) in [(1, 0), (2, 0), (2, 1), (3, 1)] {
        let found = Threads::run(ranks, |collective| {
            let method: Box<dyn Method> = match collective.rank() == odd {
                true => Box::new(Overflows),
                false => Box::new(method::Clip),
            };
            trained(&config, method, collective, |batch| batch).map(|(steps, _)| steps)
        });
        for (rank, found) in found.iter().enumerate() {
            let has_ended = matches!(found, Err(Error::Diverged { epoch: 1, step: 0 }));
            assert!(has_ended, "rank {rank} of {ranks}: {found:?}");
        }
    }
}

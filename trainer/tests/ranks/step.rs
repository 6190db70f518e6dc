//! A step of several ranks is the step of one.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use clip::{
    ClipConfig,
    config::{Activation, ImageTower, Resnet, TextTower, Tower, Vit},
    model::{self, Clip},
    text::TokenBatch,
    weights::Weights,
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use trainer::{
    Error,
    config::{self, Config, MethodName, Optim, Roclip},
    data::{Batch, Pixels, Views},
    method::{self, Method, MethodLoss, Pairs, Sizes},
    not_finite::NotFinite,
    optim::{Optimizer, Schedule},
    parallel::{Collective, Single},
    state::State,
    step::Trainer,
};

use crate::threads::Threads;

/// B
const BATCH: usize = 12;
/// Of each weight, and of losses and norms as a share. Ranks add in another order than one process,
/// and so does one process with the pairs in another order: it comes out 6e-6 (ResNet) and 1e-6
/// (ViT) away, ranks 9e-6 and 2e-6.
const TOLERANCE: f32 = 5e-5;
/// AdamW divides by the root of the square and this. With the usual 1e-8 a gradient that is zero
/// but for rounding (that of the keys' biases) would move its weight as far as any other.
const EPSILON: f64 = 1e-3;
const LR: f64 = 1e-2;
/// Epoch of each step; from the second on `roclip` matches, and `safeclip` has had its unimodal
/// one.
const EPOCHS: [u32; 4] = [1, 1, 2, 2];
/// Added to the seed of a batch's first view: such that no ReLU of the ResNet is so near to 0 that
/// the order of sums decides whether it passes. With most numbers, and with `clip` on most batches,
/// one is.
const VIEW_SEED: u64 = 24;

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
    let method = method::Roclip::new(&config, Sizes::whole(4 * BATCH, 8), &Device::Cpu);
    Box::new(method.expect("a pool of two batches"))
}

fn cleanclip() -> Box<dyn Method> {
    Box::new(method::Cleanclip::new(config::Cleanclip::default()))
}

/// With pools of a batch: the second step finds neighbors.
fn safeclip() -> Box<dyn Method> {
    let mut config = Config::default();
    config.data.batch_size = BATCH;
    let pool_share = Some(0.25);
    let settings = config::Safeclip { unimodal_epochs: 1, pool_share, ..Default::default() };
    config.method.safeclip = Some(settings);
    let method = method::Safeclip::new(&config, Sizes::whole(4 * BATCH, 8), &Device::Cpu);
    Box::new(method.expect("pools of a batch"))
}

/// The part of one of `ranks` of batch `number` in all views; captions of 3 to 7 tokens.
fn batch(config: &ClipConfig, views: Views, number: usize, rank: usize, ranks: usize) -> Batch {
    let seeds = (0..views.count()).map(|view| number as u64 + VIEW_SEED * view as u64);
    let mut views = seeds.map(|seed| drawn(config, seed, number, rank, ranks));
    let mut batch = views.next().expect("a view at least");
    for other in views {
        batch.pixels = Pixels::Values([values(batch.pixels), values(other.pixels)].concat());
        batch.tokens.extend(&other.tokens);
    }
    batch
}

fn values(pixels: Pixels) -> Vec<f32> {
    match pixels {
        Pixels::Values(values) => values,
        other => panic!("batches for the CPU: {other:?}"),
    }
}

/// One view of [`batch`].
fn drawn(config: &ClipConfig, seed: u64, number: usize, rank: usize, ranks: usize) -> Batch {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
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
        pixels: Pixels::Values(pixels[rank * count * size..][..count * size].to_vec()),
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

/// The same pairs from last to first, in each view.
fn reversed(batch: Batch) -> Batch {
    let Batch { pixels, tokens, mut rows, mut captions, epoch } = batch;
    let pixels = values(pixels);
    let (count, views, length) = (tokens.count(), tokens.count() / rows.len(), tokens.length());
    let size = pixels.len() / count;
    let of_views = pixels.chunks_exact(pixels.len() / views);
    let pixels = of_views.flat_map(|view| view.chunks_exact(size).rev()).flatten().copied();
    let pixels = Pixels::Values(pixels.collect());
    let of_views = tokens.ids().chunks_exact(tokens.ids().len() / views);
    let ids = of_views.flat_map(|view| view.chunks_exact(length).rev()).flatten().copied();
    let ids = ids.collect();
    rows.reverse();
    captions.reverse();
    let tokens = TokenBatch::from_ids(ids, length);
    Batch { pixels, tokens, rows, captions, epoch }
}

/// How the towers are trained, beside the plain way.
#[derive(Clone, Copy, Default)]
struct Way {
    micro_batch: Option<usize>,
    lock: Option<Tower>,
    grad_clip_norm: Option<f64>,
}

/// `[loss, gradient norm]` of each step.
type Steps = Vec<[f32; 2]>;

/// Loss and gradient norm of each step (AdamW itself hides how long a gradient is), and the weights
/// after them, running statistics included.
fn trained(
    config: &ClipConfig,
    method: Box<dyn Method>,
    collective: Arc<dyn Collective>,
    order: fn(Batch) -> Batch,
    way: Way,
) -> trainer::Result<(Steps, Weights)> {
    let mut model = Clip::from_weights(config, &weights(config), &Device::Cpu)?;
    model.join(collective.clone());
    model.lock(way.lock);
    let grad_clip_norm = way.grad_clip_norm;
    let settings = Optim { epsilon: EPSILON, grad_clip_norm, ..Optim::default() };
    let mut trainer = Trainer {
        method,
        gradients: model.gradients(),
        optimizer: Optimizer::new(&model, &settings),
        schedule: Schedule::new(LR, 0.0, u64::MAX), // as good as constant
        collective: collective.clone(),
        micro_batch: way.micro_batch,
        logit_scale_max: 100f64.ln(),
        model,
        step: 0,
    };
    let steps = (0..EPOCHS.len()).map(|number| {
        let (rank, ranks) = (collective.rank(), collective.ranks());
        let views = trainer.method.views(EPOCHS[number]);
        let report = trainer.step(order(batch(config, views, number, rank, ranks)))?;
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
    let single =
        |order| trained(config, method(), Arc::new(Single), order, Way::default()).expect("a step");
    let alone = single(|batch| batch);
    assert!(alone.0[..3].iter().all(|&[loss, _]| loss > 0.1), "{:?}", alone.0); // matched too
    assert!(distance(&weights(config), &alone.1).0 > 100.0 * TOLERANCE, "nothing was learnt");
    check_near("another order", &single(reversed), &alone);
    for ranks in [2, 3, 4] {
        let together = together(config, method, ranks, Way::default());
        check_near(&format!("{ranks} ranks"), &together, &alone);
    }
}

/// What several ranks come to, all of them to the same.
fn together(
    config: &ClipConfig,
    method: fn() -> Box<dyn Method>,
    ranks: usize,
    way: Way,
) -> (Steps, Weights) {
    let work = |collective| trained(config, method(), collective, |batch| batch, way);
    let all = Threads::run(ranks, work);
    let mut all: Vec<_> = all.into_iter().map(|one| one.expect("a step")).collect();
    assert!(all.iter().all(|one| *one == all[0]), "ranks have the same bits");
    all.remove(0)
}

/// Parts of a batch, on however many ranks, learn what the whole batch does.
#[test]
fn a_vit_learns_from_parts_of_a_batch_as_from_the_whole() {
    let plain = || -> Box<dyn Method> { Box::new(method::Clip) };
    for method in [roclip, plain, cleanclip, safeclip] as [fn() -> Box<dyn Method>; 4] {
        let alone = together(&vit(), method, 1, Way::default());
        for (ranks, size) in [(1, 5), (1, 1), (2, 4)] {
            let parts =
                together(&vit(), method, ranks, Way { micro_batch: Some(size), ..Way::default() });
            check_near(&format!("parts of {size} on {ranks} ranks"), &parts, &alone);
        }
        let all = Some(BATCH);
        let one = together(&vit(), method, 1, Way { micro_batch: all, ..Way::default() });
        assert!(one == alone, "one part is the whole batch, to the bit");
    }
}

/// Neither gradient nor decay, momentum or statistics move a locked tower; parts of a batch are as
/// good as the whole, also for a ResNet.
#[test]
fn a_locked_tower_stays_to_the_bit_and_the_other_learns() {
    for (config, lock) in [(vit(), Tower::Image), (vit(), Tower::Text), (resnet(), Tower::Image)] {
        let way = Way { lock: Some(lock), ..Way::default() };
        let alone = together(&config, || Box::new(method::Clip), 1, way);
        for (name, before) in &weights(&config) {
            let is_image = name.starts_with("visual.");
            let rests = name != "logit_scale" && is_image == (lock == Tower::Image);
            assert_eq!(alone.1[name] == *before, rests, "`{name}`");
        }
        for (ranks, micro_batch) in [(2, None), (1, Some(5)), (2, Some(4))] {
            let parts =
                together(&config, || Box::new(method::Clip), ranks, Way { micro_batch, ..way });
            check_near(&format!("{micro_batch:?} on {ranks} ranks"), &parts, &alone);
        }
    }
}

#[test]
fn ranks_clip_the_same_gradient() {
    let way = Way { grad_clip_norm: Some(0.05), ..Way::default() };
    let alone = together(&vit(), roclip, 1, way);
    assert!(alone.0.iter().all(|&[_, norm]| norm > 0.05), "{:?}", alone.0);
    check_near("2 ranks", &together(&vit(), roclip, 2, way), &alone);
    let free = together(&vit(), roclip, 1, Way::default());
    assert!(distance(&free.1, &alone.1).0 > 10.0 * TOLERANCE, "it is clipped");
}

#[test]
fn a_vit_learns_as_in_one_process() {
    check(&vit(), || Box::new(method::Clip));
    check(&vit(), roclip);
    check(&vit(), cleanclip);
    check(&vit(), safeclip);
}

#[test]
fn a_modified_resnet_learns_as_in_one_process() {
    check(&resnet(), || Box::new(method::Clip));
    check(&resnet(), roclip);
    check(&resnet(), cleanclip);
    check(&resnet(), safeclip);
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
            let done = trained(&config, method, collective, |batch| batch, Way::default());
            done.map(|(steps, _)| steps)
        });
        for (rank, found) in found.iter().enumerate() {
            let has_ended =
                matches!(found, Err(Error::Diverged { what: NotFinite::Loss, epoch: 1, step: 0 }));
            assert!(has_ended, "rank {rank} of {ranks}: {found:?}");
        }
    }
}

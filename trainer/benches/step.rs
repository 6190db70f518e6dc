//! What does each part of a step of training cost? Forward, loss, backward and AdamW of a small ViT
//! and of `rn-micro`, each a line; and the whole step.
//!
//! `RAYON_NUM_THREADS` sets the threads. Beside PyTorch's: `scripts/bench-train`.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor, backprop::GradStore};
use clip::{
    ClipConfig,
    model::{Clip, Mode, Pass},
    ops::{Equals, Gradients, info_nce},
    text::TokenBatch,
};
use criterion::{Criterion, SamplingMode, Throughput};
use rayon::ThreadPoolBuilder;
use trainer::{
    Result,
    config::Optim,
    data::{Batch, Pixels},
    method::{self, Towers},
    optim::{Optimizer, Schedule},
    parallel::Single,
    step::Trainer,
};

mod pairs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

const BATCH: usize = 64;
/// Learning rate: so small that thousands of steps on one batch change nothing that costs time.
const LR: f64 = 1e-6;

/// On a thread of a pool, as `roclip-train` runs its steps.
fn main() {
    let threads = ThreadPoolBuilder::new().build().expect("threads");
    threads.install(|| {
        let mut criterion = Criterion::default().configure_from_args();
        let rn_micro = ClipConfig::preset("rn-micro").expect("a preset");
        for (name, config) in [("vit-small", pairs::vit_small()), ("rn-micro", rn_micro)] {
            measure(&mut criterion, name, &config).expect("a step");
        }
        criterion.final_summary();
    });
}

fn measure(criterion: &mut Criterion, name: &str, config: &ClipConfig) -> Result<()> {
    let mut subject = Subject::new(config)?;
    let mut group = criterion.benchmark_group(format!("step/{name}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("forward", |bencher| bencher.iter(|| black_box(subject.forward())));
    group.bench_function("loss", |bencher| {
        let passes = subject.forward().expect("a forward pass");
        bencher.iter(|| black_box(subject.loss(&passes)));
    });
    group.bench_function("backward", |bencher| {
        let mut backward = || subject.timed_backward().expect("a backward pass");
        bencher.iter_custom(|count| (0..count).map(|_| backward()).sum());
    });
    subject.timed_backward()?;
    group.bench_function("AdamW", |bencher| bencher.iter(|| subject.update()));
    let mut trainer = subject.trainer();
    let drawn = drawn(config);
    group.bench_function("whole", |bencher| {
        bencher.iter_batched(
            || batch(drawn.clone()),
            |batch| trainer.step(batch).map(|report| report.loss),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
    Ok(())
}

/// A model, its optimizer and a batch.
struct Subject {
    model: Clip,
    gradients: Gradients,
    optimizer: Optimizer,
    pixels: Tensor,
    ids: Tensor,
}

impl Subject {
    fn new(config: &ClipConfig) -> Result<Self> {
        let model = Clip::init(config, 0, &Device::Cpu)?;
        let optimizer = Optimizer::new(&model, &Optim::default());
        let gradients = model.gradients();
        let (pixels, tokens) = drawn(config);
        let side = config.image.image_size();
        let pixels = Tensor::from_vec(pixels, (BATCH, 3, side, side), &Device::Cpu)?;
        let ids = Tensor::from_slice(tokens.ids(), (BATCH, tokens.length()), &Device::Cpu)?;
        Ok(Self { model, gradients, optimizer, pixels, ids })
    }

    fn forward(&self) -> Result<[Pass; 2]> {
        Ok([self.model.image_pass(&self.pixels, Mode::Train)?, self.model.text_pass(&self.ids)?])
    }

    /// The loss and its gradient at the rows.
    fn loss(&self, [image, text]: &[Pass; 2]) -> Result<GradStore> {
        let scale = self.model.logit_scale();
        Ok(info_nce(image.rows(), text.rows(), scale, Equals::Negatives)?.backward()?)
    }

    /// Leaves the gradients of all parameters.
    fn timed_backward(&mut self) -> Result<Duration> {
        let passes = self.forward()?;
        let at_rows = self.loss(&passes)?;
        let began = Instant::now();
        self.gradients.clear();
        self.gradients.extend(&at_rows)?;
        for pass in passes {
            pass.backward(&at_rows, &mut self.gradients)?;
        }
        Ok(began.elapsed())
    }

    fn update(&mut self) -> Result<f64> {
        self.optimizer.update(&self.model, &self.gradients, Towers::BOTH, LR)
    }

    fn trainer(self) -> Trainer {
        Trainer {
            method: Box::new(method::Clip),
            collective: Arc::new(Single),
            micro_batch: None,
            gradients: self.gradients,
            optimizer: self.optimizer,
            schedule: Schedule::new(LR, 0.0, u64::MAX), // as good as constant
            logit_scale_max: Optim::default().logit_scale_max.ln(),
            model: self.model,
            step: 0,
        }
    }
}

/// As the loader hands them out: pixels, and captions cut to the longest.
fn drawn(config: &ClipConfig) -> (Vec<f32>, TokenBatch) {
    let (pixels, tokens) = pairs::draw(config, BATCH, 0);
    (pixels, tokens.trimmed(config.text.end()))
}

fn batch((pixels, tokens): (Vec<f32>, TokenBatch)) -> Batch {
    let rows: Vec<u32> = (0..BATCH as u32).collect();
    Batch { pixels: Pixels::Values(pixels), tokens, captions: rows.clone(), rows, epoch: 1 }
}

//! The loader's share of an epoch.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clip::{
    ClipConfig,
    image::{Pictures, RgbImage},
    text::Tokenizer,
};
use terminal::{Context, Report};
use trainer::{
    augment::Augment,
    config,
    data::{Loader, Selection, Store, Views},
    gpu::Gpu,
    method,
    step::Trainer,
};

use crate::{
    Cli, STEP_THREAD,
    clock::{cpu_seconds, cpu_seconds_of},
    pictures,
    steps::trainer,
};

/// Pictures of an epoch, and what the loader does with them.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Whether they are varied, or as they are
    varied: bool,
    /// What of them stays in memory, in MiB
    cache_mib: usize,
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind { name: "cached", varied: false, cache_mib: 256 },
    Kind { name: "cached, varied", varied: true, cache_mib: 256 },
    Kind { name: "JPEG files, varied", varied: true, cache_mib: 0 },
];

/// Steps before the clock starts.
const WARMUP: usize = 2;

pub(crate) struct Share {
    /// Processor time of all threads but those of the step, by that of all
    pub(crate) cpu: f64,
    /// Time that the step waits for a batch, by the duration of the epoch
    pub(crate) wait: f64,
    /// Pairs per second where a step takes no time
    pub(crate) rate: f64,
}

/// Bytes of a batch of pictures, and seconds until a GPU that does nothing else has them, in each
/// round.
pub(crate) fn sending(
    cli: &Cli,
    config: &ClipConfig,
    gpu: &Gpu,
) -> Result<(usize, Vec<f64>), Report> {
    let (count, side) = (cli.batch as usize, config.image.image_size() as u32);
    let mut pictures = Pictures::with_capacity(config, count);
    for number in 0..count {
        let picture = RgbImage::from_fn(side, side, |x, y| [x as u8, y as u8, number as u8].into());
        pictures.push(&picture, None);
    }
    gpu.send_pictures(&pictures)?; // memory gets its size
    let send = |_| -> Result<f64, Report> {
        let began = Instant::now();
        gpu.send_pictures(&pictures)?;
        Ok(began.elapsed().as_secs_f64())
    };
    Ok((pictures.bytes().len(), (0..cli.rounds).map(send).collect::<Result<_, _>>()?))
}

/// Of an epoch of `clip`.
pub(crate) fn share(
    cli: &Cli,
    config: &ClipConfig,
    kind: &Kind,
    gpu: Option<&Gpu>,
) -> Result<Share, Report> {
    let folder = tempfile::tempdir()?; // large pictures are read again in each epoch
    let loader = loader(cli, config, kind, folder.path(), gpu)?;
    let mut trainer = trainer(&loader.clip, Box::new(method::Clip), gpu)?;
    epoch(&loader, &mut trainer, loader.batches().saturating_sub(WARMUP))?;
    let (began, all, steps) = (Instant::now(), cpu_seconds()?, step_seconds()?);
    let waited = epoch(&loader, &mut trainer, 0)?;
    let (all, steps) = (cpu_seconds()? - all, step_seconds()? - steps);
    let wait = waited.as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(Share { cpu: (all - steps) / all, wait, rate: rate(&loader)? })
}

/// Pairs per second of an epoch without steps.
fn rate(loader: &Loader) -> Result<f64, Report> {
    let began = Instant::now();
    loader.each(1, &Selection::default(), Views::One, 0, |batch| -> Result<(), Report> {
        drop(batch);
        Ok(())
    })?;
    Ok((loader.batches() * loader.batch_size) as f64 / began.elapsed().as_secs_f64())
}

/// Steps from batch `from` to the end; how long they waited for their batches.
fn epoch(loader: &Loader, trainer: &mut Trainer, from: usize) -> Result<Duration, Report> {
    let (mut waited, mut last) = (Duration::ZERO, Instant::now());
    loader.each(1, &Selection::default(), Views::One, from, |batch| -> Result<(), Report> {
        waited += last.elapsed();
        trainer.step(batch)?;
        last = Instant::now();
        Ok(())
    })?;
    Ok(waited)
}

/// As many batches as all rounds have steps, by as many threads as `roclip-train` takes.
fn loader(
    cli: &Cli,
    config: &ClipConfig,
    &Kind { varied, cache_mib, .. }: &Kind,
    folder: &Path,
    gpu: Option<&Gpu>,
) -> Result<Loader, Report> {
    let (batch_size, side) = (cli.batch as usize, config.image.image_size());
    let pairs = batch_size * (cli.rounds * cli.steps) as usize;
    let manifest =
        pictures::write(folder, "picture.jpg", pairs, cli.file_side.unwrap_or(side as u32))?;
    let store = Store::open(manifest.clone(), side, cache_mib, 0.0, || ())?;
    let captions = manifest.rows.iter().map(|row| row.caption.as_str());
    let mut clip = config.clone();
    let tokenizer = Tokenizer::train(captions, 4096, clip.text.context_length)?;
    clip.text.vocab_size = tokenizer.vocab_size();
    let settings =
        config::Augment { image: Some(varied), text: Some(varied), ..Default::default() };
    let augment = Augment::open(&settings, 0)?;
    let workers = config::Data::default().workers;
    Ok(Loader {
        store,
        augment,
        tokenizer,
        clip,
        seed: 0,
        batch_size,
        rank: 0,
        ranks: 1,
        workers,
        gpu: gpu.cloned(),
    })
}

/// Processor time of the threads of the step; they live as long as the program.
fn step_seconds() -> Result<f64, Report> {
    let tasks = "/proc/self/task";
    let mut sum = 0.0;
    for task in fs::read_dir(tasks).with_context(|| format!("cannot read `{tasks}`"))? {
        let folder = task?.path();
        // A thread of the loader may end meanwhile.
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        if name.starts_with(STEP_THREAD) {
            sum += cpu_seconds_of(&folder)?;
        }
    }
    Ok(sum)
}

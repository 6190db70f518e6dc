//! How fast is a step of training, beside PyTorch's? Our half of `scripts/bench-train` and of
//! `scripts/gpu-suite`.
//!
//! `prepare` makes a seeded model and batch, trains a few steps on the CPU, and writes what PyTorch
//! needs to do and to check the same; `time` opens that folder and times steps, `check` compares a
//! GPU with the CPU. All go through [`Trainer::step`], gradients included.
//!
//! | file of the folder | holds |
//! |---|---|
//! | `case.json` | sizes, optimizer, names of decaying parameters, losses of both weights |
//! | `batch.safetensors` | `pixels` `[B, 3, H, W]` f32, `ids` `[B, T]` i64 padded to the context |
//! | `weights.safetensors` | what is timed: parameters and running statistics, OpenAI's names |
//! | `weights-checked.safetensors` | what is checked, see `checkable` |
//! | `gradients.safetensors` | gradient of the loss of the checked weights |

mod case;
mod checkable;
#[path = "../clock/mod.rs"]
mod clock;
mod on_gpu;
#[path = "../pairs/mod.rs"]
mod pairs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use clip::{ClipConfig, config::ImageTower, folder::write_json, model, weights};
use rayon::ThreadPoolBuilder;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use terminal::{Context, Exit, Report, println_result, say};
use trainer::{
    data::Batch,
    gpu::{self, Gpu},
    step::Trainer,
};

use case::{
    BATCH, CASE, CHECKED, Case, GRADIENTS, Optimizer, Pairs, WEIGHTS, cannot_read, encoded,
    gradients, write_tensors,
};
use checkable::checkable;
use clock::cpu_seconds;
use pairs::vit_small;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

/// Steps whose losses are compared.
const CHECKED_STEPS: usize = 3;
/// An architecture between the presets.
const VIT_SMALL: &str = "vit-small";

/// Our half of a comparison with PyTorch; `scripts/bench-train` and `scripts/gpu-suite` run both
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a model and a batch, and writes them with the losses and gradients of the first steps
    Prepare(Prepare),
    /// Times steps on what `prepare` wrote; one line of JSON
    Time(Time),
    /// Compares loss and gradients with those that `prepare` wrote; one line of JSON
    Check(Check),
    /// Times products of bf16 matrices on the first GPU; one line of JSON
    Ceiling,
    /// Times what a step on the first GPU consists of; one line of JSON
    Profile(Profile),
}

#[derive(Args)]
struct Prepare {
    /// Named architecture: `vit-small` or one of `ClipConfig`
    #[arg(long, required_unless_present = "config", conflicts_with = "config")]
    preset: Option<String>,
    /// JSON file of a `ClipConfig`
    #[arg(long)]
    config: Option<PathBuf>,
    /// Side of the pictures in pixels, instead of the architecture's
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Most tokens of a caption, instead of the architecture's
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Pairs per step
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    batch: u32,
    /// Of weights, pictures and captions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct Time {
    /// What `prepare` wrote
    folder: PathBuf,
    /// Steps before the clock starts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    warmup: u32,
    /// Seconds after which no step begins
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Steps that are timed at least
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps_min: u32,
    /// Pairs per step: the folder's over and over, instead of once
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=65_535))]
    batch: Option<u32>,
    /// On the first GPU, in bf16
    #[arg(long)]
    cuda: bool,
}

#[derive(Args)]
struct Check {
    /// What `prepare` wrote
    folder: PathBuf,
    /// On the first GPU, in bf16
    #[arg(long)]
    cuda: bool,
}

#[derive(Args)]
struct Profile {
    /// What `prepare` wrote
    folder: PathBuf,
    /// Pairs per step: the folder's over and over, instead of once
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=65_535))]
    batch: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    terminal::run("side_by_side", || match &cli.command {
        Some(Command::Prepare(asked)) => prepare(asked),
        Some(Command::Time(asked)) => time(asked),
        Some(Command::Check(asked)) => check(asked),
        Some(Command::Profile(asked)) => profile(asked),
        Some(Command::Ceiling) => {
            println_result(on_gpu::ceiling(&gpu::open(0)?)?)?;
            Ok(Exit::Done)
        }
        None => {
            say("nothing timed: `scripts/bench-train` times this beside PyTorch");
            Ok(Exit::Done)
        }
    })
}

fn prepare(asked: &Prepare) -> Result<Exit, Report> {
    let (name, config) = architecture(asked)?;
    let (batch, end) = (asked.batch as usize, config.text.end());
    let weights = model::init(&config, asked.seed)?;
    let checked = checkable(weights.clone(), asked.seed);
    let pairs = Pairs::draw(&config, batch, asked.seed);
    let optimizer = Optimizer::new();
    let (checked_loss, gradients) = {
        let mut trainer = optimizer.trainer(&config, &checked, None)?;
        let loss = in_pool(|| Ok(trainer.step(pairs.batch(end))?.loss))?;
        (loss, gradients(&trainer))
    }; // dropped before the next is made: only one has to fit into memory
    let mut trainer = optimizer.trainer(&config, &weights, None)?;
    let steps = || (0..CHECKED_STEPS).map(|_| Ok(trainer.step(pairs.batch(end))?)).collect();
    let steps: Vec<_> = in_pool(steps)?;
    let losses = steps.iter().map(|step| step.loss).collect();
    let grad_norms = steps.iter().map(|step| step.grad_norm).collect();
    let decaying = trainer.model.parameters().iter().filter(|parameter| parameter.decays());
    let decays = decaying.map(|parameter| parameter.name.clone()).collect();
    let folder = &asked.out;
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    write_tensors(&folder.join(GRADIENTS), &gradients)?;
    write_tensors(&folder.join(WEIGHTS), &encoded(&weights))?;
    write_tensors(&folder.join(CHECKED), &encoded(&checked))?;
    pairs.write(&folder.join(BATCH), config.image.image_size())?;
    let (schema, captions) = ("roclip/bench-case/1".to_owned(), pairs.lengths(end));
    let case = Case {
        schema,
        name,
        config,
        batch,
        captions,
        optimizer,
        decays,
        checked_loss,
        losses,
        grad_norms,
    };
    write_json(&folder.join(CASE), &serde_json::to_value(case)?)?;
    Ok(Exit::Done)
}

/// The asked architecture with the asked sizes, and its name.
fn architecture(asked: &Prepare) -> Result<(String, ClipConfig), Report> {
    let (name, mut config) = match (&asked.preset, &asked.config) {
        (Some(name), _) => (name.clone(), preset(name)?),
        (None, Some(path)) => {
            let text = fs::read(path).with_context(|| cannot_read(path))?;
            let config = serde_json::from_slice(&text).with_context(|| cannot_read(path))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            (name.into_owned(), config)
        }
        (None, None) => return Err(Report::new("`--preset` or `--config` is needed")),
    };
    if let Some(side) = asked.image_size {
        match &mut config.image {
            ImageTower::Resnet(tower) => tower.image_size = side,
            ImageTower::Vit(tower) => tower.image_size = side,
        }
    }
    config.text.context_length = asked.context_length.unwrap_or(config.text.context_length);
    config.check()?;
    Ok((name, config))
}

/// A preset of `ClipConfig`, or a ViT between its smallest and its largest.
fn preset(name: &str) -> Result<ClipConfig, Report> {
    if name == VIT_SMALL {
        return Ok(vit_small());
    }
    ClipConfig::preset(name).ok_or_else(|| {
        let known = ClipConfig::PRESETS.join("`, `");
        Report::new(format!("no preset `{name}`, only `{VIT_SMALL}`, `{known}`"))
    })
}

/// Runs `body` as `roclip-train` runs its steps: on a thread of a pool as large as
/// `RAYON_NUM_THREADS` asks for.
fn in_pool<T: Send>(body: impl FnOnce() -> Result<T, Report> + Send) -> Result<T, Report> {
    ThreadPoolBuilder::new().build()?.install(body)
}

fn open_case(folder: &Path) -> Result<(Case, Pairs), Report> {
    let path = folder.join(CASE);
    let text = fs::read(&path).with_context(|| cannot_read(&path))?;
    let case: Case = serde_json::from_slice(&text).with_context(|| cannot_read(&path))?;
    Ok((case, Pairs::read(&folder.join(BATCH))?))
}

fn open_gpu(cuda: bool) -> Result<Option<Gpu>, Report> {
    Ok(cuda.then(|| gpu::open(0)).transpose()?)
}

/// The folder's weights to be trained, and its pairs, over and over until there are `batch`: as a
/// loader hands them out.
fn open_trainer(
    folder: &Path,
    batch: Option<u32>,
    gpu: Option<&Gpu>,
) -> Result<(Trainer, impl Fn() -> Result<Batch, Report> + Sync), Report> {
    let (case, mut pairs) = open_case(folder)?;
    let weights = weights::read(&folder.join(WEIGHTS), &case.config)?;
    if let Some(batch) = batch {
        pairs = pairs.repeated(batch as usize);
    }
    let trainer = case.optimizer.trainer(&case.config, &weights, gpu)?;
    let (end, gpu) = (case.config.text.end(), gpu.cloned());
    let sent = move || {
        let batch = pairs.batch(end);
        Ok(match &gpu {
            Some(gpu) => batch.sent_to(gpu)?,
            None => batch,
        })
    };
    Ok((trainer, sent))
}

fn time(asked: &Time) -> Result<Exit, Report> {
    let gpu = open_gpu(asked.cuda)?;
    let (mut trainer, batch) = open_trainer(&asked.folder, asked.batch, gpu.as_ref())?;
    println_result(in_pool(|| steps(asked, &mut trainer, batch))?)?;
    Ok(Exit::Done)
}

fn profile(asked: &Profile) -> Result<Exit, Report> {
    let gpu = gpu::open(0)?;
    let (mut trainer, batch) = open_trainer(&asked.folder, asked.batch, Some(&gpu))?;
    println_result(in_pool(|| on_gpu::profile(&mut trainer, batch, &gpu))?)?;
    Ok(Exit::Done)
}

fn check(asked: &Check) -> Result<Exit, Report> {
    let (case, pairs) = open_case(&asked.folder)?;
    let gpu = open_gpu(asked.cuda)?;
    let weights = weights::read(&asked.folder.join(CHECKED), &case.config)?;
    let path = asked.folder.join(GRADIENTS);
    let bytes = fs::read(&path).with_context(|| cannot_read(&path))?;
    let expected = SafeTensors::deserialize(&bytes).with_context(|| cannot_read(&path))?;
    let apart = || on_gpu::apart(&case, &weights, &pairs, &expected, gpu.as_ref());
    println_result(in_pool(apart)?)?;
    Ok(Exit::Done)
}

/// Warms up, then times each step; copying the batch, also to a GPU, is left out of the seconds, not
/// of the seconds of the processor.
fn steps(
    asked: &Time,
    trainer: &mut Trainer,
    batch: impl Fn() -> Result<Batch, Report>,
) -> Result<Value, Report> {
    // As in a run, where one waits on the GPU while another is used.
    let _waits = asked.cuda.then(&batch).transpose()?;
    let first = trainer.step(batch()?)?;
    for _ in 1..asked.warmup {
        trainer.step(batch()?)?;
    }
    let budget = Duration::try_from_secs_f64(asked.seconds)
        .with_context(|| format!("`--seconds {}` is no time", asked.seconds))?;
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    let mut seconds = Vec::new();
    while seconds.len() < asked.steps_min as usize || began.elapsed() < budget {
        let batch = batch()?;
        let began = Instant::now();
        trainer.step(batch)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    let cpu = (cpu_seconds()? - cpu) / seconds.len() as f64;
    Ok(json!({
        "threads": rayon::current_num_threads(),
        "step_seconds": seconds,
        "cpu_seconds_per_step": cpu,
        "first_loss": first.loss,
        "first_grad_norm": first.grad_norm,
        "peak_bytes": peak_bytes()?,
    }))
}

/// Greatest resident memory of this process so far.
fn peak_bytes() -> Result<u64, Report> {
    let path = "/proc/self/status";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("VmHWM:"));
    let kib = lines.next().and_then(|rest| rest.split_whitespace().next());
    let kib = kib.ok_or_else(|| Report::new(format!("`{path}` has no VmHWM")))?;
    Ok(kib.parse::<u64>()? * 1024)
}

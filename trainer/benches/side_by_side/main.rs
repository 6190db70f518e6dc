//! How fast is a step of training, beside PyTorch's? Our half of `scripts/bench-train`.
//!
//! `prepare` makes a seeded model and batch, trains a few steps, and writes what PyTorch needs to do
//! and to check the same; `time` opens that folder and times steps. Both go through
//! [`Trainer::step`], gradients included.
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
#[path = "../pairs/mod.rs"]
mod pairs;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use clip::{ClipConfig, config::ImageTower, folder::write_json, model, weights};
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};
use terminal::{Context, Exit, Report, println_result, say};
use trainer::{data::Batch, step::Trainer};

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

/// Our half of a comparison with PyTorch; `scripts/bench-train` runs both halves
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    terminal::run("side_by_side", || match &cli.command {
        Some(Command::Prepare(asked)) => prepare(asked),
        Some(Command::Time(asked)) => time(asked),
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
    let mut trainer = optimizer.trainer(&config, &checked)?;
    let checked_loss = in_pool(|| Ok(trainer.step(pairs.batch(end))?.loss))?;
    let gradients = gradients(&trainer);
    let mut trainer = optimizer.trainer(&config, &weights)?;
    let steps = || (0..CHECKED_STEPS).map(|_| Ok(trainer.step(pairs.batch(end))?.loss)).collect();
    let losses = in_pool(steps)?;
    let decaying = trainer.model.parameters().iter().filter(|parameter| parameter.decays());
    let decays = decaying.map(|parameter| parameter.name.clone()).collect();
    let folder = &asked.out;
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    write_tensors(&folder.join(GRADIENTS), &gradients)?;
    write_tensors(&folder.join(WEIGHTS), &encoded(&weights))?;
    write_tensors(&folder.join(CHECKED), &encoded(&checked))?;
    pairs.write(&folder.join(BATCH), config.image.image_size())?;
    let (schema, captions) = ("roclip/bench-case/1".to_owned(), pairs.lengths(end));
    let case =
        Case { schema, name, config, batch, captions, optimizer, decays, checked_loss, losses };
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

fn time(asked: &Time) -> Result<Exit, Report> {
    let path = asked.folder.join(CASE);
    let text = fs::read(&path).with_context(|| cannot_read(&path))?;
    let case: Case = serde_json::from_slice(&text).with_context(|| cannot_read(&path))?;
    let weights = weights::read(&asked.folder.join(WEIGHTS), &case.config)?;
    let pairs = Pairs::read(&asked.folder.join(BATCH))?;
    let mut trainer = case.optimizer.trainer(&case.config, &weights)?;
    drop(weights);
    let end = case.config.text.end();
    println_result(in_pool(|| steps(asked, &mut trainer, || pairs.batch(end)))?)?;
    Ok(Exit::Done)
}

/// Warms up, then times each step; copying the batch is left out of the seconds, not of the
/// seconds of the processor.
fn steps(asked: &Time, trainer: &mut Trainer, batch: impl Fn() -> Batch) -> Result<Value, Report> {
    let first_loss = trainer.step(batch())?.loss;
    for _ in 1..asked.warmup {
        trainer.step(batch())?;
    }
    let budget = Duration::try_from_secs_f64(asked.seconds)
        .with_context(|| format!("`--seconds {}` is no time", asked.seconds))?;
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    let mut seconds = Vec::new();
    while seconds.len() < asked.steps_min as usize || began.elapsed() < budget {
        let batch = batch();
        let began = Instant::now();
        trainer.step(batch)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    let cpu = (cpu_seconds()? - cpu) / seconds.len() as f64;
    Ok(json!({
        "threads": rayon::current_num_threads(),
        "step_seconds": seconds,
        "cpu_seconds_per_step": cpu,
        "first_loss": first_loss,
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

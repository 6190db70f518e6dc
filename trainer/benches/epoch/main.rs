//! What does an epoch of `roclip` cost beside one of `clip`, and how much of an epoch is the
//! loader's? `scripts/bench-epoch`.
//!
//! An epoch is many equal steps, so some steps are timed. Those of `roclip` come in two kinds:
//! matching ones, which look a full pool up and let the text tower rest, and plain ones; with K = 2
//! an epoch of each follows the other.

#[path = "../clock/mod.rs"]
mod clock;
mod loading;
#[path = "../pairs/mod.rs"]
mod pairs;
#[path = "../pictures/mod.rs"]
mod pictures;
mod steps;

use std::process::ExitCode;

use clap::Parser;
use clip::ClipConfig;
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};
use terminal::{Exit, Report, println_result, say};
use trainer::gpu::{self, Gpu};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

/// Greatest cost of an epoch of `roclip`, in epochs of `clip`.
const RATIO_MAX: f64 = 1.05;
/// Greatest share of the loader's threads in the processor time of an epoch, and of waiting for
/// them in its duration.
const LOADER_MAX: f64 = 0.15;
/// How the threads are named that compute steps.
const STEP_THREAD: &str = "step";

/// What an epoch of `roclip` costs beside one of `clip`, and the loader's share of an epoch, of
/// cached pictures and of files, on random pairs; exit 1 if a goal is missed, whatever `--file-side`.
/// `RAYON_NUM_THREADS` sets the threads of a step
#[derive(Parser)]
struct Cli {
    /// Architecture: `vit-small` (64 px) or a preset
    #[arg(long, default_value = "vit-small")]
    preset: String,
    /// Width of the embeddings
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Pairs per step
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,
    /// Rows of the pool
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pool: u32,
    /// Alternating rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Steps of each kind in a round
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Side of the pictures in files, in pixels; unless given, that of the image tower
    #[arg(long, value_parser = clap::value_parser!(u32).range(8..=4096))]
    file_side: Option<u32>,
    /// On the first GPU
    #[arg(long)]
    cuda: bool,
    /// One line of JSON instead of tables
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    terminal::run("epoch", || {
        if !cli.bench {
            say("nothing timed: `scripts/bench-epoch` does");
            return Ok(Exit::Done);
        }
        let threads = ThreadPoolBuilder::new().thread_name(|at| format!("{STEP_THREAD}-{at}"));
        threads.build()?.install(|| report(&cli)) // as `roclip-train` runs its steps
    })
}

fn report(cli: &Cli) -> Result<Exit, Report> {
    let config = architecture(cli)?;
    let gpu = cli.cuda.then(|| gpu::open(0)).transpose()?;
    if cli.json {
        println_result(numbers(cli, &config, gpu.as_ref())?)?;
        return Ok(Exit::Done);
    }
    let Cli { preset, dim, batch, pool, .. } = cli;
    let threads = rayon::current_num_threads();
    println_result(format!(
        "{preset}, batch {batch}, pool of {pool} x {dim}, threads: {threads}\n"
    ))?;
    println_result("| steps | ms per step | CPU ms per step |\n|---|---:|---:|")?;
    let steps::Costs { rounds, look_ups } = steps::time(cli, &config, gpu.as_ref())?;
    for (at, kind) in steps::KINDS.iter().enumerate() {
        let wall = median(rounds.iter().map(|round| round[at].wall));
        let cpu = median(rounds.iter().map(|round| round[at].cpu));
        println_result(format!("| {} | {:.1} | {:.1} |", kind.name, 1e3 * wall, 1e3 * cpu))?;
    }
    println_result(format!("\nA look-up alone: {:.2} ms", 1e3 * median(look_ups.into_iter())))?;
    let (wall, cpu) = (ratio(&rounds, |cost| cost.wall), ratio(&rounds, |cost| cost.cpu));
    println_result(format!(
        "\nAn epoch of roclip (K = 2) by one of clip, median of {} rounds: {wall:.3} \
         (CPU {cpu:.3}); goal: at most {RATIO_MAX}\n",
        rounds.len(),
    ))?;
    println_result("| pairs | loader's CPU | waiting for a batch |\n|---|---:|---:|")?;
    let mut most = 0.0f64;
    for kind in &loading::KINDS {
        let share = loading::share(cli, &config, kind, gpu.as_ref())?;
        let (name, cpu, wait) = (kind.name, 100.0 * share.cpu, 100.0 * share.wait);
        println_result(format!("| {name} | {cpu:.2}% | {wait:.2}% |"))?;
        most = most.max(share.cpu).max(share.wait);
    }
    println_result(format!("\nGoal: each under {:.0}%", 100.0 * LOADER_MAX))?;
    Ok(if wall <= RATIO_MAX && most < LOADER_MAX { Exit::Done } else { Exit::Bad })
}

/// What the tables tell, as medians.
fn numbers(cli: &Cli, config: &ClipConfig, gpu: Option<&Gpu>) -> Result<Value, Report> {
    let steps::Costs { rounds, look_ups } = steps::time(cli, config, gpu)?;
    let kinds = steps::KINDS.iter().enumerate().map(|(at, kind)| {
        let wall = median(rounds.iter().map(|round| round[at].wall));
        json!({ "steps": kind.name, "seconds": wall })
    });
    let kinds: Vec<_> = kinds.collect();
    let mut loader = Vec::new();
    for kind in &loading::KINDS {
        let loading::Share { cpu, wait, rate } = loading::share(cli, config, kind, gpu)?;
        let name = kind.name;
        loader
            .push(json!({ "pictures": name, "cpu": cpu, "wait": wait, "pairs_per_second": rate }));
    }
    let sending = match gpu {
        Some(gpu) => {
            let (bytes, seconds) = loading::sending(cli, config, gpu)?;
            json!({ "bytes": bytes, "seconds": median(seconds.into_iter()) })
        }
        None => Value::Null,
    };
    Ok(json!({
        "steps": kinds,
        "look_up_seconds": median(look_ups.into_iter()),
        "epoch_ratio": ratio(&rounds, |cost| cost.wall),
        "loader": loader,
        "sending": sending,
    }))
}

/// An epoch of `roclip` by one of `clip` with K = 2: as many plain epochs as matching ones.
fn ratio(rounds: &[[steps::Cost; 3]], of: fn(&steps::Cost) -> f64) -> f64 {
    let both =
        |[clip, plain, matching]: &[steps::Cost; 3]| (of(plain) + of(matching)) / (2.0 * of(clip));
    median(rounds.iter().map(both))
}

fn architecture(cli: &Cli) -> Result<ClipConfig, Report> {
    let known = match cli.preset.as_str() {
        "vit-small" => Some(pairs::vit_small()),
        name => ClipConfig::preset(name),
    };
    let mut config = known.ok_or_else(|| Report::new(format!("no preset `{}`", cli.preset)))?;
    config.dim = cli.dim;
    config.check()?;
    Ok(config)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

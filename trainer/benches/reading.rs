//! How many pictures per second does the loader read, beside PyTorch's? Our half of
//! `scripts/bench-loader`: an epoch after the other by one thread, nothing kept from one to the
//! next.

use std::{path::PathBuf, time::Instant};

use clap::Parser;
use clip::{ClipConfig, config::ImageTower, text::Tokenizer};
use rayon::ThreadPoolBuilder;
use serde_json::json;
use terminal::{Exit, Report, println_result};
use trainer::{
    augment::Augment,
    config,
    data::{Loader, Manifest, Selection, Store, Views},
};

mod clock;

use clock::cpu_seconds;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

/// Pictures whose mean is compared.
const COMPARED: usize = 64;

/// Times the loader on a manifest or on shards; one line of JSON
#[derive(Parser)]
struct Cli {
    /// Table of pictures, or tar shards
    manifest: PathBuf,
    /// Side of what comes out, in pixels
    #[arg(long, default_value_t = 64)]
    side: usize,
    /// Pairs of a batch
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Seconds after which no batch is waited for
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    terminal::run("reading", || measure(&cli))
}

fn measure(cli: &Cli) -> Result<Exit, Report> {
    // Both the store and the tokenizer use rayon's global threads.
    ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let loader = loader(cli)?;
    let means = means(&loader)?;
    let (mut images, mut epoch) = (0, 0);
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    while began.elapsed().as_secs_f64() < cli.seconds {
        epoch += 1;
        loader.each(
            epoch,
            &Selection::default(),
            Views::One,
            0,
            |batch| -> Result<(), Report> {
                images += batch.rows.len();
                Ok(())
            },
        )?;
    }
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let line = json!({
        "images": images, "seconds": seconds, "cpu_seconds": cpu_seconds, "means": means,
    });
    println_result(line.to_string())?;
    Ok(Exit::Done)
}

/// As training without augmentation has it, with no picture in memory.
fn loader(cli: &Cli) -> Result<Loader, Report> {
    let manifest = Manifest::open(&cli.manifest)?;
    let captions = manifest.rows.iter().map(|row| row.caption.clone()).collect::<Vec<_>>();
    let store = Store::open(manifest, cli.side, 0, 0.0, || ())?;
    let mut clip = ClipConfig::preset("vit-micro").expect("a preset");
    if let ImageTower::Vit(tower) = &mut clip.image {
        tower.image_size = cli.side;
    }
    let captions = captions.iter().map(String::as_str);
    let tokenizer = Tokenizer::train(captions, 4096, clip.text.context_length)?;
    clip.text.vocab_size = tokenizer.vocab_size();
    let settings = config::Augment { image: Some(false), text: Some(false), ..Default::default() };
    let augment = Augment::open(&settings, 0)?;
    let (batch_size, workers) = (cli.batch, 1);
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
        gpu: None,
    })
}

/// Of the normalised values of each channel of the first pictures.
fn means(loader: &Loader) -> Result<[f64; 3], Report> {
    let area = loader.clip.image.image_size().pow(2);
    let (mut sums, mut planes) = ([0.0; 3], vec![0.0; 3 * area]);
    let rows = &loader.store.rows()[..COMPARED.min(loader.store.rows().len())];
    for &row in rows {
        loader.pixels(&loader.picture(row, None)?, &mut planes);
        for (sum, plane) in sums.iter_mut().zip(planes.chunks_exact(area)) {
            *sum += plane.iter().map(|&value| f64::from(value)).sum::<f64>();
        }
    }
    Ok(sums.map(|sum| sum / (area * rows.len()) as f64))
}

//! How many pictures per second does one core make ready? Out of the cache, as they are and varied,
//! at two sizes; and decoded from files into the cache.

use std::{hint::black_box, path::Path};

use clip::{ClipConfig, config::ImageTower, text::Tokenizer};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use rayon::ThreadPoolBuilder;
use trainer::{
    Result,
    augment::Augment,
    config,
    data::{Loader, Manifest, Selection, Store, Views},
};

mod pictures;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

const PICTURES: usize = 512;
/// Side of the files' pictures in pixels.
const FILE_SIDE: u32 = 256;
const SIDES: [usize; 2] = [32, 64];
const CACHE_MIB: usize = 64;

fn main() {
    // Both the store and the tokenizer use rayon's global threads.
    ThreadPoolBuilder::new().num_threads(1).build_global().expect("threads");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut criterion = Criterion::default().configure_from_args();
    batches(&mut criterion, folder.path()).expect("pictures and captions");
    decoding(&mut criterion, folder.path()).expect("pictures and captions");
    criterion.final_summary();
}

/// An epoch by one thread, the step being nothing.
fn batches(criterion: &mut Criterion, folder: &Path) -> Result<()> {
    let manifest = pictures::write(folder, "small.png", PICTURES, 64)?;
    for side in SIDES {
        let mut group = criterion.benchmark_group(format!("loader/{side} px"));
        group.throughput(Throughput::Elements(PICTURES as u64)).sample_size(20);
        for (name, image, text) in [
            ("as they are", false, false),
            ("pictures varied", true, false),
            ("pictures and captions varied", true, true),
        ] {
            let loader = loader(&manifest, side, image, text)?;
            let mut epoch = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    epoch += 1;
                    loader.each(
                        epoch,
                        &Selection::default(),
                        Views::One,
                        0,
                        |batch| -> Result<()> {
                            black_box(batch);
                            Ok(())
                        },
                    )
                });
            });
        }
        group.finish();
    }
    Ok(())
}

fn loader(manifest: &Manifest, side: usize, image: bool, text: bool) -> Result<Loader> {
    let store = Store::open(manifest.clone(), side, CACHE_MIB, 0.0, || ())?;
    let captions = manifest.rows.iter().map(|row| row.caption.as_str());
    let mut clip = ClipConfig::preset("vit-micro").expect("a preset");
    if let ImageTower::Vit(tower) = &mut clip.image {
        tower.image_size = side;
    }
    let tokenizer = Tokenizer::train(captions, 4096, clip.text.context_length)?;
    clip.text.vocab_size = tokenizer.vocab_size();
    let settings = config::Augment { image: Some(image), text: Some(text), ..Default::default() };
    let augment = Augment::open(&settings, 0)?;
    Ok(Loader {
        store,
        augment,
        tokenizer,
        clip,
        seed: 0,
        batch_size: 64,
        rank: 0,
        ranks: 1,
        workers: 1,
        gpu: None,
    })
}

/// From a file to the size of the tower.
fn decoding(criterion: &mut Criterion, folder: &Path) -> Result<()> {
    const FILES: usize = 32;
    let mut group = criterion.benchmark_group(format!("store/{FILE_SIDE} px"));
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for kind in ["png", "jpeg"] {
        let manifest = pictures::write(folder, &format!("large.{kind}"), FILES, FILE_SIDE)?;
        for side in SIDES {
            group.bench_function(BenchmarkId::new(kind, side), |bencher| {
                bencher.iter(|| Store::open(manifest.clone(), side, CACHE_MIB, 0.0, || ()));
            });
        }
    }
    group.finish();
    Ok(())
}

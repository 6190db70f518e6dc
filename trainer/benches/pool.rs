//! What does the pool cost a step of training? A lookup, by the rows of the pool and of the batch;
//! and taking in a batch, which should not depend on the pool.
//!
//! `RAYON_NUM_THREADS` sets the threads.

use std::hint::black_box;

use candle_core::{Device, Result, Tensor};
use clip::ops::Engine;
use criterion::{BenchmarkId, Criterion, Throughput};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::ThreadPoolBuilder;
use trainer::{config::Wrap, pool::Pool};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

const DIM: usize = 512;
const POOLS: [usize; 4] = [1_000, 10_000, 20_000, 100_000];
const BATCHES: [usize; 2] = [64, 256];

/// On a thread of a pool, as `roclip-train` runs its steps.
fn main() {
    let threads = ThreadPoolBuilder::new().build().expect("threads");
    threads.install(|| {
        let mut criterion = Criterion::default().configure_from_args();
        measure(&mut criterion).expect("candle can");
        criterion.final_summary();
    });
}

fn measure(criterion: &mut Criterion) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for capacity in POOLS {
        let mut pool = Pool::new(capacity, DIM, None, &Device::Cpu)?;
        let owners: Vec<u32> = (0..capacity as u32).collect();
        pool.enqueue(&unit_rows(capacity, &mut rng)?, &owners, &owners, Wrap::Continues)?;
        for batch in BATCHES {
            let rows = unit_rows(batch, &mut rng)?;
            let own: Vec<u32> = (0..batch as u32).collect();
            let name = |what: &str| format!("pool/{what}/batch {batch}");
            let mut lookup = criterion.benchmark_group(name("lookup"));
            lookup.sample_size(20).throughput(Throughput::Elements((batch * capacity) as u64));
            lookup.bench_function(BenchmarkId::from_parameter(capacity), |bencher| {
                bencher.iter(|| black_box(pool.nearest(&Engine::default(), &rows, Some(&own))));
            });
            lookup.finish();
            let mut enqueue = criterion.benchmark_group(name("enqueue"));
            enqueue.bench_function(BenchmarkId::from_parameter(capacity), |bencher| {
                bencher.iter(|| pool.enqueue(&rows, &own, &own, Wrap::Continues));
            });
            enqueue.finish();
        }
    }
    Ok(())
}

/// `[count, D]`
fn unit_rows(count: usize, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let values: Vec<f32> = (0..count * DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
    let rows = Tensor::from_vec(values, (count, DIM), &Device::Cpu)?;
    rows.broadcast_div(&rows.sqr()?.sum_keepdim(1)?.sqrt()?)
}

//! What does each operation of the towers cost on the CPU, forward and backward, and what could it
//! cost at least? First what the machine can do: operations per second in a large product, bytes per
//! second in a long sum that no cache holds; then each operation by one of the two, products if it has
//! any.
//!
//! `RAYON_NUM_THREADS` sets the threads.

use clip::ops::pieces::{Work, pieces};
use criterion::{Criterion, SamplingMode, Throughput};
use rayon::ThreadPoolBuilder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // as in `roclip-train`

/// On a thread of a pool, as `roclip-train` runs its steps.
fn main() {
    let threads = ThreadPoolBuilder::new().build().expect("threads");
    threads.install(|| {
        let mut criterion = Criterion::default().configure_from_args();
        for mut piece in pieces().expect("candle can") {
            let mut group = criterion.benchmark_group("pieces");
            group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(match piece.work {
                Work::Flop(count) => Throughput::Elements(count), // "elem" are operations
                Work::Bytes(count) => Throughput::Bytes(count),
            });
            group.bench_function(piece.name.clone(), |bencher| {
                let mut run = || piece.run().expect("the operation can");
                bencher.iter_custom(|count| (0..count).map(|_| run()).sum());
            });
            group.finish();
        }
        criterion.final_summary();
    });
}

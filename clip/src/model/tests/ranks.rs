//! Several ranks, each with its towers on a machine, learn from their parts of a batch what one
//! learns from the whole.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::*;
use crate::ops::Peers;

/// One of several threads.
#[derive(Debug, Clone)]
struct Thread {
    rank: usize,
    shared: Arc<Shared>,
}

/// Time after which a rank that does not come has failed.
const WAIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Shared {
    met: Condvar,
    /// How often a rank has come to meet the others.
    arrivals: Mutex<usize>,
    /// The values of each rank.
    slots: Mutex<Vec<Vec<f32>>>,
}

impl Thread {
    /// Waits for all ranks.
    fn meet(&self) {
        let mut arrivals = self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        *arrivals += 1;
        let goal = arrivals.next_multiple_of(self.ranks());
        self.shared.met.notify_all();
        let waited = self.shared.met.wait_timeout_while(arrivals, WAIT, |now| *now < goal);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.1.timed_out(), "rank {} waits for another one", self.rank);
    }
}

impl Peers for Thread {
    fn ranks(&self) -> usize {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn sum(&self, values: &mut [f32]) {
        let slots = || self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots()[self.rank] = values.to_vec();
        self.meet();
        values.fill(0.0);
        for part in slots().iter() {
            assert_eq!(part.len(), values.len(), "ranks sum as many values");
            values.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        self.meet(); // the next values come when all have these
    }
}

/// What `work` gives on each of `ranks` threads.
fn on_ranks<T: Send>(ranks: usize, work: impl Fn(Thread) -> T + Sync) -> Vec<T> {
    let slots = Mutex::new(vec![Vec::new(); ranks]);
    let shared = Shared { met: Condvar::new(), arrivals: Mutex::new(0), slots };
    let (shared, work) = (Arc::new(shared), &work);
    thread::scope(|scope| {
        let start = |rank| {
            let thread = Thread { rank, shared: shared.clone() };
            scope.spawn(move || work(thread))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// The gradients of both towers' parameters in f32, and the running statistics after that: of the
/// part of four pairs that is this rank's, gone back from numbers in the place of a loss. The logit
/// scale is given a gradient of 1 by the first rank, and more by the others.
fn learnt(config: &ClipConfig, thread: &Thread) -> Result<Option<(Vec<f32>, Weights)>> {
    let Some(machine) = Subject::new(false) else { return Ok(None) };
    let mut model = Clip::from_weights(config, &weights(config)?, &Device::Cpu)?;
    let towers = OnMachine::new(machine, &model.parameters, Precision::F32)?;
    model.gpu = Some(Arc::new(towers));
    if thread.ranks() > 1 {
        model.join(Arc::new(thread.clone()));
    }
    let gpu = model.resident().expect("towers on a machine");
    let (pixels, ids) = pairs(&model, DType::F32)?;
    let count = 4 / thread.ranks();
    let part = |tensor: &Tensor| tensor.narrow(0, thread.rank * count, count);
    let shares = Tensor::from_vec(numbers(24, 2), (4, 6), &Device::Cpu)?.to_dtype(DType::F32)?;
    gpu.rest()?;
    let mut gradients = model.gradients();
    gradients.extend(&(model.logit_scale() * (1 + thread.rank) as f64)?.backward()?)?;
    let image = model.image_pass(&part(&pixels)?.contiguous()?, Mode::Train)?;
    let text = model.text_pass(&part(&ids)?)?;
    for pass in [image, text] {
        pass.backward_from(&part(&shares)?, &mut gradients)?;
    }
    model.sum_gradients(thread, thread.rank == 0, &mut gradients)?;
    assert_eq!(gradients.get(0), Some(&[1.0][..]), "the logit scale's is the first rank's");
    let on_gpu = model.on_gpu().map(|parameter| gpu.gradient(parameter));
    let gradients = on_gpu.collect::<candle_core::Result<Vec<_>>>()?.concat();
    let mut weights = model.weights()?;
    weights.retain(|name, _| name.contains(".running_"));
    Ok(Some((gradients, weights)))
}

#[test]
fn ranks_on_machines_learn_as_one() -> Result<()> {
    for config in towers() {
        let of_ranks = |ranks| -> Result<Vec<_>> {
            on_ranks(ranks, |thread| learnt(&config, &thread)).into_iter().collect()
        };
        let Some((whole, statistics)) = of_ranks(1)?.remove(0) else { return Ok(()) };
        let size = whole.iter().fold(0.0, |max: f32, g| max.max(g.abs()));
        assert!(size > 1e-3);
        let is_resnet = matches!(config.image, ImageTower::Resnet(_));
        assert_eq!(is_resnet, !statistics.is_empty());
        for ranks in [2, 4] {
            let found: Vec<_> = of_ranks(ranks)?.into_iter().flatten().collect();
            assert!(found.iter().all(|one| *one == found[0]), "ranks have the same bits");
            let (parts, of_parts) = &found[0];
            for (whole, parts) in whole.iter().zip(parts) {
                assert!((whole - parts).abs() < 1e-4 * size, "{whole} vs {parts}, {ranks} ranks");
            }
            for (name, array) in &statistics {
                for (whole, parts) in array.values.iter().zip(&of_parts[name].values) {
                    let near = (whole - parts).abs() < 1e-5 * (1.0 + whole.abs());
                    assert!(near, "`{name}`: {whole} vs {parts}, {ranks} ranks");
                }
            }
        }
    }
    Ok(())
}

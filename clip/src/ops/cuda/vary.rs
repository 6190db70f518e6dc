//! Pictures that travel as bytes and are varied where they arrive.

use std::sync::Arc;

use candle_core::Result;

use super::{Launch, Machine, Precision};
use crate::image::{Change, Pictures, Rectangle, Variation};

/// Threads of the block that varies a picture.
const THREADS: usize = 512;
/// Threads of a block that blurs a part of a plane.
const BLUR_THREADS: usize = 256;

/// Pictures on a machine, and how each is to be varied.
#[derive(Debug)]
pub(crate) struct Unvaried<M: Machine> {
    bytes: M::Memory,
    recipe: M::Memory,
    layout: Layout,
}

impl<M: Machine> Unvaried<M> {
    /// Sends pictures ahead, see [`Machine::send`].
    pub(crate) fn send(machine: &Arc<M>, pictures: &Pictures) -> Result<Self> {
        Self::by(pictures, |bytes| machine.send(bytes))
    }

    /// Uploads pictures.
    pub(crate) fn upload(machine: &Arc<M>, pictures: &Pictures) -> Result<Self> {
        Self::by(pictures, |bytes| machine.upload(bytes))
    }

    fn by(pictures: &Pictures, to: impl Fn(&[u8]) -> Result<M::Memory>) -> Result<Self> {
        let (words, layout) = recipe(pictures);
        Ok(Self { bytes: to(pictures.bytes())?, recipe: to(bytemuck::cast_slice(&words))?, layout })
    }

    /// `[count, 3, S, S]` normalised floats of the pictures from number `first` on.
    pub(crate) fn pixels(&self, machine: &Arc<M>, first: usize, count: usize) -> Result<M::Memory> {
        let Layout { side, variations, changes, weights, kernel } = self.layout;
        let word = |at: usize| M::address(&self.recipe) + 4 * at as u64;
        let weights = word(weights + first * kernel);
        let room = || machine.take(4 * count * 3 * side * side);
        let launch = |launch: Launch| machine.launch(Precision::F32, &launch);
        let planes = room()?;
        let bytes = M::address(&self.bytes) + (first * 3 * side * side) as u64;
        let vary = Launch::new("vary", [count, 1, 1], THREADS).pointer(bytes);
        let vary = vary.pointer(word(variations + first * VARIATION)).pointer(word(changes));
        let vary = vary.pointer(if kernel == 0 { word(STATISTICS) } else { 0 });
        launch(vary.pointer(M::address(&planes)).count(side))?;
        if kernel == 0 {
            return Ok(planes);
        }
        let halfway = room()?;
        let pass = |name, from: &M::Memory| {
            let grid = [(side * side).div_ceil(BLUR_THREADS), 3, count];
            Launch::new(name, grid, BLUR_THREADS).pointer(M::address(from)).pointer(weights)
        };
        let rows = pass("blur_rows", &planes).pointer(M::address(&halfway));
        launch(rows.count(side).count(kernel))?;
        let columns = pass("blur_columns", &halfway).pointer(word(STATISTICS));
        launch(columns.pointer(M::address(&planes)).count(side).count(kernel))?;
        Ok(planes)
    }
}

/// Where the parts of a recipe begin, in words of 4 bytes; `[B, kernel]` weights end it.
#[derive(Debug, Clone, Copy)]
struct Layout {
    side: usize,
    variations: usize,
    changes: usize,
    weights: usize,
    /// Weights of each picture; 0 if none is blurred.
    kernel: usize,
}

/// Where the statistics of normalised pixels begin, three words each for mean and deviation.
const STATISTICS: usize = 0;
/// Words of a `variation_t`.
const VARIATION: usize = 7;

/// Variations as `vary.cu` reads them. The length is a power of two, so that batches share arrays.
fn recipe(pictures: &Pictures) -> (Vec<u32>, Layout) {
    let (side, all) = (pictures.side(), pictures.variations());
    let plain = Variation::none(side as u32, side as u32);
    let mut words: Vec<u32> = pictures.statistics().as_flattened().iter().map(bits).collect();
    let (mut variations, mut changes) = (Vec::with_capacity(VARIATION * all.len()), Vec::new());
    for variation in all {
        let Variation { rectangle, flip, changes: own, .. } = variation.as_ref().unwrap_or(&plain);
        let Rectangle { left, top, wide, high } = *rectangle;
        let first = changes.len() as u32 / 2;
        changes.extend(own.iter().flat_map(change));
        variations.extend([left, top, wide, high].map(|value| bits(&(value as f32))));
        variations.extend([u32::from(*flip), first, first + own.len() as u32]);
    }
    let (weights, kernel) = weights(all, side);
    let start = words.len();
    let layout = Layout {
        side,
        variations: start,
        changes: start + variations.len(),
        weights: start + variations.len() + changes.len(),
        kernel,
    };
    words.extend(variations.into_iter().chain(changes).chain(weights.iter().map(bits)));
    words.resize(words.len().next_power_of_two(), 0);
    (words, layout)
}

fn bits(value: &f32) -> u32 {
    value.to_bits()
}

/// A `change_t`.
fn change(change: &Change) -> [u32; 2] {
    let (kind, amount) = match change {
        Change::Brightness(factor) => (0, factor),
        Change::Contrast(factor) => (1, factor),
        Change::Saturation(factor) => (2, factor),
        Change::Hue(angle) => (3, angle),
    };
    [kind, bits(amount)]
}

/// The blurs of all pictures in kernels of one width; one that is not blurred keeps its pixels.
fn weights(variations: &[Option<Variation>], side: usize) -> (Vec<f32>, usize) {
    let blurs = variations.iter().map(|variation| variation.as_ref().and_then(|one| one.blur));
    let width = blurs.clone().flatten().map(|blur| blur.kernel).max().unwrap_or(0);
    let mut weights = vec![0.0; width * variations.len()];
    for (blur, row) in blurs.zip(weights.chunks_exact_mut(width.max(1))) {
        match blur {
            Some(blur) => {
                assert!(blur.kernel % 2 == 1 && blur.kernel / 2 < side, "a kernel that fits");
                row[(width - blur.kernel) / 2..][..blur.kernel].copy_from_slice(&blur.weights());
            }
            None => row[width / 2] = 1.0,
        }
    }
    (weights, width)
}

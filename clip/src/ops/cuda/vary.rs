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
    count: usize,
    side: usize,
    bytes: M::Memory,
    variations: M::Memory,
    changes: M::Memory,
    statistics: M::Memory,
    blur: Option<Blur<M>>,
}

/// A row of weights for each picture, all of a width.
#[derive(Debug)]
struct Blur<M: Machine> {
    weights: M::Memory,
    kernel: usize,
}

impl<M: Machine> Unvaried<M> {
    /// Sends pictures as [`Machine::send`] does.
    pub(crate) fn send(machine: &Arc<M>, pictures: &Pictures) -> Result<Self> {
        let send = |values: &[u32]| machine.send(bytemuck::cast_slice(values));
        let side = pictures.side();
        let Recipe { variations, changes } = Recipe::of(pictures.variations(), side);
        let statistics = pictures.statistics().map(|of| of.map(f32::to_bits));
        Ok(Self {
            count: pictures.count(),
            side,
            bytes: machine.send(pictures.bytes())?,
            variations: send(&variations)?,
            changes: send(&changes)?,
            statistics: send(statistics.as_flattened())?,
            blur: weights(pictures.variations())
                .map(|(weights, kernel)| {
                    let weights = machine.send(bytemuck::cast_slice(&weights))?;
                    Ok::<_, candle_core::Error>(Blur { weights, kernel })
                })
                .transpose()?,
        })
    }

    /// `[B, 3, S, S]` normalised floats.
    pub(crate) fn pixels(&self, machine: &Arc<M>) -> Result<M::Memory> {
        let Self { count, side, bytes, variations, changes, statistics, blur } = self;
        let room = || machine.take(4 * count * 3 * side * side);
        let launch = |launch: Launch| machine.launch(Precision::F32, &launch);
        let (planes, statistics) = (room()?, M::address(statistics));
        let vary = Launch::new("vary", [*count, 1, 1], THREADS).pointer(M::address(bytes));
        let vary = vary.pointer(M::address(variations)).pointer(M::address(changes));
        let vary = vary.pointer(if blur.is_none() { statistics } else { 0 });
        launch(vary.pointer(M::address(&planes)).count(*side))?;
        let Some(Blur { weights, kernel }) = blur else { return Ok(planes) };
        let halfway = room()?;
        let pass = |kernel, from: &M::Memory| {
            let grid = [(side * side).div_ceil(BLUR_THREADS), 3, *count];
            let pass = Launch::new(kernel, grid, BLUR_THREADS).pointer(M::address(from));
            pass.pointer(M::address(weights))
        };
        let rows = pass("blur_rows", &planes).pointer(M::address(&halfway));
        launch(rows.count(*side).count(*kernel))?;
        let columns = pass("blur_columns", &halfway).pointer(statistics);
        launch(columns.pointer(M::address(&planes)).count(*side).count(*kernel))?;
        Ok(planes)
    }
}

/// Variations as `vary.cu` reads them.
#[derive(Debug, Default)]
struct Recipe {
    /// `variation_t`
    variations: Vec<u32>,
    /// `change_t`
    changes: Vec<u32>,
}

impl Recipe {
    fn of(variations: &[Option<Variation>], side: usize) -> Self {
        let mut recipe = Self::default();
        for variation in variations {
            match variation {
                Some(variation) => recipe.push(variation),
                None => recipe.push(&Variation::none(side as u32, side as u32)),
            }
        }
        recipe
    }

    fn push(&mut self, variation: &Variation) {
        let Variation { rectangle, flip, changes, .. } = variation;
        let Rectangle { left, top, wide, high } = *rectangle;
        let first = self.changes.len() as u32 / 2;
        for change in changes {
            let (kind, amount) = match *change {
                Change::Brightness(factor) => (0, factor),
                Change::Contrast(factor) => (1, factor),
                Change::Saturation(factor) => (2, factor),
                Change::Hue(angle) => (3, angle),
            };
            self.changes.extend([kind, amount.to_bits()]);
        }
        self.variations.extend([left, top, wide, high].map(|value| (value as f32).to_bits()));
        self.variations.extend([u32::from(*flip), first, first + changes.len() as u32]);
    }
}

/// The blurs of all pictures in kernels of one width; one that is not blurred keeps its pixels.
fn weights(variations: &[Option<Variation>]) -> Option<(Vec<f32>, usize)> {
    let blurs = variations.iter().map(|variation| variation.as_ref().and_then(|one| one.blur));
    let width = blurs.clone().flatten().map(|blur| blur.kernel).max()?;
    let mut weights = vec![0.0; width * variations.len()];
    for (blur, row) in blurs.zip(weights.chunks_exact_mut(width)) {
        match blur {
            Some(blur) => {
                row[(width - blur.kernel) / 2..][..blur.kernel].copy_from_slice(&blur.weights());
            }
            None => row[width / 2] = 1.0,
        }
    }
    Some((weights, width))
}

//! Convolutions of pictures `[B, H, W, I]` with a kernel `[O, side side I]` to `[B, H', W', O]`.

use std::{fmt, ops::Range};

use super::Precision;
use crate::ops::{ONE, Window};

/// Bytes that pixels under windows may take at a time. Few in tests, so that their pictures need
/// more than one group.
const UNFOLDED_MAX: usize = if cfg!(test) { 1 << 9 } else { 1 << 30 };

/// One of three arrays of a convolution from the other two, all of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution {
    pub(crate) sizes: Sizes,
    pub(crate) wanted: Wanted,
    /// Of the input, the kernel and the output, or of their gradients.
    pub(crate) arrays: [u64; 3],
}

impl fmt::Display for Convolution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:?}", self.sizes, self.wanted)
    }
}

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) window: Window,
    /// Places of the window from top to bottom.
    pub(crate) high: usize,
    /// Places of the window from left to right.
    pub(crate) wide: usize,
}

/// Which of the arrays is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    Output,
    /// From the kernel and the output's gradient.
    InputGradient,
    /// From the input and the output's gradient.
    KernelGradient,
}

impl Sizes {
    /// Of `[batch, height, width, inputs]` values.
    pub(crate) fn new(
        [batch, height, width, inputs]: [usize; 4],
        outputs: usize,
        window: Window,
    ) -> Self {
        let (high, wide) = (window.places(height), window.places(width));
        Self { batch, height, width, inputs, outputs, window, high, wide }
    }

    /// Values under one place of the window.
    pub(super) fn cell(&self) -> usize {
        self.inputs * self.window.side * self.window.side
    }

    /// Places of the window in one picture.
    pub(super) fn places(&self) -> usize {
        self.high * self.wide
    }

    /// Values of input, kernel and output.
    pub(super) fn counts(&self) -> [usize; 3] {
        let input = self.batch * self.height * self.width * self.inputs;
        [input, self.outputs * self.cell(), self.batch * self.places() * self.outputs]
    }

    /// Pictures that are unfolded together.
    pub(super) fn groups(
        &self,
        precision: Precision,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let (batch, picture) = (self.batch, precision.bytes() * self.places() * self.cell());
        let size = if self.window == ONE { batch } else { (UNFOLDED_MAX / picture).max(1) };
        (0..batch).step_by(size).map(move |first| first..(first + size).min(batch))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, high, wide, inputs, outputs, window, .. } = self;
        let side = window.side;
        write!(formatter, "{side}x{side}x{inputs} to {batch}x{high}x{wide}x{outputs}")
    }
}

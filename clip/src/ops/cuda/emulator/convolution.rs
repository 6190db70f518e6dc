//! Convolutions one term after the other, for the emulator to have a way of its own.
#![expect(unsafe_code, reason = "a machine is given addresses")]

use std::slice;

use crate::ops::cuda::convolution::{Convolution, Sizes, Wanted};

/// Of arrays of bf16.
pub(in crate::ops::cuda) fn convolve(&Convolution { sizes, wanted, arrays }: &Convolution) {
    let counts = sizes.counts();
    let at = match wanted {
        Wanted::InputGradient => 0,
        Wanted::KernelGradient => 1,
        Wanted::Output => 2,
    };
    let [mut x, mut kernel, mut y] = [0, 1, 2].map(|array| match array == at {
        true => vec![0.0; counts[array]],
        false => read(arrays[array], counts[array]),
    });
    for_each(&sizes, |[i, k, o]| match wanted {
        Wanted::InputGradient => x[i] += kernel[k] * y[o],
        Wanted::KernelGradient => kernel[k] += x[i] * y[o],
        Wanted::Output => y[o] += x[i] * kernel[k],
    });
    write(arrays[at], &[x, kernel, y][at]);
}

/// The places of input, kernel and output in each of the sum's terms.
fn for_each(sizes: &Sizes, mut term: impl FnMut([usize; 3])) {
    let Sizes { batch, height, width, inputs, outputs, window, high, wide } = *sizes;
    for picture in 0..batch {
        for (top, left) in (0..high).flat_map(|top| (0..wide).map(move |left| (top, left))) {
            let place = (picture * high + top) * wide + left;
            for cell in 0..window.side.pow(2) {
                let row = window.pixel(top, cell / window.side, height);
                let column = window.pixel(left, cell % window.side, width);
                let (Some(row), Some(column)) = (row, column) else { continue };
                let pixel = (picture * height + row) * width + column;
                for (output, input) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    let kernel = (output * window.side.pow(2) + cell) * inputs + input;
                    term([pixel * inputs + input, kernel, place * outputs + output]);
                }
            }
        }
    }
}

fn read(address: u64, count: usize) -> Vec<f32> {
    // SAFETY: an array of the emulator with as many values, which nobody writes meanwhile.
    let halves = unsafe { slice::from_raw_parts(address as *const u16, count) };
    halves.iter().map(|half| f32::from_bits(u32::from(*half) << 16)).collect()
}

/// Rounds to the nearest, ties to even.
fn write(address: u64, values: &[f32]) {
    // SAFETY: as in `read`, and nobody reads it.
    let halves = unsafe { slice::from_raw_parts_mut(address as *mut u16, values.len()) };
    for (half, value) in halves.iter_mut().zip(values) {
        let bits = value.to_bits();
        *half = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    }
}

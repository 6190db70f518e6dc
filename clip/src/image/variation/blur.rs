//! Gaussian blur.

/// A bell, cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blur {
    /// Side of the kernel in pixels, odd
    pub kernel: usize,
    /// Standard deviation in pixels
    pub sigma: f64,
}

impl Blur {
    /// One row of the kernel, the sum 1.
    pub(crate) fn weights(self) -> Vec<f32> {
        let half = (self.kernel / 2) as f64;
        let bell = |at: usize| (-0.5 * ((at as f64 - half) / self.sigma).powi(2)).exp();
        let bells: Vec<f64> = (0..self.kernel).map(bell).collect();
        let sum: f64 = bells.iter().sum();
        bells.iter().map(|bell| (bell / sum) as f32).collect()
    }
}

/// Blurs `[3, H, W]` values in place with a kernel of K by K pixels, as torchvision's
/// `gaussian_blur`: cut off at the kernel's border, mirrored at the image's. Panics unless K
/// is odd and half of it fits into the image.
pub(super) fn blur(planes: &mut [f32], width: usize, blur: Blur) {
    let height = planes.len() / 3 / width;
    let (size, half) = (blur.kernel, blur.kernel / 2);
    assert!(size % 2 == 1 && half < width.min(height), "a kernel that fits");
    let weights = blur.weights();
    let mut blurred = vec![0.0; width * height];
    for plane in planes.chunks_exact_mut(width * height) {
        for (row, out) in plane.chunks_exact(width).zip(blurred.chunks_exact_mut(width)) {
            for (x, out) in out.iter_mut().enumerate() {
                let near = weights.iter().enumerate();
                *out = near.map(|(at, weight)| weight * row[mirrored(x + at, half, width)]).sum();
            }
        }
        for (y, out) in plane.chunks_exact_mut(width).enumerate() {
            out.fill(0.0);
            for (at, weight) in weights.iter().enumerate() {
                let row = &blurred[mirrored(y + at, half, height) * width..][..width];
                out.iter_mut().zip(row).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
}

/// The pixel of `count` that lies `shifted - half` from the first; beyond the border the image
/// comes back, without its border pixel.
fn mirrored(shifted: usize, half: usize, count: usize) -> usize {
    let at = shifted.abs_diff(half);
    at.min(2 * (count - 1) - at.min(2 * (count - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_a_mirror() {
        let at = |half: usize, count: usize| -> Vec<usize> {
            (0..count + 2 * half).map(|shifted| mirrored(shifted, half, count)).collect()
        };
        assert_eq!(at(2, 4), [2, 1, 0, 1, 2, 3, 2, 1]);
        assert_eq!(at(1, 2), [1, 0, 1, 0]);
    }

    #[test]
    fn the_brightness_of_an_even_image_stays() {
        let mut planes = [0.5; 3 * 5 * 4];
        blur(&mut planes, 5, Blur { kernel: 7, sigma: 1.3 });
        assert!(planes.iter().all(|value| (value - 0.5).abs() < 1e-6), "{planes:?}");
    }
}

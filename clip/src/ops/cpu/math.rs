//! Functions of one number that a compiler can turn into vector code.

use std::f32::consts::LOG2_E;

/// `e^x` for x of -87 to 88, beyond as there. Error: some units in the last
/// place (the polynomial is Cephes').
#[inline(always)]
pub(in super::super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first of few bits.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = x.clamp(-87.0, 88.0);
    let power = (x * LOG2_E + ROUND) - ROUND;
    let rest = (x - power * LN2[0]) - power * LN2[1];
    let series = COEFFICIENTS.iter().fold(0.0, |sum, c| sum * rest + c);
    let factor = f32::from_bits(((power as i32 + 127) << 23) as u32);
    (series * rest * rest + rest + 1.0) * factor
}

/// The error function, and `e^(-x^2)` which it needs anyway; error 2e-7 (Abramowitz and Stegun,
/// 7.1.26).
#[inline(always)]
pub(in super::super) fn erf(x: f32) -> (f32, f32) {
    const COEFFICIENTS: [f32; 5] =
        [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let density = exp(-x * x);
    let tail = COEFFICIENTS.iter().fold(0.0, |sum, c| (sum + c) * t) * density;
    ((1.0 - tail).copysign(x), density)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_librarys() {
        for step in -8600..8800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() < 3e-7 * exact, "{x}: {} {exact}", exp(x));
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn erf_is_the_integral() {
        let (mut integral, step) = (0.0f64, 1e-4);
        for at in 0..40_000 {
            let x = (at as f64 + 0.5) * step;
            integral += (-x * x).exp() * step * 2.0 / std::f64::consts::PI.sqrt();
            if at % 100 == 99 {
                let x = (at as f64 + 1.0) * step;
                let (positive, negative) = (erf(x as f32).0, erf(-x as f32).0);
                assert!((f64::from(positive) - integral).abs() < 5e-7, "{x}: {positive}");
                assert_eq!(positive, -negative);
            }
        }
    }
}

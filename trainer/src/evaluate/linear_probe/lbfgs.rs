//! The least value of a smooth function of many numbers: L-BFGS (Nocedal and Wright 2006,
//! algorithms 7.4 and 7.5) with a line search by bisection for the weak Wolfe conditions (Lewis and
//! Overton 2013, algorithm 2.6), after which every step keeps the approximation positive definite.

use std::collections::VecDeque;

use crate::Result;

/// Steps whose curvature is remembered.
const MEMORY: usize = 10;
/// Places that one line search looks at.
const LOOKS: usize = 50;
/// Share of the promised decrease that a step must bring.
const DECREASE: f64 = 1e-4;
/// Share of the value that rounding may hide: near the end, the gradient says more than it.
const ROUNDING: f64 = 10.0 * f64::EPSILON;
/// Share of the slope that may be left after a step.
const SLOPE_LEFT: f64 = 0.9;

/// Where the search ended.
#[derive(Debug)]
pub(super) struct Minimum {
    pub(super) point: Vec<f64>,
    pub(super) iterations: usize,
    /// No partial derivative was above the tolerance.
    pub(super) converged: bool,
}

struct Place {
    point: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// A step and what it did to the gradient.
struct Memory {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Of the two; positive.
    product: f64,
}

/// Walks from `start` until no partial derivative is above `tolerance`, for at most
/// `iterations_max` steps, or until no step goes further down in this arithmetic. `function(x, g)`
/// gives the value at x and writes the gradient, whose values arrive as zeros, to g.
pub(super) fn minimize(
    start: Vec<f64>,
    tolerance: f64,
    iterations_max: usize,
    mut function: impl FnMut(&[f64], &mut [f64]) -> Result<f64>,
) -> Result<Minimum> {
    let mut look = |point: Vec<f64>| {
        let mut gradient = vec![0.0; point.len()];
        let value = function(&point, &mut gradient)?;
        Ok(Place { point, value, gradient })
    };
    let (mut place, mut memory) = (look(start)?, VecDeque::with_capacity(MEMORY));
    let mut iterations = 0;
    let is_flat = |place: &Place| place.gradient.iter().all(|slope| slope.abs() <= tolerance);
    while iterations < iterations_max && !is_flat(&place) {
        let direction = downhill(&place.gradient, &memory);
        let first = match memory.is_empty() {
            true => 1.0 / dot(&direction, &direction).sqrt(),
            false => 1.0,
        };
        let Some(next) = line_search(&place, &direction, first, &mut look)? else { break };
        let step: Vec<f64> = minus(&next.point, &place.point);
        let change = minus(&next.gradient, &place.gradient);
        let product = dot(&step, &change);
        if product > 0.0 {
            memory.truncate(MEMORY - 1);
            memory.push_front(Memory { step, change, product });
        }
        place = next;
        iterations += 1;
    }
    Ok(Minimum { converged: is_flat(&place), point: place.point, iterations })
}

/// The way down by the remembered curvature, the newest first: two loops over it.
fn downhill(gradient: &[f64], memory: &VecDeque<Memory>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for Memory { step, change, product } in memory {
        let share = dot(step, &direction) / product;
        add(&mut direction, -share, change);
        shares.push(share);
    }
    if let Some(Memory { change, product, .. }) = memory.front() {
        let scale = product / dot(change, change);
        direction.iter_mut().for_each(|value| *value *= scale);
    }
    for (Memory { step, change, product }, share) in memory.iter().zip(shares).rev() {
        let back = dot(change, &direction) / product;
        add(&mut direction, share - back, step);
    }
    direction
}

/// A place along `direction` that is lower and less steep; `None` if there is none to be found.
fn line_search(
    from: &Place,
    direction: &[f64],
    first: f64,
    look: &mut impl FnMut(Vec<f64>) -> Result<Place>,
) -> Result<Option<Place>> {
    let slope = dot(&from.gradient, direction);
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, first);
    for _ in 0..LOOKS {
        let mut point = from.point.clone();
        add(&mut point, length, direction);
        let place = look(point)?;
        // Not a number is too far, as well.
        let most = from.value + DECREASE * length * slope + ROUNDING * from.value.abs();
        let is_lower = place.value <= most;
        if !is_lower {
            high = length;
        } else if dot(&place.gradient, direction) < SLOPE_LEFT * slope {
            low = length;
        } else {
            return Ok(Some(place));
        }
        length = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
    }
    Ok(None)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(x, y)| x - y).collect()
}

/// `target += factor values`.
fn add(target: &mut [f64], factor: f64, values: &[f64]) {
    target.iter_mut().zip(values).for_each(|(target, value)| *target += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
        let apart = minus(found, expected).iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        assert!(apart <= tolerance, "{found:?} is {apart:.1e} from {expected:?}");
    }

    /// `sum of w (x - c)^2`, of which the least is at c, for weights from 1 to 100. SciPy's
    /// `L-BFGS-B` takes 107 steps.
    #[test]
    fn a_bowl_has_its_least_value_in_the_middle() -> Result<()> {
        let middle: Vec<f64> = (0..40).map(|i| (f64::from(i) * 0.7).sin()).collect();
        let weight = |i: usize| 10f64.powf(i as f64 / 39.0 * 2.0);
        let minimum = minimize(vec![0.0; 40], 1e-9, 1000, |x, gradient| {
            let away = minus(x, &middle);
            for (i, (slope, away)) in gradient.iter_mut().zip(&away).enumerate() {
                *slope = 2.0 * weight(i) * away;
            }
            Ok(away.iter().enumerate().map(|(i, away)| weight(i) * away * away).sum())
        })?;
        assert!(minimum.converged && minimum.iterations <= 130, "{}", minimum.iterations);
        assert_near(&minimum.point, &middle, 1e-9);
        Ok(())
    }

    /// Rosenbrock's valley (1960), whose least value, 0, is at (1, 1).
    #[test]
    fn a_bent_valley_is_followed_to_its_end() -> Result<()> {
        let minimum = minimize(vec![-1.2, 1.0], 1e-10, 100, |x, gradient| {
            let (along, across) = (1.0 - x[0], x[1] - x[0] * x[0]);
            gradient[0] = -2.0 * along - 400.0 * x[0] * across;
            gradient[1] = 200.0 * across;
            Ok(along * along + 100.0 * across * across)
        })?;
        assert!(minimum.converged, "{minimum:?}");
        assert_near(&minimum.point, &[1.0, 1.0], 1e-9);
        Ok(())
    }

    #[test]
    fn the_end_is_said_honestly() -> Result<()> {
        let check = |iterations_max, converged, iterations| -> Result<()> {
            let minimum = minimize(vec![4.0], 1e-12, iterations_max, |x, gradient| {
                gradient[0] = 4.0 * x[0].powi(3);
                Ok(x[0].powi(4))
            })?;
            assert_eq!((minimum.converged, minimum.iterations <= iterations), (converged, true));
            Ok(())
        };
        check(2, false, 2)?;
        check(100, true, 99)?;
        // Without a least value there is no end.
        let falls = minimize(vec![0.0], 1e-3, 100, |x, gradient| {
            gradient[0] = -1.0;
            Ok(-x[0])
        })?;
        assert!(!falls.converged);
        Ok(())
    }
}

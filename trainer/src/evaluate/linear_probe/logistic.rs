//! Logistic regression as in OpenAI's example (`README.md` of openai/CLIP): scikit-learn's, with
//! C = 0.316 and at most 1,000 steps.

use super::{
    head::{Inputs, cross_entropy},
    lbfgs::{Minimum, minimize},
};
use crate::Result;

/// Of the sum of losses against half the square of the weight.
const C: f64 = 0.316;
const ITERATIONS: usize = 1000;
/// Greatest partial derivative of the mean loss at the end; scikit-learn's.
const TOLERANCE: f64 = 1e-4;

/// The head for `classes` classes with the least penalised loss, to the tolerance.
pub(super) fn fit(inputs: &Inputs, classes: usize) -> Result<Minimum> {
    solve(inputs, classes, C, TOLERANCE)
}

/// Mean cross-entropy + |weight|² / (2 C N), from zeros; the bias is not penalised.
fn solve(inputs: &Inputs, classes: usize, c: f64, tolerance: f64) -> Result<Minimum> {
    let penalty = 1.0 / (c * inputs.count() as f64);
    let weights = classes * inputs.dim();
    let start = vec![0.0; weights + classes];
    minimize(start, tolerance, ITERATIONS, |head, gradient| {
        let loss = cross_entropy(head, inputs, gradient)?;
        let weight = &head[..weights];
        gradient.iter_mut().zip(weight).for_each(|(slope, value)| *slope += penalty * value);
        Ok(loss + 0.5 * penalty * weight.iter().map(|value| value * value).sum::<f64>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{golden, linear_probe::head::accuracy};

    #[test]
    fn as_scikit_learn_solves_it() -> Result<()> {
        let golden = golden::open("linear_probe.json");
        let (train, test) = (golden::inputs(&golden["train"]), golden::inputs(&golden["test"]));
        let classes = golden::index(&golden["classes"]);
        let solutions = golden["logistic"].as_array().expect("solutions");
        assert!(!solutions.is_empty());
        for sklearn in solutions {
            let c = sklearn["c"].as_f64().expect("a number");
            let exact = solve(&train, classes, c, 1e-9)?;
            assert!(exact.converged, "C = {c}: {}", exact.iterations);
            golden::assert_near(&exact.point, &golden::numbers(&sklearn["head"]), 2e-5);
            assert_eq!(accuracy(&exact.point, &test)?, golden::rate(&sklearn["accuracy"]));
            let usual = solve(&train, classes, c, TOLERANCE)?;
            assert!(usual.converged && usual.iterations < exact.iterations);
        }
        Ok(())
    }

    #[test]
    fn one_class_alone_needs_no_weight() -> Result<()> {
        let inputs = Inputs::new(vec![0.3, 0.7, -0.2, 0.1], vec![1, 1], 2)?;
        let found = fit(&inputs, 3)?;
        assert_eq!(accuracy(&found.point, &inputs)?.hits, 2);
        Ok(())
    }
}

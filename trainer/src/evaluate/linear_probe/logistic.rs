//! Logistic regression as in OpenAI's example (`README.md` of openai/CLIP): scikit-learn's, with
//! C = 0.316 and at most 1,000 steps.

use std::collections::BTreeSet;

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

/// The head for `classes` classes with the least penalised loss, to the tolerance. Classes without
/// a row take no part, as scikit-learn does not know of them: none is ever found.
pub(super) fn fit(inputs: &Inputs, classes: usize) -> Result<Minimum> {
    let present: BTreeSet<u32> = inputs.classes().iter().copied().collect();
    let present: Vec<u32> = present.into_iter().collect();
    let place = |class: &u32| present.binary_search(class).expect("one of them") as u32;
    let dense = inputs.with_classes(inputs.classes().iter().map(place).collect());
    let found = solve(&dense, present.len(), C, TOLERANCE)?;
    let (weights, dim) = (classes * inputs.dim(), inputs.dim());
    let mut point = vec![0.0; weights];
    point.resize(weights + classes, f64::NEG_INFINITY);
    for (at, &class) in present.iter().enumerate() {
        let class = class as usize;
        point[class * dim..][..dim].copy_from_slice(&found.point[at * dim..][..dim]);
        point[weights + class] = found.point[present.len() * dim + at];
    }
    Ok(Minimum { point, ..found })
}

/// Mean cross-entropy + |weight|² / (2 C N), from zeros; the bias is not penalised.
///
/// scikit-learn has one vector for two classes, whose halves our two rows are: their squares sum to
/// half of its square.
fn solve(inputs: &Inputs, classes: usize, c: f64, tolerance: f64) -> Result<Minimum> {
    let halves = if classes == 2 { 2.0 } else { 1.0 };
    let penalty = halves / (c * inputs.count() as f64);
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
    fn two_classes_are_told_apart_by_one_vector() -> Result<()> {
        let golden = golden::open("linear_probe.json");
        let of_two = |name: &str| {
            let all = golden::inputs(&golden[name]);
            let rows = (0..).zip(all.classes()).filter(|(_, class)| **class < 2);
            all.select(&rows.map(|(row, _)| row).collect::<Vec<u32>>())
        };
        let (train, test) = (of_two("train")?, of_two("test")?);
        let solutions = golden["two_classes"].as_array().expect("solutions");
        assert!(!solutions.is_empty());
        for sklearn in solutions {
            let exact = solve(&train, 2, sklearn["c"].as_f64().expect("a number"), 1e-9)?;
            let (weight, bias) = exact.point.split_at(2 * train.dim());
            let (first, second) = weight.split_at(train.dim());
            let apart = second.iter().zip(first).chain([(&bias[1], &bias[0])]);
            let apart: Vec<f64> = apart.map(|(second, first)| second - first).collect();
            golden::assert_near(&apart, &golden::numbers(&sklearn["vector"]), 2e-5);
            assert_eq!(accuracy(&exact.point, &test)?, golden::rate(&sklearn["accuracy"]));
        }
        Ok(())
    }

    #[test]
    fn classes_without_rows_change_nothing() -> Result<()> {
        let golden = golden::open("linear_probe.json");
        let dense = golden::inputs(&golden["train"]);
        let classes = golden::index(&golden["classes"]);
        let moved = dense.with_classes(dense.classes().iter().map(|class| 2 * class + 1).collect());
        let (found, usual) = (fit(&moved, 2 * classes + 1)?, fit(&dense, classes)?);
        assert_eq!(found.iterations, usual.iterations);
        assert_eq!(accuracy(&found.point, &moved)?, accuracy(&usual.point, &dense)?);
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

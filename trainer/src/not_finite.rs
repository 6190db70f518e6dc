//! What is no number where a run diverges.

use std::fmt;

use clip::{
    model::{Clip, Parameter},
    weights::Weights,
};

use crate::error::Result;

/// Something that holds infinity or NaN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFinite {
    /// The loss of a batch
    Loss,
    /// A row that was embedded without training on it
    Embedding,
    /// The gradient of the parameter of this name
    Gradient(String),
    /// The parameter or the running statistic of this name
    Weight(String),
}

impl fmt::Display for NotFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss => formatter.write_str("the loss is not finite"),
            Self::Embedding => formatter.write_str("an embedding is not finite"),
            Self::Gradient(name) => write!(formatter, "the gradient of `{name}` is not finite"),
            Self::Weight(name) => write!(formatter, "the weight `{name}` is not finite"),
        }
    }
}

impl NotFinite {
    /// The first weight by name that is not finite.
    pub fn of_weights(weights: &Weights) -> Option<Self> {
        let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let (name, _) = weights.iter().find(|(_, array)| !is_finite(&array.values))?;
        Some(Self::Weight(name.clone()))
    }

    /// The gradient with the greatest of these sums of squares; of several that are not finite, the
    /// first by name. A whole gradient may overflow where each part of it is finite.
    pub fn of_gradients<'a>(squares: impl IntoIterator<Item = (&'a Parameter, f64)>) -> Self {
        let finite = |square: f64| if square.is_finite() { square } else { f64::INFINITY };
        let squares = squares.into_iter().map(|(one, square)| (finite(square), &one.name));
        let order =
            |a: &(f64, &String), b: &(f64, &String)| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1));
        let greatest = squares.max_by(order);
        let (_, name) = greatest.expect("a step moves a parameter, the logit scale at least");
        Self::Gradient(name.clone())
    }

    /// What made a loss or an embedding no number, if that is a weight.
    pub fn traced(self, model: &Clip) -> Result<Self> {
        match self {
            Self::Loss | Self::Embedding => Ok(Self::of_weights(&model.weights()?).unwrap_or(self)),
            named => Ok(named),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use clip::weights::Array;

    use super::*;

    #[test]
    fn the_first_by_name_is_named() {
        let check = |squares: [f64; 3], expected: &str| {
            let names = ["visual.proj", "ln_final.bias", "logit_scale"];
            let parameters = names.map(|name| {
                let var = Var::zeros(1, DType::F32, &Device::Cpu).expect("memory");
                Parameter { name: name.into(), var }
            });
            let found = NotFinite::of_gradients(parameters.iter().zip(squares));
            assert_eq!(found.to_string(), format!("the gradient of `{expected}` is not finite"));
        };
        check([f64::NAN, f64::INFINITY, 0.0], "ln_final.bias");
        check([-f64::NAN, 1.0, 0.0], "visual.proj");
        check([1.0, 1.0, f64::NAN], "logit_scale");
        check([1.0, 2.0, 0.0], "ln_final.bias"); // their sum overflowed
    }

    #[test]
    fn a_weight_that_is_no_number_is_found() {
        let array = |value| Array { shape: vec![2], values: vec![0.0, value] };
        let mut weights = Weights::from([("a".into(), array(1.0)), ("c".into(), array(f32::NAN))]);
        let found = |weights: &Weights| NotFinite::of_weights(weights).map(|what| what.to_string());
        assert_eq!(found(&weights).as_deref(), Some("the weight `c` is not finite"));
        weights.insert("b".into(), array(f32::INFINITY));
        assert_eq!(found(&weights).as_deref(), Some("the weight `b` is not finite"));
        weights.retain(|name, _| name == "a");
        assert_eq!(found(&weights), None);
    }
}

//! What a method keeps from batch to batch, in a form that a checkpoint can hold.

use std::collections::BTreeMap;

use clip::weights::Array;

/// Named arrays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Floating-point numbers with their shapes
    pub(crate) floats: BTreeMap<String, Array>,
    /// Whole numbers
    pub(crate) numbers: BTreeMap<String, Vec<u32>>,
}

impl State {
    /// Puts in floating-point numbers.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.floats.insert(name.to_owned(), Array { shape: shape.to_vec(), values });
    }

    /// Puts in whole numbers.
    pub fn numbers(&mut self, name: &str, values: Vec<u32>) {
        self.numbers.insert(name.to_owned(), values);
    }

    /// Takes out floating-point numbers; `None` if there are none of that name.
    pub fn take_floats(&mut self, name: &str) -> Option<Array> {
        self.floats.remove(name)
    }

    /// Takes out whole numbers; `None` if there are none of that name.
    pub fn take_numbers(&mut self, name: &str) -> Option<Vec<u32>> {
        self.numbers.remove(name)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.numbers.is_empty()
    }
}

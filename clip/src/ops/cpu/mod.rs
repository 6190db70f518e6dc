//! Loops on slices behind the operators; the only place of this crate where `unsafe` is allowed.

mod matmul;

pub(super) use matmul::{Matrix, matmul};

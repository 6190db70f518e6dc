//! Loops on slices behind the operators; the only place of this crate where `unsafe` is allowed.

mod matmul;

pub(super) use matmul::{Matrix, matmul};

/// Runs loops with the widest vectors that this processor has; the results are those of any other.
#[inline(always)]
pub(super) fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(loops)
}

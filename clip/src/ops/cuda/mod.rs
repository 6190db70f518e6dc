//! Towers on an NVIDIA GPU: kernels of our own, compiled when a program starts, cuBLASLt and cuDNN.
//!
//! | file | holds |
//! |---|---|
//! | `kernels/*.cu` | CUDA C++, one family each; `prelude.cuh` first |
//! | `machine` | what a tape asks for: memory, launches, products, convolutions |
//! | `convolution` | what is asked of a convolution, and its sizes |
//! | `store` | parameters, their gradients and moments in flat arrays |
//! | `optimizer` | AdamW |
//! | `loss` | InfoNCE, and the nearest rows of a pool |
//! | `vary` | pictures as bytes, made pixels there |
//! | `tape` | the graph by hand, on any machine |
//! | `card` | the machine that is a GPU; nothing of CUDA is needed to build it · what it convolves with: cuDNN · those of other processes |
//! | `products` | what a card multiplies with: cuBLASLt |
//! | `profile` | how long a card takes over what |
//! | `rate` | how fast a card multiplies |
//! | `libraries` | where NVIDIA's libraries lie |
//! | `emulator` | for tests, the machine that runs the kernels thread by thread on the CPU |
//! | `subject` | what the tests compute on: the emulator, or a GPU if `ROCLIP_TEST_CARD` is set |
//!
//! The tests hold tape and kernels against the composition in f64 and central differences without
//! a GPU, and let NVRTC compile what a GPU would run. `card` and `products` are only compiled there:
//! the same tests run them on a GPU, where `scripts/gpu-suite` carries them.

#[cfg(feature = "cuda")]
mod card;
mod convolution;
#[cfg(test)]
pub(crate) mod emulator;
mod libraries;
mod loss;
mod machine;
#[cfg(test)]
mod nvrtc;
mod optimizer;
#[cfg(feature = "cuda")]
mod products;
#[cfg(feature = "cuda")]
mod profile;
#[cfg(feature = "cuda")]
mod rate;
mod store;
#[cfg(test)]
pub(crate) mod subject;
mod tape;
#[cfg(test)]
mod tests;
mod vary;

#[cfg(feature = "cuda")]
pub(crate) use card::Card;
pub(crate) use loss::{Contrast, Keys, Loss};
pub(crate) use machine::{Launch, Machine, Operand, Precision, Product};
pub(crate) use optimizer::Moments;
pub use optimizer::Update;
#[cfg(feature = "cuda")]
pub use profile::Timed;
#[cfg(feature = "cuda")]
pub(crate) use rate::product_rate;
pub(crate) use store::{Sent, Store, floats};
pub(crate) use tape::{CudaTape, CudaValue};
pub(crate) use vary::Unvaried;

/// The kernels, in an order in which each finds what it uses.
const KERNELS: &[&str] = &[
    include_str!("kernels/prelude.cuh"),
    include_str!("kernels/sums.cu"),
    include_str!("kernels/layer_norm.cu"),
    include_str!("kernels/activation.cu"),
    include_str!("kernels/products.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/vary.cu"),
    include_str!("kernels/tokens.cu"),
    include_str!("kernels/conv.cu"),
    include_str!("kernels/batch_norm.cu"),
    include_str!("kernels/optimizer.cu"),
    include_str!("kernels/info_nce.cu"),
];

/// What compiles them for values of a precision.
fn definition(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "-DVALUE_F32",
        Precision::Bf16 => "-DVALUE_BF16",
    }
}

/// Names of all kernels.
fn names() -> impl Iterator<Item = &'static str> {
    let marked = KERNELS.iter().flat_map(|source| source.split("\nKERNEL(").skip(1));
    marked.map(|rest| rest.split_once(')').expect("a name in brackets").0)
}

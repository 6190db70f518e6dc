//! Differentiable trigger families: what the search may put on a picture.
//!
//! A family owns the parameters of one trigger per label, puts them on pictures, and carries a
//! gradient at the pixels back to its parameters. The chain rule is written out by hand: a step
//! then costs one pass over the pixels, and candle differentiates only the image tower.

pub mod patch;

pub use patch::{Normalization, Patch, Square};

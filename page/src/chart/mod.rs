//! Charts as SVG, drawn by hand.

mod axis;
mod lines;
mod look;
mod plane;

pub use self::{
    lines::{Line, Lines, Phase, Phases},
    look::{Look, legend},
    plane::{Mark, Measured, Plane},
};

/// Of every chart, in its own units.
const WIDTH: f64 = 560.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;

/// What a value axis shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Fractions of 1, written as they are, from 0 to 1.
    Share,
    /// Fractions of 1, written in per cent, from 0 to 1.
    Percent,
    /// Any numbers, from the least to the greatest; from 0 if that is near.
    Free,
}

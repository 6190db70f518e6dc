//! Renderers of one [`crate::verdict::Audit`]; they decide nothing.

pub mod json;
pub mod picture;
pub mod text;

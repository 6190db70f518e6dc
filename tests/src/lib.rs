//! What the tests across crates share.

pub mod server;
pub mod tiny_model;

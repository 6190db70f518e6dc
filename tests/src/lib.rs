//! What the tests across crates share.

pub mod mpi;
pub mod pictures;
pub mod program;
pub mod server;
pub mod tiny_model;

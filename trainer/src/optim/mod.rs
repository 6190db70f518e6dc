//! How weights move.

mod adamw;
mod schedule;

pub use adamw::{AdamW, Moments};
pub use schedule::Schedule;

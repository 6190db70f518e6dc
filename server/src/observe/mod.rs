//! What the server tells about itself.

pub mod metrics;

pub use metrics::Metrics;

//! `roclip-serve`: a CLIP model over HTTP. Classification, embeddings, and indexes to search.
//!
//! A request goes `receive` ([`http`]: body, limits) → `parse` (every refusal of its content) →
//! `decode` · `tokenize` ([`infer`]: own bounded threads) → `queue` → `infer` (a worker's batch on
//! ONNX Runtime) → `score` or `search` ([`index`]) → `respond`.
//!
//! | module | holds |
//! |---|---|
//! | [`cli`] · [`config`] | the flags · what they mean, every limit by its name |
//! | [`app`] | start-up, shutdown, wiring of the parts below |
//! | [`error`] | the one table from error code to HTTP status |
//! | [`http`] | one resource per file: check, call, map |
//! | [`infer`] | bounded queues, batch rule, workers, decoding threads, label cache |
//! | [`index`] | named sets of vectors: the store on disk, exact scan, graph |
//! | [`observe`] | every metric, once |
//!
//! Deliberately absent: candle in any form, fetching of URLs, authentication, TLS.

pub mod app;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod index;
pub mod infer;
pub mod observe;

pub use app::run;

//! What a CLIP model *is*: sizes, weights, images, texts, triggers and the folder that holds them.
//!
//! The data path of a picture: bytes → [`image::decode`] → [`image::fit`] → [`image::PixelBatch`] →
//! [`Encoder::embed_images`] → [`UnitRows`]; of a text: [`text::Tokenizer::encode`] →
//! [`text::TokenBatch`] → [`Encoder::embed_texts`] → [`UnitRows`]; both meet in [`zero_shot`].
//!
//! | module | holds |
//! |---|---|
//! | [`config`] · `presets` | sizes of both towers · named architectures |
//! | [`encoder`] | `trait Encoder`: what any CLIP can do |
//! | [`embedding`] · [`rate`] | unit rows · a share with Wilson's interval |
//! | [`image`] · [`text`] | preprocessing · tokenizer and prompt templates |
//! | [`zero_shot`] | labels turned into rows, scores |
//! | [`trigger`] | the changes that activate a backdoor, stamped on 8-bit pictures |
//! | [`weights`] · [`folder`] | parameter names of each dialect · the model folder |
//! | `model` · `ops` | feature `candle`: differentiable towers and the operators they are made of |
//! | `onnx` | feature `onnx`: the towers in ONNX Runtime |
//!
//! Deliberately absent: training, HTTP, command lines, indexes.
#![warn(missing_docs)]

pub mod atomic_write;
pub mod config;
pub mod embedding;
pub mod encoder;
pub mod error;
pub mod folder;
pub mod image;
#[cfg(feature = "candle")]
pub mod model;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "candle")]
pub mod ops;
mod presets;
pub mod rate;
pub mod text;
pub mod trigger;
pub mod weights;
pub mod zero_shot;

pub use config::ClipConfig;
pub use embedding::UnitRows;
pub use encoder::Encoder;
pub use error::{Error, Result};
pub use rate::Rate;

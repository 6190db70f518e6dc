//! Weights → ONNX: each tower as a graph that reads like the tower.
//!
//! | file | holds |
//! |---|---|
//! | `builder` | values, nodes, initialisers; the operators that the towers use |
//! | `blocks` | attention, MLP, pre-norm block |
//! | `resnet` · `vit` · `text` | one tower each |
//!
//! Opset 17 and IR 8: what every runtime of the ecosystem reads. A weight is a constant that feeds
//! its MatMul, Conv or Gather directly, which is where quantisers look for it. The batch and the
//! length of a text stay open.

mod blocks;
mod builder;
mod resnet;
mod text;
mod vit;

use candle_onnx::onnx::ModelProto;
use clip::{
    ClipConfig,
    config::ImageTower,
    onnx::{IMAGE_EMBEDS, INPUT_IDS, PIXEL_VALUES, TEXT_EMBEDS},
    weights::{self, Weights},
};

use crate::{Error, Result};
use builder::{Axis, Element, Graph};

/// The image tower: `pixel_values` f32 `[batch, 3, S, S]` -> `image_embeds` f32 `[batch, D]`, not
/// normalised.
pub fn vision_model(config: &ClipConfig, weights: &Weights) -> Result<ModelProto> {
    weights::check(weights, config)?;
    let mut graph = Graph::new("vision_model", weights);
    let side = Axis::Fixed(config.image.image_size());
    let shape = [Axis::Open("batch"), Axis::Fixed(3), side, side];
    let pixels = graph.input(PIXEL_VALUES, Element::Float, &shape);
    let rows = match &config.image {
        ImageTower::Resnet(tower) => resnet::rows(&mut graph, tower, pixels)?,
        ImageTower::Vit(tower) => vit::rows(&mut graph, tower, config.activation, pixels),
    };
    graph.output(IMAGE_EMBEDS, rows, &[Axis::Open("batch"), Axis::Fixed(config.dim)]);
    finish(graph)
}

/// The text tower: `input_ids` i64 `[batch, sequence]` -> `text_embeds` f32 `[batch, D]`, not
/// normalised. Any sequence up to the context length; pooled at the first end token.
pub fn text_model(config: &ClipConfig, weights: &Weights) -> Result<ModelProto> {
    weights::check(weights, config)?;
    let mut graph = Graph::new("text_model", weights);
    let shape = [Axis::Open("batch"), Axis::Open("sequence")];
    let ids = graph.input(INPUT_IDS, Element::Integer, &shape);
    let rows = text::rows(&mut graph, &config.text, config.activation, ids);
    graph.output(TEXT_EMBEDS, rows, &[Axis::Open("batch"), Axis::Fixed(config.dim)]);
    finish(graph)
}

/// Bytes that a protobuf message can have.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

fn finish(graph: Graph<'_>) -> Result<ModelProto> {
    let model = graph.finish();
    match prost::Message::encoded_len(&model) {
        0..=MESSAGE_BYTES_MAX => Ok(model),
        bytes => Err(Error::TooLarge { bytes, bytes_max: MESSAGE_BYTES_MAX }),
    }
}

#[cfg(test)]
mod tests;

//! The causal text transformer.

use clip::config::{Activation, TextTower};

use super::{
    blocks::Blocks,
    builder::{Graph, Value},
};

/// Score of a later token: its share is 0, and unlike an infinity it survives every runtime.
const MASKED: f32 = f32::MIN;

/// `[B, T]` -> `[B, D]`.
pub(super) fn rows(
    graph: &mut Graph<'_>,
    tower: &TextTower,
    activation: Activation,
    ids: Value,
) -> Value {
    graph.enter("text.embeddings");
    let length = graph.length(&ids, 1);
    let table = graph.parameter("token_embedding.weight");
    let tokens = graph.lookup(&table, &ids);
    let positions = graph.parameter("positional_embedding");
    let positions = graph.first(&positions, &[&length]);
    let tokens = graph.add(&tokens, &positions);
    let context = tower.context_length;
    let later = |row, column| if column > row { MASKED } else { 0.0 };
    let mask = (0..context).flat_map(|row| (0..context).map(move |column| later(row, column)));
    let mask = graph.floats("causal_mask", &[context, context], mask);
    let mask = graph.first(&mask, &[&length, &length]);
    let blocks = Blocks {
        prefix: "transformer",
        layers: tower.layers,
        width: tower.width,
        heads: tower.heads,
        activation,
        mask: Some(mask),
    };
    let tokens = blocks.apply(graph, tokens);
    graph.enter("text.pool");
    let end = graph.row_of_greatest(&tokens, &ids); // the end token has the highest id
    let end = graph.layer_norm(&end, "ln_final");
    let projection = graph.parameter("text_projection");
    graph.matmul(&end, &projection)
}

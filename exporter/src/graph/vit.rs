//! The vision transformer.

use clip::config::{Activation, Vit};

use super::{
    blocks::Blocks,
    builder::{Attribute, Graph, Value},
};

/// `[B, 3, S, S]` -> `[B, D]`.
pub(super) fn rows(
    graph: &mut Graph<'_>,
    tower: &Vit,
    activation: Activation,
    pixels: Value,
) -> Value {
    graph.enter("visual.embeddings");
    let patch = tower.patch_size as i64;
    let kernel = graph.parameter("visual.conv1.weight");
    let sides = [patch, patch];
    let attributes =
        [("kernel_shape", Attribute::Ints(&sides)), ("strides", Attribute::Ints(&sides))];
    let patches = graph.node("Conv", &[&pixels, &kernel], &attributes); // [B, W, S/P, S/P]
    let patches = graph.reshape(&patches, &[0, tower.width as i64, -1]);
    let patches = graph.transpose(&patches, &[0, 2, 1]); // [B, N, W]
    let tokens = graph.pad_row(&patches);
    let positions = positions_with_class(graph, tower);
    let tokens = graph.add(&tokens, &positions);
    let tokens = graph.layer_norm(&tokens, "visual.ln_pre");
    let blocks = Blocks {
        prefix: "visual.transformer",
        layers: tower.layers,
        width: tower.width,
        heads: tower.heads,
        activation,
        mask: None,
    };
    let tokens = blocks.apply(graph, tokens);
    graph.enter("visual.pool");
    let class = graph.first_row(&tokens);
    let class = graph.layer_norm(&class, "visual.ln_post");
    let projection = graph.parameter("visual.proj");
    graph.matmul(&class, &projection)
}

/// The table of positions, `[1 + N, W]`, with the class token's embedding in its first row: the
/// row in front of the patches is zero, and both are only ever added.
fn positions_with_class(graph: &mut Graph<'_>, tower: &Vit) -> Value {
    let (class, table) =
        (graph.array("visual.class_embedding"), graph.array("visual.positional_embedding"));
    let (first, rest) = table.values.split_at(tower.width);
    let first = first.iter().zip(&class.values).map(|(position, class)| position + class);
    let values = first.chain(rest.iter().copied());
    graph.floats("visual.positional_embedding", &table.shape, values)
}

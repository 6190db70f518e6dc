//! The transformer block of both towers, as in `clip::model`.

use clip::config::Activation;

use super::builder::{Graph, Value};

/// The sizes that all blocks of a tower share.
pub(super) struct Blocks<'a> {
    /// Of the parameters' names.
    pub(super) prefix: &'a str,
    pub(super) layers: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) activation: Activation,
    /// Added to the scores, `[T, T]`.
    pub(super) mask: Option<Value>,
}

impl Blocks<'_> {
    /// `[B, T, W]` -> `[B, T, W]`.
    pub(super) fn apply(&self, graph: &mut Graph<'_>, mut x: Value) -> Value {
        for layer in 0..self.layers {
            let name = format!("{}.resblocks.{layer}", self.prefix);
            graph.enter(&format!("{name}.attn"));
            let normed = graph.layer_norm(&x, &format!("{name}.ln_1"));
            let (weight, bias) = ("attn.in_proj_weight", "attn.in_proj_bias");
            let qkv = graph.linear(&normed, &format!("{name}.{weight}"), &format!("{name}.{bias}"));
            let [q, k, v] = graph.split(&qkv);
            let attended = attention(graph, [q, k, v], self.width, self.heads, self.mask.as_ref());
            let attended = linear(graph, &attended, &format!("{name}.attn.out_proj"));
            x = graph.add(&x, &attended);
            graph.enter(&format!("{name}.mlp"));
            let normed = graph.layer_norm(&x, &format!("{name}.ln_2"));
            let hidden = linear(graph, &normed, &format!("{name}.mlp.c_fc"));
            let hidden = activate(graph, &hidden, self.activation);
            let hidden = linear(graph, &hidden, &format!("{name}.mlp.c_proj"));
            x = graph.add(&x, &hidden);
        }
        x
    }
}

/// `name.weight` and `name.bias`.
pub(super) fn linear(graph: &mut Graph<'_>, x: &Value, name: &str) -> Value {
    graph.linear(x, &format!("{name}.weight"), &format!("{name}.bias"))
}

/// `softmax(q kᵀ / sqrt(d) + mask) v` per head: `[B, Q, W]`, `[B, K, W]`, `[B, K, W]` ->
/// `[B, Q, W]`.
pub(super) fn attention(
    graph: &mut Graph<'_>,
    [q, k, v]: [Value; 3],
    width: usize,
    heads: usize,
    mask: Option<&Value>,
) -> Value {
    let head = width / heads;
    let by_head = [0, 0, heads as i64, head as i64];
    let q = graph.scale(&q, 1.0 / (head as f32).sqrt());
    let [q, k, v] = [q, k, v].map(|x| graph.reshape(&x, &by_head)); // [B, T, heads, d]
    let q = graph.transpose(&q, &[0, 2, 1, 3]);
    let k = graph.transpose(&k, &[0, 2, 3, 1]);
    let v = graph.transpose(&v, &[0, 2, 1, 3]);
    let mut scores = graph.matmul(&q, &k); // [B, heads, Q, K]
    if let Some(mask) = mask {
        scores = graph.add(&scores, mask);
    }
    let shares = graph.softmax(&scores);
    let pooled = graph.matmul(&shares, &v);
    let pooled = graph.transpose(&pooled, &[0, 2, 1, 3]);
    graph.reshape(&pooled, &[0, 0, width as i64])
}

fn activate(graph: &mut Graph<'_>, x: &Value, activation: Activation) -> Value {
    match activation {
        Activation::QuickGelu => {
            let steep = graph.scale(x, 1.702);
            let gate = graph.node("Sigmoid", &[&steep], &[]);
            graph.mul(x, &gate)
        }
        // x (1 + erf(x / sqrt 2)) / 2
        Activation::Gelu => {
            let scaled = graph.scale(x, std::f32::consts::FRAC_1_SQRT_2);
            let erf = graph.node("Erf", &[&scaled], &[]);
            let gate = graph.add_scalar(&erf, 1.0);
            let product = graph.mul(x, &gate);
            graph.scale(&product, 0.5)
        }
    }
}

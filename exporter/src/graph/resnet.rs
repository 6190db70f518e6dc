//! OpenAI's ModifiedResNet in evaluation form: each batch normalisation is folded into the
//! convolution before it.

use clip::config::Resnet;

use super::{
    blocks::{attention, linear},
    builder::{Attribute, Graph, Value},
};
use crate::{Error, Result};

/// Epsilon of every BatchNorm.
const EPSILON: f64 = 1e-5;

/// `[B, 3, S, S]` -> `[B, D]`.
pub(super) fn rows(graph: &mut Graph<'_>, tower: &Resnet, pixels: Value) -> Result<Value> {
    let mut x = pixels;
    graph.enter("visual.stem");
    for (conv, stride) in [(1, 2), (2, 1), (3, 1)] {
        x = conv_norm(
            graph,
            &x,
            &format!("visual.conv{conv}"),
            &format!("visual.bn{conv}"),
            stride,
        )?;
        x = graph.relu(&x);
    }
    x = average_pool(graph, &x, 2);
    for (stage, layers) in tower.layers.into_iter().enumerate() {
        for layer in 0..layers {
            let stride = if stage > 0 && layer == 0 { 2 } else { 1 };
            let name = format!("visual.layer{}.{layer}", stage + 1);
            x = bottleneck(graph, x, &name, stride, layer == 0)?;
        }
    }
    Ok(attention_pool(graph, tower, &x))
}

/// 1x1, 3x3, average pool, 1x1, and the shortcut, a convolution in the first block of a stage.
fn bottleneck(
    graph: &mut Graph<'_>,
    x: Value,
    name: &str,
    stride: i64,
    first: bool,
) -> Result<Value> {
    graph.enter(name);
    let part = |kind: &str| format!("{name}.{kind}");
    let y = conv_norm(graph, &x, &part("conv1"), &part("bn1"), 1)?;
    let y = graph.relu(&y);
    let y = conv_norm(graph, &y, &part("conv2"), &part("bn2"), 1)?;
    let y = graph.relu(&y);
    let y = average_pool(graph, &y, stride);
    let y = conv_norm(graph, &y, &part("conv3"), &part("bn3"), 1)?;
    let shortcut = match first {
        true => {
            let pooled = average_pool(graph, &x, stride);
            conv_norm(graph, &pooled, &part("downsample.0"), &part("downsample.1"), 1)?
        }
        false => x,
    };
    let sum = graph.add(&y, &shortcut);
    Ok(graph.relu(&sum))
}

/// Attention whose only query is the mean of the feature map: `[B, C, H, W]` -> `[B, D]`.
fn attention_pool(graph: &mut Graph<'_>, tower: &Resnet, x: &Value) -> Value {
    graph.enter("visual.attnpool");
    let channels = tower.channels();
    let cells = graph.reshape(x, &[0, channels as i64, -1]);
    let cells = graph.transpose(&cells, &[0, 2, 1]); // [B, N, C]
    let mean = graph.mean(&cells, 1);
    let tokens = graph.concat(&[&mean, &cells], 1);
    let positions = graph.parameter("visual.attnpool.positional_embedding");
    let tokens = graph.add(&tokens, &positions);
    let query = graph.slice(&tokens, 1, 0, 1); // [B, 1, C]
    let q = linear(graph, &query, "visual.attnpool.q_proj");
    let k = linear(graph, &tokens, "visual.attnpool.k_proj");
    let v = linear(graph, &tokens, "visual.attnpool.v_proj");
    let pooled = attention(graph, [q, k, v], channels, tower.heads, None);
    let pooled = graph.first_row(&pooled);
    linear(graph, &pooled, "visual.attnpool.c_proj")
}

/// A window of 1 changes nothing and is left out.
fn average_pool(graph: &mut Graph<'_>, x: &Value, side: i64) -> Value {
    if side == 1 {
        return x.clone();
    }
    let sides = [side, side];
    let attributes =
        [("kernel_shape", Attribute::Ints(&sides)), ("strides", Attribute::Ints(&sides))];
    graph.node("AveragePool", &[x], &attributes)
}

/// A convolution that keeps the size (divided by `stride`), then batch normalisation:
/// `w' = w g / sqrt(var + eps)`, `b' = b - mean g / sqrt(var + eps)`, in f64.
fn conv_norm(
    graph: &mut Graph<'_>,
    x: &Value,
    conv: &str,
    norm: &str,
    stride: i64,
) -> Result<Value> {
    let (weight_name, bias_name) = (format!("{conv}.weight"), format!("{norm}.bias"));
    let statistic = |kind: &str| &graph.array(&format!("{norm}.{kind}")).values;
    let (gain, bias) = (statistic("weight"), statistic("bias"));
    let (mean, variance) = (statistic("running_mean"), statistic("running_var"));
    let factors: Vec<f64> = gain
        .iter()
        .zip(variance)
        .map(|(&gain, &variance)| f64::from(gain) / (f64::from(variance) + EPSILON).sqrt())
        .collect();
    if let Some(channel) = variance.iter().position(|&variance| variance < 0.0) {
        let name = format!("{norm}.running_var");
        let problem = format!("value {channel} is {}, below 0", variance[channel]);
        return Err(Error::Clip(clip::Error::Parameter { name, problem }));
    }
    let kernel = graph.array(&weight_name);
    let per_channel = kernel.values.len() / kernel.shape[0];
    let folded =
        kernel.values.chunks_exact(per_channel).zip(&factors).flat_map(|(values, &by)| {
            values.iter().map(move |&value| (f64::from(value) * by) as f32)
        });
    let shifted = bias
        .iter()
        .zip(mean)
        .zip(&factors)
        .map(|((&bias, &mean), &factor)| (f64::from(bias) - f64::from(mean) * factor) as f32);
    let weight = graph.floats(&weight_name, &kernel.shape, folded);
    let bias = graph.floats(&bias_name, &[bias.len()], shifted);
    let side = kernel.shape[2] as i64;
    let (sides, strides, pads) = ([side, side], [stride, stride], [(side - 1) / 2; 4]);
    let attributes = [
        ("kernel_shape", Attribute::Ints(&sides)),
        ("strides", Attribute::Ints(&strides)),
        ("pads", Attribute::Ints(&pads)),
    ];
    Ok(graph.node("Conv", &[x, &weight, &bias], &attributes))
}

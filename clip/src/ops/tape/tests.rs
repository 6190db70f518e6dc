//! Every operation of the graph: both ways of computing it, and central differences.

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::ops::{
    Composed, ONE, Window,
    proof::{assert_graphs, numbers},
};

/// `f(graph, inputs)` by candle and by hand.
macro_rules! proves {
    ($shapes:expr, |$graph:ident, $x:ident| $f:expr) => {
        assert_graphs(
            $shapes,
            |$x| {
                let $graph = &Composed;
                $f
            },
            |$graph, $x| $f,
        )
    };
}

#[test]
fn convolutions_with_the_statistics_of_the_batch() -> Result<()> {
    for (side, stride, padding, relu) in
        [(3, 1, 1, true), (3, 2, 1, false), (3, 1, 0, true), (1, 1, 0, false)]
    {
        let window = Window { side, stride, padding };
        let shapes: [&[usize]; 4] = [&[2, 4, 4, 2], &[3, 2, side, side], &[3], &[3]];
        proves!(&shapes, |graph, x| {
            let [kernel, weight, bias] = [&x[1], &x[2], &x[3]];
            let layer = ConvNorm { kernel, window, weight, bias, relu };
            Ok(graph.conv_norm(&graph.leaf(&x[0])?, layer, None)?.0)
        })?;
    }
    Ok(())
}

/// Chunks of three and of two pictures.
#[test]
fn convolutions_of_several_pictures_at_once() -> Result<()> {
    let shapes: [&[usize]; 4] = [&[5, 2, 2, 1], &[2, 1, 3, 3], &[2], &[2]];
    proves!(&shapes, |graph, x| {
        let window = Window { side: 3, stride: 1, padding: 1 };
        let [kernel, weight, bias] = [&x[1], &x[2], &x[3]];
        let layer = ConvNorm { kernel, window, weight, bias, relu: false };
        Ok(graph.conv_norm(&graph.leaf(&x[0])?, layer, None)?.0)
    })
}

#[test]
fn convolutions_with_fixed_statistics() -> Result<()> {
    for window in [ONE, Window { side: 3, stride: 1, padding: 1 }] {
        let shapes: [&[usize]; 4] = [&[2, 3, 3, 2], &[3, 2, window.side, window.side], &[3], &[3]];
        proves!(&shapes, |graph, x| {
            let [kernel, weight, bias] = [&x[1], &x[2], &x[3]];
            let layer = ConvNorm { kernel, window, weight, bias, relu: true };
            let tensor = |seed| {
                let values: Vec<f64> = numbers(3, seed).iter().map(|v| v.abs() + 0.1).collect();
                Tensor::new(values, &Device::Cpu)?.to_dtype(x[0].dtype())
            };
            let fixed = BatchStatistics { mean: tensor(7)?, variance: tensor(8)? };
            Ok(graph.conv_norm(&graph.leaf(&x[0])?, layer, Some(&fixed))?.0)
        })?;
    }
    Ok(())
}

#[test]
fn statistics_are_those_of_the_batch() -> Result<()> {
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu);
    let x = tensor(&[1.0, 10.0, 3.0, 30.0], &[1, 2, 1, 2])?;
    let kernel = tensor(&[1.0, 0.0, 0.0, 1.0], &[2, 2, 1, 1])?;
    let (weight, bias) = (tensor(&[1.0; 2], &[2])?, tensor(&[0.0; 2], &[2])?);
    let (kernel, weight, bias) = (&kernel, &weight, &bias);
    let layer = ConvNorm { kernel, window: ONE, weight, bias, relu: false };
    let tape = Tape::forgetful(Arc::default());
    let (_, seen) = Graph::conv_norm(&tape, &tape.leaf(&x)?, layer, None)?;
    let seen = seen()?;
    assert_eq!(seen.mean.to_vec1::<f32>()?, [2.0, 20.0]);
    assert_eq!(seen.variance.to_vec1::<f32>()?, [1.0, 100.0]);
    Ok(())
}

#[test]
fn pooling_and_residuals() -> Result<()> {
    proves!(&[&[2, 4, 4, 3]], |graph, x| graph.avg_pool(&graph.leaf(&x[0])?, 2))?;
    proves!(&[&[3, 5], &[3, 5]], |graph, x| {
        graph.add_relu(&graph.leaf(&x[0])?, &graph.leaf(&x[1])?)
    })
}

#[test]
fn products() -> Result<()> {
    proves!(&[&[2, 3, 4], &[5, 4], &[5], &[2, 3, 2]], |graph, x| {
        let layer = Linear { weight: &x[1], bias: Some(&x[2]), outputs: 2..4 };
        graph.linear(&graph.leaf(&x[0])?, layer, Some(&graph.leaf(&x[3])?))
    })?;
    proves!(&[&[2, 3, 4], &[5, 2, 2]], |graph, x| {
        graph.linear(&graph.leaf(&x[0])?, Linear::new(&x[1], None), None)
    })?;
    proves!(&[&[3, 4], &[4, 2]], |graph, x| graph.project(&graph.leaf(&x[0])?, &x[1]))
}

#[test]
fn attention_of_packed_and_of_separate_columns() -> Result<()> {
    for seen in [Seen::All, Seen::Causal] {
        proves!(&[&[2, 3, 12]], |graph, x| {
            let packed = graph.leaf(&x[0])?;
            let qkv = [0, 4, 8].map(|start| Columns { of: &packed, start });
            graph.attention(qkv, 4, 2, seen)
        })?;
    }
    for seen in [Seen::All, Seen::UpTo(&[1, 2])] {
        proves!(&[&[2, 1, 4], &[2, 3, 8]], |graph, x| {
            let (q, kv) = (graph.leaf(&x[0])?, graph.leaf(&x[1])?);
            let columns = |of, start| Columns { of, start };
            graph.attention([columns(&q, 0), columns(&kv, 0), columns(&kv, 4)], 4, 2, seen)
        })?;
    }
    Ok(())
}

#[test]
fn rows() -> Result<()> {
    proves!(&[&[2, 3, 19], &[19], &[19]], |graph, x| {
        graph.layer_norm(&graph.leaf(&x[0])?, &x[1], &x[2])
    })?;
    proves!(&[&[3, 5]], |graph, x| graph.normalize(&graph.leaf(&x[0])?))
}

#[test]
fn activations() -> Result<()> {
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        proves!(&[&[3, 19]], |graph, x| graph.activate(&graph.leaf(&x[0])?, activation))?;
        let far = Tensor::new(&[-200f32, -30.0, -5.0, 5.0, 30.0, 200.0], &Device::Cpu)?;
        let tape = Tape::forgetful(Arc::default());
        let fast = Graph::activate(&tape, &tape.leaf(&far)?, activation)?;
        let exact = Composed.activate(&far.to_dtype(DType::F64)?, activation)?.to_vec1::<f64>()?;
        for (fast, exact) in fast.values().iter().zip(exact) {
            assert!(
                (f64::from(*fast) - exact).abs() < 1e-5 * (1.0 + exact.abs()),
                "{fast} {exact}"
            );
        }
    }
    Ok(())
}

#[test]
fn tokens() -> Result<()> {
    proves!(&[&[2, 3, 4], &[4, 4]], |graph, x| graph.with_mean(&graph.leaf(&x[0])?, &x[1]))?;
    proves!(&[&[2, 3, 4], &[4], &[4, 4]], |graph, x| {
        graph.with_class(&graph.leaf(&x[0])?, &x[1], &x[2])
    })?;
    proves!(&[&[5, 2], &[2, 2]], |graph, x| {
        let ids = Tensor::new(&[[0u32, 3], [4, 3]], &Device::Cpu)?;
        graph.embed(&ids, &x[0], &x[1])
    })?;
    proves!(&[&[2, 3, 4]], |graph, x| graph.pick(&graph.leaf(&x[0])?, &[2, 0]))
}

#[test]
fn ids_and_positions_that_do_not_fit_are_refused() -> Result<()> {
    let tape = Tape::forgetful(Arc::default());
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let (table, positions) = (tensor(&[5, 2])?, tensor(&[2, 2])?);
    let refused = |ids: &[u32]| {
        let ids = Tensor::new(ids, &Device::Cpu).and_then(|ids| ids.unsqueeze(0));
        let error = tape.embed(&ids.expect("ids"), &table, &positions).expect_err("refused");
        error.to_string()
    };
    assert!(refused(&[0, 1, 2]).contains("3 tokens, but there are positions for 2"));
    assert!(refused(&[0, 5]).contains("token 5, but the vocabulary has 5"));
    let cells = tape.leaf(&tensor(&[1, 2, 2])?)?;
    let error = tape.with_mean(&cells, &positions).expect_err("three tokens").to_string();
    assert!(error.contains("3 tokens, but there are positions for 2"), "{error}");
    Ok(())
}

#[test]
fn pixels_in_other_orders() -> Result<()> {
    let pixels = Tensor::arange(0f32, 2.0 * 3.0 * 16.0, &Device::Cpu)?.reshape((2, 3, 4, 4))?;
    let tape = Tape::to_pixels(Arc::default());
    let exact = |tensor: Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let image = Graph::image(&tape, &pixels)?;
    assert_eq!(image.values(), exact(Composed.image(&pixels)?)?);
    let back = tape.backward_to_pixels(&image, image.values())?;
    assert_eq!(back, exact(pixels.clone())?);
    let tape = Tape::to_pixels(Arc::default());
    let patches = Graph::patches(&tape, &pixels, 2)?;
    assert_eq!(patches.values(), exact(Composed.patches(&pixels, 2)?)?);
    let back = tape.backward_to_pixels(&patches, patches.values())?;
    assert_eq!(back, exact(pixels.to_dtype(DType::F32)?)?);
    Ok(())
}

//! Every operation of the tape on the emulator, in both precisions and both orders of threads,
//! against the composition in f64 and central differences; and the other kernels against formulas.
//! The same on a GPU, where one is asked for.

#[cfg(feature = "cuda")]
mod alone;
mod loss;
mod vary;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::{
    subject::{Memory, Subject, values},
    *,
};
use crate::{
    config::Activation,
    ops::{
        BatchStatistics, Columns, Composed, ConvNorm, Graph, Linear, ONE, Seen, Window,
        proof::{self, Proved, compare, inputs, numbers, tensors},
    },
};

type Tape = CudaTape<Subject>;

/// Share of the greatest value by which bf16 may be off.
const BF16_OFF_MAX: f64 = 0.03;

/// `f(graph, inputs)` by candle and on the machine; `rows` are floats in any precision.
macro_rules! proves {
    ($form:ident, $shapes:expr, |$graph:ident, $x:ident| $f:expr) => {
        prove(
            Form::$form,
            $shapes,
            |$x| {
                let $graph = &Composed;
                $f
            },
            |$graph, $x| $f,
        )
    };
}

/// What an operation gives.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Values,
    Floats,
}

fn prove(
    form: Form,
    shapes: &[&[usize]],
    exact: impl Fn(&[Tensor]) -> Result<Tensor>,
    fast: impl Fn(&Tape, &[Tensor]) -> Result<CudaValue<Subject>>,
) -> Result<()> {
    let run = |precision, is_reversed| -> Result<Option<Proved>> {
        let Some(machine) = Subject::new(is_reversed) else { return Ok(None) };
        taped(&machine, precision, form, shapes, &fast).map(Some)
    };
    let Some(forward) = run(Precision::F32, false)? else { return Ok(()) };
    let bits = |(values, gradients): &Proved| -> Vec<u64> {
        values.iter().chain(gradients.iter().flatten()).map(|value| value.to_bits()).collect()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let (one, other) = (run(precision, false)?, run(precision, true)?);
        let same = one.as_ref().map(bits) == other.as_ref().map(bits);
        assert!(same, "the order of threads changes what comes out");
    }
    let rough = run(Precision::Bf16, false)?.expect("the compiler is there");
    let close = |rough: &[f64], exact: &[f64]| {
        let size = exact.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
        for (rough, exact) in rough.iter().zip(exact) {
            assert!((rough - exact).abs() <= BF16_OFF_MAX * size + 1e-6, "{rough} vs {exact}");
        }
    };
    let (values, gradients) = proof::composed(&exact, shapes, DType::F64)?;
    close(&rough.0, &values);
    rough.1.iter().zip(&gradients).for_each(|(rough, exact)| close(rough, exact));
    compare(exact, forward, shapes)
}

fn taped(
    machine: &Arc<Subject>,
    precision: Precision,
    form: Form,
    shapes: &[&[usize]],
    f: impl Fn(&Tape, &[Tensor]) -> Result<CudaValue<Subject>>,
) -> Result<Proved> {
    let vars = inputs(shapes, DType::F32)?;
    let tensors = tensors(&vars);
    let store = Arc::new(Store::new(machine.clone(), &tensors)?);
    let tape = CudaTape::new(store.clone(), precision);
    let y = f(&tape, &tensors)?;
    let kept = if form == Form::Floats { Precision::F32 } else { precision };
    let found = values(machine, y.data(), kept)?;
    let weights: Vec<f32> = numbers(found.len(), 99).iter().map(|&value| value as f32).collect();
    let wide = machine.upload(&weights)?;
    let gradient = machine.take(kept.bytes() * weights.len())?;
    let narrow = Launch::each("narrow", weights.len()).pointer(Subject::address(&wide));
    let narrow = narrow.pointer(Subject::address(&gradient)).count(weights.len());
    machine.launch(kept, &narrow)?;
    tape.backward(&y, gradient)?;
    let gradients = tensors.iter().map(|tensor| {
        assert!(store.is_reached(tensor), "every input gets a gradient");
        Ok(store.gradient_values(tensor)?.into_iter().map(f64::from).collect())
    });
    Ok((found, gradients.collect::<Result<_>>()?))
}

#[test]
fn convolutions_with_the_statistics_of_the_batch() -> Result<()> {
    let cases = [(3, 1, 1, 3, true), (3, 2, 1, 3, false), (1, 1, 0, 3, true), (3, 1, 1, 8, true)];
    for (side, stride, padding, outputs, relu) in cases {
        let window = Window { side, stride, padding };
        let kernel = [outputs, 2, side, side];
        let shapes: [&[usize]; 4] = [&[2, 4, 4, 2], &kernel, &[outputs], &[outputs]];
        proves!(Values, &shapes, |graph, x| {
            let [kernel, weight, bias] = [&x[1], &x[2], &x[3]];
            let layer = ConvNorm { kernel, window, weight, bias, relu };
            Ok(graph.conv_norm(&graph.leaf(&x[0])?, layer, None)?.0)
        })?;
    }
    Ok(())
}

#[test]
fn convolutions_with_fixed_statistics() -> Result<()> {
    for window in [ONE, Window { side: 3, stride: 1, padding: 1 }] {
        let shapes: [&[usize]; 4] = [&[2, 3, 3, 2], &[3, 2, window.side, window.side], &[3], &[3]];
        proves!(Values, &shapes, |graph, x| {
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
fn pooling_and_residuals() -> Result<()> {
    proves!(Values, &[&[2, 4, 4, 3]], |graph, x| graph.avg_pool(&graph.leaf(&x[0])?, 2))?;
    proves!(Values, &[&[3, 5], &[3, 5]], |graph, x| {
        graph.add_relu(&graph.leaf(&x[0])?, &graph.leaf(&x[1])?)
    })
}

#[test]
fn products() -> Result<()> {
    proves!(Values, &[&[2, 3, 4], &[5, 4], &[5], &[2, 3, 2]], |graph, x| {
        let layer = Linear { weight: &x[1], bias: Some(&x[2]), outputs: 2..4 };
        graph.linear(&graph.leaf(&x[0])?, layer, Some(&graph.leaf(&x[3])?))
    })?;
    proves!(Values, &[&[2, 3, 4], &[5, 2, 2]], |graph, x| {
        graph.linear(&graph.leaf(&x[0])?, Linear::new(&x[1], None), None)
    })?;
    proves!(Values, &[&[3, 4], &[4, 2]], |graph, x| graph.project(&graph.leaf(&x[0])?, &x[1]))
}

/// One value twice, as around a residual block.
#[test]
fn gradients_of_one_value_add_up() -> Result<()> {
    proves!(Values, &[&[3, 4], &[4, 4]], |graph, x| {
        let leaf = graph.leaf(&x[0])?;
        graph.linear(&leaf, Linear::new(&x[1], None), Some(&leaf))
    })
}

#[test]
fn attention_of_packed_and_of_separate_columns() -> Result<()> {
    for seen in [Seen::All, Seen::Causal] {
        proves!(Values, &[&[2, 3, 12]], |graph, x| {
            let packed = graph.leaf(&x[0])?;
            let qkv = [0, 4, 8].map(|start| Columns { of: &packed, start });
            graph.attention(qkv, 4, 2, seen)
        })?;
    }
    for seen in [Seen::All, Seen::UpTo(&[1, 2])] {
        proves!(Values, &[&[2, 1, 4], &[2, 3, 8]], |graph, x| {
            let (q, kv) = (graph.leaf(&x[0])?, graph.leaf(&x[1])?);
            let columns = |of, start| Columns { of, start };
            graph.attention([columns(&q, 0), columns(&kv, 0), columns(&kv, 4)], 4, 2, seen)
        })?;
    }
    proves!(Values, &[&[1, 1, 4], &[1, 3, 4], &[1, 3, 4]], |graph, x| {
        let arrays = [graph.leaf(&x[0])?, graph.leaf(&x[1])?, graph.leaf(&x[2])?];
        let [q, k, v] = &arrays;
        graph.attention([q, k, v].map(|of| Columns { of, start: 0 }), 4, 2, Seen::All)
    })
}

/// Two tiles of keys, more than a warp's queries, heads of odd and even widths and of both kernels.
#[test]
fn attention_over_more_than_a_tile() -> Result<()> {
    for seen in [Seen::All, Seen::Causal] {
        proves!(Values, &[&[1, 34, 3]], |graph, x| {
            let packed = graph.leaf(&x[0])?;
            let qkv = [0, 1, 2].map(|start| Columns { of: &packed, start });
            graph.attention(qkv, 1, 1, seen)
        })?;
    }
    for (tokens, head) in [(2, 37), (70, 2), (18, 16), (2, 64), (2, 72), (1, 128)] {
        proves!(Values, &[&[1, tokens, 3 * head]], |graph, x| {
            let packed = graph.leaf(&x[0])?;
            let qkv = [0, head, 2 * head].map(|start| Columns { of: &packed, start });
            graph.attention(qkv, head, 1, Seen::Causal)
        })?;
    }
    Ok(())
}

#[test]
fn rows() -> Result<()> {
    for (rows, columns) in [(6, 19), (20, 3), (2, 40), (9, 264)] {
        proves!(Values, &[&[rows, columns], &[columns], &[columns]], |graph, x| {
            graph.layer_norm(&graph.leaf(&x[0])?, &x[1], &x[2])
        })?;
    }
    proves!(Floats, &[&[3, 5]], |graph, x| graph.normalize(&graph.leaf(&x[0])?))
}

#[test]
fn activations() -> Result<()> {
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        proves!(Values, &[&[3, 19]], |graph, x| graph.activate(&graph.leaf(&x[0])?, activation))?;
    }
    Ok(())
}

#[test]
fn tokens() -> Result<()> {
    proves!(Values, &[&[2, 3, 4], &[4, 4]], |graph, x| {
        graph.with_mean(&graph.leaf(&x[0])?, &x[1])
    })?;
    proves!(Values, &[&[2, 3, 4], &[4], &[4, 4]], |graph, x| {
        graph.with_class(&graph.leaf(&x[0])?, &x[1], &x[2])
    })?;
    proves!(Values, &[&[5, 2], &[2, 2]], |graph, x| {
        let ids = Tensor::new(&[[0u32, 3], [4, 3]], &Device::Cpu)?;
        graph.embed(&ids, &x[0], &x[1])
    })?;
    proves!(Values, &[&[2, 3, 4]], |graph, x| graph.pick(&graph.leaf(&x[0])?, &[2, 0]))
}

/// A token at more places than one stretch holds.
#[test]
fn a_token_that_is_everywhere() -> Result<()> {
    proves!(Values, &[&[3, 2], &[40, 2]], |graph, x| {
        let ids: Vec<u32> = (0..200).map(|at| if at % 9 == 0 { 2 } else { 1 }).collect();
        graph.embed(&Tensor::from_vec(ids, (5, 40), &Device::Cpu)?, &x[0], &x[1])
    })
}

#[test]
fn pixels_in_other_orders() -> Result<()> {
    let Some(machine) = Subject::new(false) else { return Ok(()) };
    let pixels = Tensor::arange(0f32, 2.0 * 3.0 * 16.0, &Device::Cpu)?.reshape((2, 3, 4, 4))?;
    let store = Arc::new(Store::new(machine.clone(), &[])?);
    let tape = CudaTape::forgetful(store.clone(), Precision::F32);
    let check = |found: CudaValue<Subject>, exact: Tensor| -> Result<()> {
        assert_eq!(tape.dims(&found), exact.dims());
        let exact = exact.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        assert_eq!(values(&machine, found.data(), Precision::F32)?, exact);
        Ok(())
    };
    check(Graph::image(&tape, &pixels)?, Composed.image(&pixels)?)?;
    check(Graph::patches(&tape, &pixels, 2)?, Composed.patches(&pixels, 2)?)?;
    let twice = pixels.affine(2.0, 0.0)?;
    let sent = twice.flatten_all()?.to_vec1::<f32>()?;
    store.receive(&pixels, Sent::Pixels(machine.send(bytemuck::cast_slice(&sent))?));
    check(Graph::image(&tape, &pixels.copy()?)?, Composed.image(&pixels)?)?; // of another tensor
    let refused = |pixels: &Tensor| {
        let error = Graph::patches(&tape, pixels, 2).expect_err("once").to_string();
        assert!(error.contains("once, and as a whole"), "{error}");
    };
    refused(&pixels.narrow(0, 1, 1)?);
    check(Graph::image(&tape, &pixels)?, Composed.image(&twice)?)?;
    refused(&pixels);
    Ok(())
}

/// Variables, and where they lie.
type Stored = (Arc<Store<Subject>>, Vec<Tensor>);

fn stored(values: &[&[f32]]) -> Result<Option<Stored>> {
    let Some(machine) = Subject::new(false) else { return Ok(None) };
    let var =
        |values: &&[f32]| Ok(candle_core::Var::new(*values, &Device::Cpu)?.as_tensor().clone());
    let tensors = values.iter().map(var).collect::<Result<Vec<_>>>()?;
    Ok(Some((Arc::new(Store::new(machine, &tensors)?), tensors)))
}

/// The gradient of `sum(w^2)`, put where a backward pass would have summed it.
fn give_gradient(store: &Store<Subject>, tensor: &Tensor) -> Result<()> {
    let gradient = store.gradient(tensor)?.expect("a variable");
    let count = tensor.elem_count();
    let fold = Launch::fold(count).pointer(store.master(tensor)?).pointer(gradient);
    let fold = fold.count(count).count(count).count(1).float(2.0);
    store.machine().launch(Precision::F32, &fold)
}

#[test]
fn updates_agree_with_the_formula_and_wait_for_finite_gradients() -> Result<()> {
    let Some((store, tensors)) = stored(&[&[1.0, -2.0], &[0.5], &[3.0]])? else {
        return Ok(());
    };
    let floats = |memory: &Memory| values(store.machine(), memory, Precision::F32);
    let moments = Moments::new(&store)?;
    let mut expected = [[1.0f64, -2.0], [0.5, 0.0]];
    let (mut mean, mut square) = ([[0.0f64; 2]; 2], [[0.0f64; 2]; 2]);
    let kept = [0.99, 1.0];
    for step in 1..=3 {
        store.rest()?;
        tensors.iter().try_for_each(|tensor| give_gradient(&store, tensor))?;
        let lacks = |beta: f64| 1.0 - beta.powi(step);
        let updates = tensors[..2].iter().zip(kept).map(|(tensor, kept)| {
            let (size, factor) = (0.1 / lacks(0.9), 1.0 / lacks(0.98));
            (tensor, Update { scale: 0.5, betas: [0.9, 0.98], size, factor, epsilon: 1e-8, kept })
        });
        let norm = store.square_norm()?;
        let sum: f64 = expected.iter().flatten().map(|w| 4.0 * w * w).sum::<f64>() + 36.0;
        assert!((floats(&norm)?[0] - sum).abs() < 1e-4 * sum);
        store.update(&moments, &norm, updates)?;
        for at in 0..4 {
            let (group, at) = (at / 2, at % 2);
            let (w, m, s) =
                (&mut expected[group][at], &mut mean[group][at], &mut square[group][at]);
            let gradient = 0.5 * 2.0 * *w;
            *m = 0.9 * *m + 0.1 * gradient;
            *s = 0.98 * *s + 0.02 * gradient * gradient;
            let moved = 0.1 * (*m / lacks(0.9)) / ((*s / lacks(0.98)).sqrt() + 1e-8);
            *w = *w * kept[group] - moved;
        }
    }
    let close = |found: &[f32], expected: &[f64]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} vs {expected}");
        }
    };
    close(&store.read(&tensors[0])?, &expected[0]);
    close(&store.read(&tensors[1])?, &expected[1]);
    assert_eq!(store.read(&tensors[2])?, [3.0]); // rests
    let infinite = store.machine().upload(&[f32::INFINITY])?;
    let (betas, size, factor) = ([0.9; 2], 1.0, 1.0);
    let update = Update { scale: 1.0, betas, size, factor, epsilon: 1e-8, kept: 0.5 };
    store.update(&moments, &infinite, [(&tensors[2], update)])?;
    assert_eq!(store.read(&tensors[2])?, [3.0]);
    Ok(())
}

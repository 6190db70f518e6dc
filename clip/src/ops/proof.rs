//! One gradient proof for every operator.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Gradients, Tape, Value};

/// Seeded values in -1..1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub(crate) fn inputs(shapes: &[&[usize]], dtype: DType) -> Result<Vec<Var>> {
    let vars = shapes.iter().enumerate().map(|(index, shape)| {
        let values = numbers(shape.iter().product(), index as u64);
        Var::from_tensor(&Tensor::from_vec(values, *shape, &Device::Cpu)?.to_dtype(dtype)?)
    });
    vars.collect()
}

pub(crate) fn tensors(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|var| var.as_tensor().clone()).collect()
}

/// An output, and the gradient at each input of its sum with fixed seeded weights, so that no
/// gradient cancels.
pub(crate) type Proved = (Vec<f64>, Vec<Vec<f64>>);

const LEARNS: &str = "every input gets a gradient";

fn weighed(y: &Tensor) -> Result<Tensor> {
    let weights = Tensor::new(numbers(y.elem_count(), 99), y.device())?;
    y.flatten_all()?.mul(&weights.to_dtype(y.dtype())?)?.sum_all()
}

/// By candle.
pub(crate) fn composed(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    shapes: &[&[usize]],
    dtype: DType,
) -> Result<Proved> {
    let vars = inputs(shapes, dtype)?;
    let y = f(&tensors(&vars))?;
    let grads = weighed(&y)?.backward()?;
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1();
    let found = vars.iter().map(|var| flat(grads.get(var).expect(LEARNS)));
    Ok((flat(&y)?, found.collect::<Result<_>>()?))
}

/// By hand.
fn taped(f: impl Fn(&Tape, &[Tensor]) -> Result<Value>, shapes: &[&[usize]]) -> Result<Proved> {
    let vars = inputs(shapes, DType::F32)?;
    let tape = Tape::new(Default::default());
    let y = f(&tape, &tensors(&vars))?;
    let values: Vec<f64> = y.values().iter().map(|&value| f64::from(value)).collect();
    let weights: Vec<f32> = numbers(values.len(), 99).iter().map(|&value| value as f32).collect();
    let mut gradients = Gradients::new(vars.iter().map(Var::as_tensor));
    tape.backward(&y, &weights, &mut gradients)?;
    let wide = |number| gradients.get(number).expect(LEARNS).iter().map(|&g| f64::from(g));
    Ok((values, (0..vars.len()).map(|number| wide(number).collect()).collect()))
}

/// Holds the composed f64 gradients against central differences, the fast f32 ones against them.
pub(crate) fn compare(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    (values, gradients): Proved,
    shapes: &[&[usize]],
) -> Result<()> {
    const STEP: f64 = 1e-5;
    let (exact_values, exact_gradients) = composed(&f, shapes, DType::F64)?;
    assert_eq!(values.len(), exact_values.len());
    for (fast, exact) in values.iter().zip(&exact_values) {
        assert!((exact - fast).abs() < 1e-5 * (1.0 + exact.abs()), "{fast} vs {exact}");
    }
    for (input, shape) in shapes.iter().enumerate() {
        for element in 0..shape.iter().product() {
            let at = |delta: f64| -> Result<f64> {
                let moved = shapes.iter().enumerate().map(|(index, shape)| {
                    let mut values = numbers(shape.iter().product(), index as u64);
                    if index == input {
                        values[element] += delta;
                    }
                    Tensor::from_vec(values, *shape, &Device::Cpu)
                });
                weighed(&f(&moved.collect::<Result<Vec<_>>>()?)?)?.to_scalar()
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let (exact, fast) = (exact_gradients[input][element], gradients[input][element]);
            let place = format!("input {input}, element {element}");
            assert!(
                (exact - numeric).abs() < 1e-6 * (1.0 + numeric.abs()),
                "{place}: {exact} vs {numeric}"
            );
            assert!(
                (fast - exact).abs() < 2e-4 * (1.0 + exact.abs()),
                "{place}: {fast} vs {exact}"
            );
        }
    }
    Ok(())
}

/// For an operator on candle's tensors that has a path of its own for f32.
pub(crate) fn assert_gradients(
    shapes: &[&[usize]],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    compare(&f, composed(&f, shapes, DType::F32)?, shapes)
}

/// For an operation of both graphs.
pub(crate) fn assert_graphs(
    shapes: &[&[usize]],
    exact: impl Fn(&[Tensor]) -> Result<Tensor>,
    fast: impl Fn(&Tape, &[Tensor]) -> Result<Value>,
) -> Result<()> {
    compare(exact, taped(fast, shapes)?, shapes)
}

//! One gradient proof for every operator.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Seeded values in -1..1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

type Operator<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// `sum(f(x) * w)` with fixed seeded weights w, so that no gradient cancels.
fn weighed(f: Operator<'_>, inputs: &[Tensor]) -> Result<Tensor> {
    let y = f(inputs)?;
    let weights = Tensor::new(numbers(y.elem_count(), 99), y.device())?;
    y.flatten_all()?.mul(&weights.to_dtype(y.dtype())?)?.sum_all()
}

fn gradients(f: Operator<'_>, shapes: &[&[usize]], dtype: DType) -> Result<Vec<Vec<f64>>> {
    let vars = shapes.iter().enumerate().map(|(index, shape)| {
        let values = numbers(shape.iter().product(), index as u64);
        Var::from_tensor(&Tensor::from_vec(values, *shape, &Device::Cpu)?.to_dtype(dtype)?)
    });
    let vars = vars.collect::<Result<Vec<_>>>()?;
    let inputs: Vec<_> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let grads = weighed(f, &inputs)?.backward()?;
    let flat = |var: &Var| {
        let grad = grads.get(var).expect("every input gets a gradient");
        grad.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    };
    vars.iter().map(flat).collect()
}

/// Holds the composed f64 gradients against central differences, the fused f32 ones against them.
pub(crate) fn assert_gradients(
    shapes: &[&[usize]],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    const STEP: f64 = 1e-5;
    let composed = gradients(&f, shapes, DType::F64)?;
    let fused = gradients(&f, shapes, DType::F32)?;
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
                weighed(&f, &moved.collect::<Result<Vec<_>>>()?)?.to_scalar()
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let (exact, fast) = (composed[input][element], fused[input][element]);
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
    let inputs = |dtype| {
        let tensors = shapes.iter().enumerate().map(|(index, shape)| {
            let values = numbers(shape.iter().product(), index as u64);
            Tensor::from_vec(values, *shape, &Device::Cpu)?.to_dtype(dtype)
        });
        tensors.collect::<Result<Vec<_>>>()
    };
    let exact = f(&inputs(DType::F64)?)?.flatten_all()?.to_vec1::<f64>()?;
    let fast = f(&inputs(DType::F32)?)?.flatten_all()?.to_vec1::<f32>()?;
    for (exact, fast) in exact.iter().zip(fast) {
        assert!((exact - f64::from(fast)).abs() < 1e-5 * (1.0 + exact.abs()), "{fast} vs {exact}");
    }
    Ok(())
}

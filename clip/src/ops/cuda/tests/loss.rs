//! The loss and the pool's look-ups, as a run asks for them: through candle's tensors.

use candle_core::Var;

use super::*;
use crate::ops::{Engine, Equals, info_nce};

#[test]
fn info_nce_and_its_gradient() -> Result<()> {
    for groups in [None, Some([7, 1, 7, 2, 1])] {
        let (count, dim) = (5, 3);
        let groups = groups.as_ref().map(<[u32; 5]>::as_slice);
        let var = |seed| {
            let values = Tensor::from_vec(numbers(count * dim, seed), (count, dim), &Device::Cpu)?;
            Var::from_tensor(&values)
        };
        let (image, text) = (var(1)?, var(2)?);
        let scale = Var::new(0.7f64, &Device::Cpu)?;
        let equals = groups.map_or(Equals::Negatives, Equals::LeftOut);
        let loss = info_nce(&image, &text, &scale, equals)?;
        let exact = (&loss * 2.0)?.backward()?;

        let Some(machine) = Subject::new(false) else { return Ok(()) };
        let engine = Engine::on(Arc::new(machine));
        let close = |found: &Tensor, exact: &Tensor| -> Result<()> {
            let found = found.flatten_all()?.to_vec1::<f32>()?;
            let exact = exact.flatten_all()?.to_vec1::<f64>()?;
            assert_eq!(found.len(), exact.len());
            for (found, exact) in found.iter().zip(exact) {
                let off = (f64::from(*found) - exact).abs();
                assert!(off < 1e-5 * (1.0 + exact.abs()), "{found} vs {exact}");
            }
            Ok(())
        };
        let exacts = [&image, &text, &scale];
        let vars: Vec<Var> = exacts
            .iter()
            .map(|var| Var::from_tensor(&var.to_dtype(DType::F32)?))
            .collect::<Result<_>>()?;
        let found = engine.info_nce(&vars[0], &vars[1], &vars[2], equals)?;
        close(&found, &loss)?;
        let gradients = (found * 2.0)?.backward()?;
        for (var, own) in vars.iter().zip(exacts) {
            let gradient = gradients.get(var).expect("a gradient");
            close(gradient, exact.get(own).expect("a gradient"))?;
        }
    }
    Ok(())
}

#[test]
fn the_nearest_of_a_pool_is_no_caption_of_the_own_row() -> Result<()> {
    let Some(machine) = Subject::new(false) else { return Ok(()) };
    let rows =
        |rows: &[[f32; 2]]| Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu);
    let before = rows(&[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, 0.8]])?;
    let pool = rows(&[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.6, 0.8]])?;
    let images = rows(&[[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])?;
    for engine in [Engine::on(Arc::new(machine)), Engine::default()] {
        let mut kept = engine.keep(&before)?;
        kept.put(1, &pool.narrow(0, 1, 2)?)?;
        let slots = |own: &[u32]| kept.nearest(&images, &pool, own, &[10, 11, 12, 13]);
        assert_eq!(slots(&[10, 99, 99, 99])?, [1, 0, 1, 0]); // of equal ones the first
        assert_eq!(slots(&[99, 99, 11, 10])?, [0, 0, 3, 1]);
        assert_eq!(kept.nearest(&images, &pool.narrow(0, 0, 1)?, &[10, 9, 9, 9], &[10])?, [0; 4]);
    }
    Ok(())
}

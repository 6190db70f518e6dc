//! Pictures that are varied on a machine, against the CPU's.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;
use crate::{
    ClipConfig,
    image::{Blur, Change, Pictures, Rectangle, RgbImage, Variation},
};

/// Rounding of places, sums and changes of values of 0 to 1, by a deviation of at least 0.26.
const OFF_MAX: f32 = 1e-4;
const SIDE: usize = 32;

fn change(rng: &mut impl Rng) -> Change {
    let factor = rng.random_range(0.5..1.5);
    match rng.random_range(0..5) {
        0 => Change::Brightness(factor),
        1 | 2 => Change::Contrast(factor),
        3 => Change::Saturation(factor * rng.random_range(0..2) as f32),
        _ => Change::Hue(rng.random_range(-0.5..0.5)),
    }
}

fn variation(rng: &mut impl Rng, blurs: bool) -> Variation {
    let (wide, high) = (rng.random_range(3.0..32.0), rng.random_range(3.0..32.0));
    let (left, top) = (rng.random_range(0.0..=32.0 - wide), rng.random_range(0.0..=32.0 - high));
    let changes = (0..rng.random_range(0..6)).map(|_| change(rng)).collect();
    let blur = (blurs && rng.random_bool(0.7)).then(|| Blur {
        kernel: 2 * rng.random_range(1..8) + 1,
        sigma: rng.random_range(0.2..3.0),
    });
    Variation {
        rectangle: Rectangle { left, top, wide, high },
        flip: rng.random_bool(0.5),
        changes,
        blur,
    }
}

/// Smooth, so that a place that is a little off changes little, and in part gray.
fn picture(rng: &mut impl Rng) -> RgbImage {
    let speeds: [f32; 3] = rng.random();
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let wave = |speed: f32| (127.5 * (1.0 + (speed * (x + 2 * y) as f32 * 0.3).sin())) as u8;
        match x < 5 {
            true => [wave(speeds[0]); 3].into(),
            false => speeds.map(wave).into(),
        }
    })
}

#[test]
fn pictures_are_varied_as_on_the_cpu() -> Result<()> {
    let mut config = ClipConfig::preset("rn-micro").expect("a preset");
    assert_eq!(config.image.image_size(), SIDE);
    (config.mean, config.std) = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]);
    for blurs in [false, true] {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut pictures = Pictures::new(&config);
        for number in 0..40 {
            let variation = (number != 3).then(|| variation(&mut rng, blurs));
            pictures.push(&picture(&mut rng), variation);
        }
        let exact = pictures.pixels();
        let run = |is_reversed| -> Result<Option<Vec<f32>>> {
            let Some(machine) = Subject::new(is_reversed) else { return Ok(None) };
            let pixels = Unvaried::send(&machine, &pictures)?.pixels(&machine)?;
            floats(&*machine, &pixels, 0, exact.len()).map(Some)
        };
        let Some(found) = run(false)? else { return Ok(()) };
        assert_eq!(
            run(true)?.as_ref(),
            Some(&found),
            "the order of threads changes what comes out"
        );
        for (number, (found, exact)) in
            found.chunks(3 * SIDE * SIDE).zip(exact.chunks(3 * SIDE * SIDE)).enumerate()
        {
            let apart = found.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let how = &pictures.variations()[number];
            assert!(apart <= OFF_MAX, "picture {number} is {apart} apart: {how:?}");
        }
    }
    Ok(())
}

/// What a tower looks at is varied when it is asked for, and parts of it are parts of the whole.
#[test]
fn pictures_that_were_sent_are_what_a_tensor_stands_for() -> Result<()> {
    let Some(machine) = Subject::new(false) else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut pictures = Pictures::new(&ClipConfig::preset("rn-micro").expect("a preset"));
    for _ in 0..3 {
        pictures.push(&picture(&mut rng), Some(variation(&mut rng, true)));
    }
    let exact = Tensor::from_vec(pictures.pixels(), (3, 3, SIDE, SIDE), &Device::Cpu)?;
    let stands = exact.zeros_like()?;
    let store = Arc::new(Store::new(machine.clone(), &[])?);
    store.receive(&stands, Sent::Unvaried(Unvaried::send(&machine, &pictures)?));
    let tape = CudaTape::forgetful(store, Precision::F32);
    for (start, count) in [(1, 2), (0, 1), (0, 3)] {
        let found = Graph::image(&tape, &stands.narrow(0, start, count)?)?;
        let found = values(&machine, found.data(), Precision::F32)?;
        let exact = Composed.image(&exact.narrow(0, start, count)?)?.to_dtype(DType::F64)?;
        for (a, b) in found.iter().zip(exact.flatten_all()?.to_vec1::<f64>()?) {
            assert!((a - b).abs() <= f64::from(OFF_MAX), "{a} vs {b}");
        }
    }
    Ok(())
}

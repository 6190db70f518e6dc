//! Pictures that are varied on a machine, against the CPU's.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;
use crate::{
    ClipConfig,
    config::ImageTower,
    image::{Blur, Change, Pictures, Rectangle, RgbImage, Variation},
};

/// Rounding of places, sums and changes of values of 0 to 1, by a deviation of at least 0.26.
const OFF_MAX: f32 = 1e-4;
/// As many pixels as blocks have threads, and fewer and more.
const SIDES: [usize; 3] = [32, 20, 37];

fn change(rng: &mut impl Rng) -> Change {
    let factor = rng.random_range(0.5..1.5);
    match rng.random_range(0..5) {
        0 => Change::Brightness(factor),
        1 | 2 => Change::Contrast(factor),
        3 => Change::Saturation(factor * rng.random_range(0..2) as f32),
        _ => Change::Hue(rng.random_range(-0.5..0.5)),
    }
}

fn variation(rng: &mut impl Rng, side: usize, blurs: bool) -> Variation {
    let side = side as f64;
    let (wide, high) = (rng.random_range(3.0..side), rng.random_range(3.0..side));
    let (left, top) = (rng.random_range(0.0..=side - wide), rng.random_range(0.0..=side - high));
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
fn picture(rng: &mut impl Rng, side: usize) -> RgbImage {
    let speeds: [f32; 3] = rng.random();
    RgbImage::from_fn(side as u32, side as u32, |x, y| {
        let wave = |speed: f32| (127.5 * (1.0 + (speed * (x + 2 * y) as f32 * 0.3).sin())) as u8;
        match x < 5 {
            true => [wave(speeds[0]); 3].into(),
            false => speeds.map(wave).into(),
        }
    })
}

fn config(side: usize) -> ClipConfig {
    let mut config = ClipConfig::preset("vit-micro").expect("a preset");
    let ImageTower::Vit(tower) = &mut config.image else { panic!("a ViT") };
    tower.image_size = side;
    (config.mean, config.std) = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]);
    config
}

/// As many as `count`; the fourth as it is.
fn pictures(rng: &mut impl Rng, side: usize, count: usize, blurs: bool) -> Pictures {
    let mut pictures = Pictures::with_capacity(&config(side), count);
    for number in 0..count {
        let variation = (number != 3).then(|| variation(rng, side, blurs));
        pictures.push(&picture(rng, side), variation);
    }
    pictures
}

#[test]
fn pictures_are_varied_as_on_the_cpu() -> Result<()> {
    for (side, blurs) in SIDES.into_iter().flat_map(|side| [(side, false), (side, true)]) {
        let pictures = pictures(&mut ChaCha8Rng::seed_from_u64(4), side, 30, blurs);
        let exact = pictures.pixels();
        let run = |is_reversed| -> Result<Option<Vec<f32>>> {
            let Some(machine) = Subject::new(is_reversed) else { return Ok(None) };
            let pixels = Unvaried::upload(&machine, &pictures)?.pixels(&machine, 0, 30)?;
            floats(&*machine, &pixels, 0, exact.len()).map(Some)
        };
        let Some(found) = run(false)? else { return Ok(()) };
        assert_eq!(
            run(true)?.as_ref(),
            Some(&found),
            "the order of threads changes what comes out"
        );
        let each = |pixels: &[f32]| -> Vec<Vec<f32>> {
            pixels.chunks(3 * side * side).map(<[f32]>::to_vec).collect()
        };
        for (number, (found, exact)) in each(&found).iter().zip(each(&exact)).enumerate() {
            let apart = found.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let how = &pictures.variations()[number];
            assert!(apart <= OFF_MAX, "picture {number} is {apart} apart: {how:?}");
        }
    }
    Ok(())
}

/// What a tower looks at is varied when it is asked for, and parts of it are parts of the whole; also
/// where the arrays are those of an earlier batch.
#[test]
fn pictures_that_were_sent_are_what_a_tensor_stands_for() -> Result<()> {
    let Some(machine) = Subject::new(false) else { return Ok(()) };
    let (mut rng, side) = (ChaCha8Rng::seed_from_u64(5), SIDES[1]);
    let store = Arc::new(Store::new(machine.clone(), &[])?);
    for _ in 0..3 {
        let pictures = pictures(&mut rng, side, 5, true);
        let exact = Tensor::from_vec(pictures.pixels(), (5, 3, side, side), &Device::Cpu)?;
        let stands = exact.zeros_like()?;
        store.receive(&stands, Sent::Unvaried(Unvaried::send(&machine, &pictures)?));
        let tape = CudaTape::forgetful(store.clone(), Precision::F32);
        for (start, count) in [(1, 2), (0, 1), (3, 2), (0, 5)] {
            let found = Graph::image(&tape, &stands.narrow(0, start, count)?)?;
            let found = values(&machine, found.data(), Precision::F32)?;
            let exact = Composed.image(&exact.narrow(0, start, count)?)?.to_dtype(DType::F64)?;
            for (a, b) in found.iter().zip(exact.flatten_all()?.to_vec1::<f64>()?) {
                assert!((a - b).abs() <= f64::from(OFF_MAX), "{a} vs {b}");
            }
        }
        let error = Graph::image(&tape, &stands.t()?).expect_err("columns for rows").to_string();
        assert!(error.contains("whole pictures in a row"), "{error}");
    }
    Ok(())
}

//! Each phase against plain sums, and what comes back from a checkpoint.

use candle_core::Var;

use super::*;
use crate::method::proof::{moves, one_way, pairs, tensor, vars};

/// Unit rows of four pairs.
type Rows = [[f64; 2]; 4];

/// Images, captions, and both in another view.
const VIEWS: [Rows; 4] = [
    [[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6], [0.0, -1.0]],
    [[0.8, 0.6], [0.0, 1.0], [0.6, -0.8], [-1.0, 0.0]],
    [[0.8, -0.6], [1.0, 0.0], [0.0, -1.0], [-0.6, 0.8]],
    [[0.0, 1.0], [-0.6, 0.8], [0.8, 0.6], [0.6, 0.8]],
];
/// What the pools hold: images, captions.
const POOLED: [Rows; 2] = [
    [[0.8, 0.6], [-0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]],
    [[0.6, 0.8], [0.8, -0.6], [-0.8, 0.6], [0.0, -1.0]],
];
const SCALE: f64 = 1.2;
/// Of rows 0 to 3.
const SAFE: [u32; 2] = [1, 3];

/// One unimodal epoch, one of CLIP; 8 pairs, in batches and pools of four.
fn method() -> Result<Safeclip> {
    let mut config = Config::default();
    config.data.batch_size = 4;
    config.method.safeclip =
        Some(config::Safeclip { unimodal_epochs: 1, clip_epochs: 1, ..Default::default() });
    let mut method = Safeclip::new(&config, Sizes::whole(8, 2), &Device::Cpu)?;
    assert_eq!(method.images.capacity(), 4);
    method.split = Some(Split { cosines: vec![0.0; 8], safe: SAFE.to_vec(), first: 2 });
    Ok(method)
}

/// With full pools.
fn filled() -> Result<Safeclip> {
    let mut method = method()?;
    let [image, text] = POOLED;
    method.images.enqueue(&tensor(&image)?, &[4, 5, 6, 7], &[4, 5, 6, 7], Wrap::Continues)?;
    method.captions.enqueue(&tensor(&text)?, &[4, 5, 6, 7], &[4, 5, 6, 7], Wrap::Continues)?;
    Ok(method)
}

fn loss(method: &mut Safeclip, epoch: u32, [image, text, i, t]: &[Var; 4]) -> Result<Tensor> {
    let second = Second { image: i.as_tensor().clone(), text: t.as_tensor().clone() };
    let pairs = pairs(image, text, Some(second), [0, 1, 2, 3], epoch);
    let scale = Tensor::new(SCALE as f32, &Device::Cpu)?;
    let MethodLoss { loss, trained, report } = method.loss(&pairs, &scale)?;
    assert_eq!((trained, report.pool_filled), (Towers::BOTH, Some(4)));
    Ok(loss)
}

fn near(found: &Tensor, expected: f64) -> Result<()> {
    let found = f64::from(found.to_scalar::<f32>()?);
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    Ok(())
}

/// The pooled row of the greatest cosine.
fn nearest(pool: &Rows, row: &[f64; 2]) -> [f64; 2] {
    let cosine = |other: &[f64; 2]| row[0] * other[0] + row[1] * other[1];
    *pool.iter().max_by(|a, b| cosine(a).total_cmp(&cosine(b))).expect("a full pool")
}

fn chosen(rows: &Rows, at: &[u32]) -> Vec<[f64; 2]> {
    at.iter().map(|&at| rows[at as usize]).collect()
}

/// Of the pairs `at`: the second view of each modality looks for what is pooled near the first.
fn unimodal(views: &[Rows; 4], at: &[u32]) -> f64 {
    let one = |modality: usize| {
        let first = chosen(&views[modality], at);
        let partners: Vec<_> = first.iter().map(|row| nearest(&POOLED[modality], row)).collect();
        one_way(&chosen(&views[modality + 2], at), &partners, SCALE)
    };
    0.5 * (one(0) + one(1))
}

fn clip(views: &[Rows; 4], at: &[u32]) -> f64 {
    let (image, text) = (chosen(&views[0], at), chosen(&views[1], at));
    0.5 * (one_way(&image, &text, SCALE) + one_way(&text, &image, SCALE))
}

const ALL: [u32; 4] = [0, 1, 2, 3];
const RISKY: [u32; 2] = [0, 2];

#[test]
fn phases_follow_one_another() -> Result<()> {
    let method = method()?;
    let phases = [1, 2, 3, 9].map(|epoch| method.phase(epoch));
    assert_eq!(phases, [Phase::Unimodal, Phase::Plain, Phase::Split, Phase::Split]);
    let views = [1, 2, 3].map(|epoch| method.views(epoch));
    assert_eq!(views, [Views::TwoVaried, Views::One, Views::TwoVaried]);
    // Ten steps an epoch, a tenth of a part is warm-up: of two epochs, and of the eighteen others.
    let schedule = Schedule::new(2.0, 0.1, 200);
    let check = |epoch: u32, step: u64, expected: f64| {
        let found = method.lr(&schedule, epoch, step);
        assert!((found - expected).abs() < 1e-3, "epoch {epoch}, step {step}: {found}");
    };
    check(1, 0, 1.0);
    check(1, 1, 2.0);
    check(2, 10, 0.02);
    check(2, 19, 0.02);
    check(3, 20, 2.0 / 18.0);
    check(3, 37, 2.0);
    check(20, 199, 0.0);
    Ok(())
}

#[test]
fn each_phase_has_the_loss_of_its_formula() -> Result<()> {
    let check =
        |epoch: u32, expected: f64| near(&loss(&mut filled()?, epoch, &vars(VIEWS)?)?, expected);
    check(1, unimodal(&VIEWS, &ALL))?;
    check(2, clip(&VIEWS, &ALL))?;
    check(3, clip(&VIEWS, &SAFE) + unimodal(&VIEWS, &RISKY))
}

/// A view has itself for a partner until the pool is full; then the pool of the batches before.
#[test]
fn lookup_comes_before_enqueue() -> Result<()> {
    let (mut method, vars) = (method()?, vars(VIEWS)?);
    let own = 0.5 * (one_way(&VIEWS[2], &VIEWS[0], SCALE) + one_way(&VIEWS[3], &VIEWS[1], SCALE));
    near(&loss(&mut method, 1, &vars)?, own)?;
    let mut filled = filled()?;
    let first = loss(&mut filled, 1, &vars)?;
    near(&first, unimodal(&VIEWS, &ALL))?;
    // The same pairs are in the pool now, and each is the nearest to itself.
    near(&loss(&mut filled, 1, &vars)?, own)
}

#[test]
fn the_caption_of_a_risky_pair_is_none_of_the_clip_loss() -> Result<()> {
    let of_clip = |views: [Rows; 4]| -> Result<f64> {
        let all = loss(&mut filled()?, 3, &vars(views)?)?.to_scalar::<f32>()?;
        Ok(f64::from(all) - unimodal(&views, &RISKY))
    };
    let (as_it_is, mut changed) = (of_clip(VIEWS)?, VIEWS);
    changed[1][RISKY[0] as usize] = [0.0, -1.0];
    assert!((of_clip(changed)? - as_it_is).abs() < 1e-5);
    changed[1][SAFE[0] as usize] = [0.0, -1.0];
    assert!((of_clip(changed)? - as_it_is).abs() > 0.1, "that of a safe pair is");
    Ok(())
}

#[test]
fn both_towers_learn_in_every_phase() -> Result<()> {
    for epoch in 1..=3 {
        let vars = vars(VIEWS)?;
        let gradients = loss(&mut filled()?, epoch, &vars)?.backward()?;
        let [image, text, i, t] = &vars;
        let (first, second) = (epoch > 1, epoch != 2); // pooled neighbors are constants
        for (var, expected) in [(image, first), (text, first), (i, second), (t, second)] {
            assert_eq!(moves(&gradients, var)?, expected, "epoch {epoch}");
        }
    }
    // Row by row: the first views of safe pairs, the second views of the others.
    let vars = vars(VIEWS)?;
    let gradients = loss(&mut filled()?, 3, &vars)?.backward()?;
    for (view, var) in vars.iter().enumerate() {
        let gradient = gradients.get(var).expect("every view has a part").abs()?;
        let sizes = gradient.sum(1)?.to_vec1::<f32>()?;
        let moved: Vec<u32> = (0..4).filter(|&at| sizes[at as usize] > 1e-6).collect();
        assert_eq!(moved, if view < 2 { SAFE } else { RISKY }, "view {view}");
    }
    Ok(())
}

/// A batch may hold one kind of pairs, or a single one of a kind.
#[test]
fn a_batch_without_risky_or_safe_pairs_has_a_loss() -> Result<()> {
    for (safe, expected) in [
        (vec![0, 1, 2, 3], clip(&VIEWS, &ALL)),
        (vec![], unimodal(&VIEWS, &ALL)),
        (vec![0, 1, 2], clip(&VIEWS, &[0, 1, 2])),
        (vec![2], unimodal(&VIEWS, &[0, 1, 3])),
    ] {
        let mut method = filled()?;
        method.split.as_mut().expect("split").safe = safe;
        near(&loss(&mut method, 3, &vars(VIEWS)?)?, expected)?;
    }
    Ok(())
}

#[test]
fn the_safe_share_grows_up_to_its_limit() -> Result<()> {
    let mut method = method()?;
    method.count = 1000;
    let check = |first: usize, epoch: u32, expected: usize| {
        assert_eq!(method.safe_count(first, epoch), expected, "{first} in epoch {epoch}");
    };
    check(400, 4, 410);
    check(400, 5, 420);
    check(845, 4, 850);
    check(400, 90, 850);
    check(0, 4, 10);
    check(900, 4, 850);
    Ok(())
}

#[test]
fn everything_comes_back_from_a_checkpoint_and_nothing_else_does() -> Result<()> {
    let mut one = filled()?;
    let cosines: Vec<f32> = (0..8).map(|row| row as f32 / 8.0).collect();
    one.split = Some(Split { cosines, safe: vec![1, 7], first: 3 });
    let mut other = method()?;
    other.split = None;
    assert!(other.restore(one.state()?));
    assert_eq!((other.state()?, &other.split), (one.state()?, &one.split));
    let doubted = other.doubted(&[0, 1, 2, 3, 4, 5, 6, 7]).expect("split");
    let rows: Vec<u32> = doubted.iter().map(|doubted| doubted.row).collect();
    assert_eq!((rows, doubted[1].agreement), (vec![0, 2, 3, 4, 5, 6], 0.25));
    one.split = None;
    assert!(other.restore(one.state()?) && other.split.is_none());

    one.split = Some(Split { cosines: vec![0.0; 7], safe: vec![], first: 0 });
    assert!(!other.restore(one.state()?), "scores of other data");
    one.split = Some(Split { cosines: vec![0.0; 8], safe: vec![7, 1], first: 2 });
    assert!(!other.restore(one.state()?), "rows in no order");
    one.split = None;
    let mut half = one.state()?;
    half.take_numbers("pool/owners");
    assert!(!other.restore(half));
    let mut more = one.state()?;
    more.numbers("other", vec![1]);
    assert!(!other.restore(more));
    Ok(())
}

#[test]
fn a_pool_with_fewer_rows_than_usual_is_told_once() -> Result<()> {
    let warning = |pool_share, epoch| -> Result<Option<String>> {
        let mut config = Config::default();
        config.data.batch_size = 2;
        config.method.safeclip = Some(config::Safeclip { pool_share, ..Default::default() });
        Ok(Safeclip::new(&config, Sizes::whole(5_000, 2), &Device::Cpu)?.warning(epoch))
    };
    let line = warning(Some(0.1), 1)?.expect("too few");
    assert!(line.contains("method.safeclip.pool_share`"), "{line}");
    assert_eq!([warning(Some(0.1), 2)?, warning(None, 1)?], [None, None]);
    Ok(())
}

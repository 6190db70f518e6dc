//! Each form by hand, on rows of two numbers.

use candle_core::{DType, Var};
use clip::ops::Engine;

use super::*;
use crate::config::{MethodName, Wrap};

/// 20 rows in batches of two, a pool of four, from epoch 2 on.
fn method(settings: config::Roclip) -> Result<Roclip> {
    let mut config = Config::default();
    config.data.batch_size = 2;
    config.method.name = MethodName::Roclip;
    config.method.roclip =
        Some(config::Roclip { pool_rows: Some(4), match_every_epochs: 1, ..settings });
    Roclip::new(&config, Sizes::whole(20, 2), &Device::Cpu)
}

fn rows(a: [f32; 2], b: [f32; 2]) -> Result<Var> {
    Ok(Var::new(&[a, b], &Device::Cpu)?)
}

fn pairs(image: &Var, text: &Var, rows: [u32; 2], epoch: u32) -> Pairs {
    let (image, text) = (image.as_tensor().clone(), text.as_tensor().clone());
    let (rows, captions) = (rows.to_vec(), rows.to_vec());
    let (engine, second) = (Engine::default(), None);
    Pairs { image, text, engine, second, rows, captions, epoch, step: 0 }
}

fn scale() -> Result<Tensor> {
    Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?)
}

const RIGHT: [f32; 2] = [1.0, 0.0];
const UP: [f32; 2] = [0.0, 1.0];
const LEFT: [f32; 2] = [-1.0, 0.0];
const DOWN: [f32; 2] = [0.0, -1.0];

/// A batch whose images and captions both fill the pools, then one that is matched: its images
/// point to the right and up, its captions to the left and down.
fn matched(settings: config::Roclip) -> Result<(MethodLoss, Var, Var)> {
    let mut method = method(settings)?;
    let first = rows(RIGHT, UP)?;
    let second = rows(LEFT, DOWN)?;
    method.loss(&pairs(&first, &first, [0, 1], 1), &scale()?)?;
    method.loss(&pairs(&second, &second, [2, 3], 1), &scale()?)?;
    let (image, text) = (rows(RIGHT, UP)?, rows(LEFT, DOWN)?);
    let loss = method.loss(&pairs(&image, &text, [4, 5], 2), &scale()?)?;
    Ok((loss, image, text))
}

/// Of two orthogonal pairs at scale 1.
fn orthogonal() -> f32 {
    (1.0 + (-1f32).exp()).ln()
}

#[test]
fn images_are_pulled_to_pooled_captions_and_their_own_play_no_part() -> Result<()> {
    let (matched, image, text) = matched(config::Roclip::default())?;
    assert!((matched.loss.to_scalar::<f32>()? - orthogonal()).abs() < 1e-6);
    assert_eq!(matched.trained, Towers::IMAGE);
    assert_eq!(matched.report.unique_neighbors, Some(2));
    assert_eq!(matched.report.matched, Some(vec![(4, Some(0)), (5, Some(1))]));
    let grads = matched.loss.backward()?;
    assert!(grads.get(&image).is_some() && grads.get(&text).is_none());
    Ok(())
}

#[test]
fn lookup_comes_before_enqueue() -> Result<()> {
    let mut method = method(config::Roclip::default())?;
    let (pooled, image) = (rows(RIGHT, RIGHT)?, rows(LEFT, DOWN)?);
    method.loss(&pairs(&pooled, &pooled, [0, 1], 1), &scale()?)?;
    method.loss(&pairs(&pooled, &pooled, [6, 7], 1), &scale()?)?;
    let matched = method.loss(&pairs(&image, &image, [2, 3], 2), &scale()?)?;
    // The captions of its own batch would suit them; both find the first of the pool, and are no
    // negatives of each other.
    assert_eq!(matched.report.unique_neighbors, Some(1));
    assert_eq!(matched.loss.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn no_step_is_matched_before_the_pool_is_full() -> Result<()> {
    let mut method = method(config::Roclip::default())?;
    let all = rows(RIGHT, UP)?;
    let mut phase = |first: u32| -> Result<Phase> {
        let pairs = pairs(&all, &all, [first, first + 1], 2);
        Ok(method.loss(&pairs, &scale()?)?.report.phase)
    };
    assert_eq!([phase(0)?, phase(2)?, phase(4)?], [Phase::Warmup, Phase::Warmup, Phase::Match]);
    Ok(())
}

#[test]
fn a_text_tower_that_drifts_has_a_gradient_of_zero() -> Result<()> {
    let settings = config::Roclip { text_tower: TextTower::Drifts, ..Default::default() };
    let (matched, _, text) = matched(settings)?;
    assert_eq!(matched.trained, Towers::BOTH);
    assert!(matched.report.constants_only, "it learns nothing");
    let grads = matched.loss.backward()?;
    let grad = grads.get(&text).expect("of zero").to_vec2::<f32>()?;
    assert_eq!(grad, [[0.0; 2]; 2]);
    Ok(())
}

/// Images find their like, and so does the caption that points down. The one that points to the left
/// would find the caption of its own row, and takes the next.
#[test]
fn a_text_tower_that_learns_is_pulled_to_the_captions_nearest_to_its_own() -> Result<()> {
    let settings = config::Roclip {
        text_tower: TextTower::Learns,
        duplicates: Duplicates::Untreated,
        ..Default::default()
    };
    let mut method = method(settings)?;
    let (first, second) = (rows(RIGHT, UP)?, rows(LEFT, DOWN)?);
    method.loss(&pairs(&first, &first, [0, 1], 1), &scale()?)?;
    method.loss(&pairs(&second, &second, [2, 3], 1), &scale()?)?;
    let (image, text) = (rows(RIGHT, UP)?, rows(LEFT, DOWN)?);
    let matched = method.loss(&pairs(&image, &text, [2, 5], 2), &scale()?)?;
    assert_eq!(matched.trained, Towers::BOTH);
    assert!(!matched.report.constants_only);
    assert_eq!(matched.report.matched, Some(vec![(2, Some(0)), (5, Some(1))]), "the images'");
    // Row 2 is the pooled caption that points to the left: up and down are as near as each other,
    // and up comes first. So up and down are found; by rows and by columns the cosines are
    // [[0, 0], [-1, 1]].
    let rows = (2f32.ln() + (1.0 + (-2f32).exp()).ln()) / 2.0;
    let columns = ((1.0 + (-1f32).exp()).ln() + (1.0 + (-1f32).exp()).ln()) / 2.0;
    let expected = (orthogonal() + (rows + columns) / 2.0) / 2.0;
    let loss = matched.loss.to_scalar::<f32>()?;
    assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    let grads = matched.loss.backward()?;
    for tower in [&image, &text] {
        let grad = grads.get(tower).expect("both learn").flatten_all()?.to_vec1::<f32>()?;
        assert!(grad.iter().any(|value| *value != 0.0), "{grad:?}");
    }
    Ok(())
}

/// Both forms find what they look for in the pool, and train both towers.
#[test]
fn the_other_forms_train_both_towers() -> Result<()> {
    for retrieval in [Retrieval::Both, Retrieval::Intra] {
        let (matched, image, text) = matched(config::Roclip { retrieval, ..Default::default() })?;
        assert_eq!(matched.trained, Towers::BOTH);
        assert!(!matched.report.constants_only);
        let expected = match retrieval {
            Retrieval::Both => orthogonal(), // each finds its like of the other kind
            // Left's like among the captions is left, for an image that points to the right: logits
            // -1 beside 0; the same the other way round.
            _ => (1.0 + 1f32.exp()).ln(),
        };
        let loss = matched.loss.to_scalar::<f32>()?;
        assert!((loss - expected).abs() < 1e-6, "{retrieval:?}: {loss}");
        let grads = matched.loss.backward()?;
        assert!(grads.get(&image).is_some() && grads.get(&text).is_some());
    }
    Ok(())
}

#[test]
fn images_that_find_one_caption_are_treated_as_asked() -> Result<()> {
    let loss = |duplicates| -> Result<f32> {
        let mut method = method(config::Roclip { duplicates, ..Default::default() })?;
        let (first, image) = (rows(RIGHT, LEFT)?, rows(RIGHT, RIGHT)?);
        method.loss(&pairs(&first, &first, [0, 1], 1), &scale()?)?;
        method.loss(&pairs(&first, &first, [8, 9], 1), &scale()?)?;
        let matched = method.loss(&pairs(&image, &first, [2, 3], 2), &scale()?)?;
        assert_eq!(matched.report.unique_neighbors, Some(1));
        Ok(matched.loss.to_scalar::<f32>()?)
    };
    assert_eq!(loss(Duplicates::Masked)?, 0.0);
    assert!((loss(Duplicates::Untreated)? - 2f32.ln()).abs() < 1e-6);
    assert!((loss(Duplicates::Soft)? - 2f32.ln()).abs() < 1e-6);
    Ok(())
}

#[test]
fn batches_enter_the_pool_when_they_shall() -> Result<()> {
    let filled = |settings: config::Roclip, steps: &[(u32, u64)]| -> Result<Option<usize>> {
        let mut method = method(settings)?;
        let mut filled = None;
        for (at, &(epoch, step)) in steps.iter().enumerate() {
            let first = 2 * at as u32;
            let (all, rows) = (rows(RIGHT, UP)?, [first, first + 1]);
            let pairs = Pairs { step, ..pairs(&all, &all, rows, epoch) };
            filled = method.loss(&pairs, &scale()?)?.report.pool_filled;
        }
        Ok(filled)
    };
    let every =
        |enqueue_every_batches| config::Roclip { enqueue_every_batches, ..Default::default() };
    assert_eq!(filled(every(1), &[(1, 0), (1, 1)])?, Some(4));
    assert_eq!(filled(every(2), &[(1, 0), (1, 1)])?, Some(2));
    let mut method =
        method(config::Roclip { wrap: Wrap::Drops, ..config::Roclip::as_published() })?;
    let (all, noise) = (rows(RIGHT, UP)?, State::default());
    assert_ne!(method.state()?, noise);
    let before = method.state()?;
    method.loss(&pairs(&all, &all, [0, 1], 1), &scale()?)?;
    assert_eq!(method.state()?, before, "matched epochs alone fill it");
    method.loss(&pairs(&all, &all, [0, 1], 2), &scale()?)?;
    assert_ne!(method.state()?, before);
    Ok(())
}

#[test]
fn matching_waits_for_its_signal() -> Result<()> {
    let settings = config::Roclip { match_from_agreement: Some(0.9), ..Default::default() };
    let mut method = method(settings)?;
    let (first, second) = (rows(RIGHT, UP)?, rows(LEFT, DOWN)?);
    let mut phase = |image: &Var, text: &Var, rows, epoch| -> Result<(Phase, Option<f32>)> {
        let report = method.loss(&pairs(image, text, rows, epoch), &scale()?)?.report;
        Ok((report.phase, report.match_agreement))
    };
    assert_eq!(phase(&first, &first, [0, 1], 2)?, (Phase::Warmup, None));
    assert_eq!(phase(&second, &second, [2, 3], 2)?, (Phase::Warmup, None));
    assert_eq!(phase(&first, &first, [4, 5], 2)?, (Phase::Warmup, Some(1.0)));
    method.signal.as_mut().expect("asked for").begin(3);
    let report = method.loss(&pairs(&first, &first, [6, 7], 3), &scale()?)?.report;
    assert_eq!((report.phase, report.match_agreement), (Phase::Match, None));
    Ok(())
}

#[test]
fn everything_comes_back_from_a_checkpoint() -> Result<()> {
    let settings = || config::Roclip {
        retrieval: Retrieval::Both,
        match_from_agreement: Some(0.9),
        ..Default::default()
    };
    let mut method = method(settings())?;
    let all = rows(RIGHT, UP)?;
    method.loss(&pairs(&all, &all, [0, 1], 1), &scale()?)?;
    let state = method.state()?;
    let mut other = self::method(settings())?;
    assert!(other.restore(state.clone()));
    assert_eq!(other.state()?, state);
    let without = config::Roclip { retrieval: Retrieval::Both, ..Default::default() };
    assert!(!self::method(without)?.restore(state.clone()), "a signal that nobody waits for");
    let without = config::Roclip { match_from_agreement: Some(0.9), ..Default::default() };
    assert!(!self::method(without)?.restore(state), "images that nobody looks for");
    Ok(())
}

#[test]
fn a_run_that_matches_nothing_says_why() -> Result<()> {
    let warning = |settings: config::Roclip, is_full: bool| -> Result<Option<String>> {
        let mut method = method(settings)?;
        let (image, text) = (rows([1.0, 0.0], [0.0, 1.0])?, rows([1.0, 0.0], [0.0, 1.0])?);
        for first in [0, 2].into_iter().take(if is_full { 2 } else { 1 }) {
            method.loss(&pairs(&image, &text, [first, first + 1], 1), &scale()?)?;
        }
        Ok(method.warning(Config::default().optim.epochs))
    };
    let told = |settings, is_full| -> Result<String> {
        let line = warning(settings, is_full)?.expect("nothing is matched");
        assert!(line.starts_with("nothing has been matched: "), "{line}");
        Ok(line)
    };
    assert!(told(config::Roclip::default(), false)?.contains("pool is not full: lower"));
    assert_eq!(warning(config::Roclip::default(), true)?, None);
    let waits = config::Roclip { match_from_agreement: Some(0.99), ..Default::default() };
    assert!(told(waits, true)?.contains("match_from_agreement` was not reached"));
    Ok(())
}

#[test]
fn a_pool_with_fewer_rows_than_usual_is_told_once() -> Result<()> {
    let warning = |pool_rows, epoch| -> Result<Option<String>> {
        let mut config = Config::default();
        config.data.batch_size = 2;
        config.method.roclip = Some(config::Roclip { pool_rows, ..Default::default() });
        Ok(Roclip::new(&config, Sizes::whole(5_000, 2), &Device::Cpu)?.warning(epoch))
    };
    assert!(warning(Some(999), 1)?.is_some_and(|line| line.contains("method.roclip.pool_rows`")));
    assert_eq!([warning(Some(999), 2)?, warning(None, 1)?], [None, None]);
    Ok(())
}

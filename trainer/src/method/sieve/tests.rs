//! What is kept from epoch to epoch, and the batches that hold pairs in doubt.

use clip::ops::Engine;

use super::*;
use crate::config::MethodName;

fn sieve(settings: config::Sieve, rows: usize) -> Result<Sieve> {
    let usual = |epochs: Option<u32>| epochs.or(Some(0));
    let (believer_epochs, scout_epochs) =
        (usual(settings.believer_epochs), usual(settings.scout_epochs));
    let settings = config::Sieve { believer_epochs, scout_epochs, ..settings };
    let mut config = Config::default();
    (config.data.batch_size, config.optim.epochs, config.seed) = (2, 10, 1);
    (config.method.name, config.method.sieve) = (MethodName::Sieve, Some(settings));
    Sieve::new(&config, Sizes::whole(rows, 2), &Device::Cpu)
}

/// Two images that point to the right and up, and the captions of row `first` and the next.
fn pairs(captions: [[f32; 2]; 2], first: u32) -> Result<Pairs> {
    let rows = vec![first, first + 1];
    Ok(Pairs {
        image: Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?,
        text: Tensor::new(&captions, &Device::Cpu)?,
        engine: Engine::default(),
        second: None,
        captions: rows.clone(),
        rows,
        epoch: 1,
        step: 0,
    })
}

const RIGHT: [f32; 2] = [1.0, 0.0];
const UP: [f32; 2] = [0.0, 1.0];

#[test]
fn scores_are_smoothed_and_come_back_from_a_checkpoint() -> Result<()> {
    let new = |rows| sieve(config::Sieve { smoothing: 0.5, ..Default::default() }, rows);
    let mut one = new(2)?;
    assert!(one.state()?.is_empty());
    one.remember(vec![-4.0, -2.0], 1);
    one.remember(vec![-2.0, -2.0], 2);
    one.kept = Some([7].into());
    let mut other = new(2)?;
    assert!(other.restore(one.state()?));
    assert_eq!(other.agreement, [-3.0, -2.0]);
    assert_eq!(other.selected(3), Selection::new(Some([7].into()), Vec::new()));
    let doubted = one.doubted(&[2, 7]);
    assert_eq!(doubted, Some(vec![Doubted { row: 2, agreement: -3.0, ..Default::default() }]));
    let mut half = one.state()?;
    half.take_floats(AGREEMENT_KEY);
    assert!(!other.restore(half));
    assert!(!new(3)?.restore(one.state()?), "scores of other data");
    Ok(())
}

#[test]
fn a_score_is_the_mean_of_all_or_leans_to_the_last() -> Result<()> {
    let check = |smoothing, expected: f32| -> Result<()> {
        let mut sieve = sieve(config::Sieve { smoothing, ..Default::default() }, 1)?;
        for (asked, fresh) in [(1, -8.0), (2, -4.0), (3, f32::NAN), (4, 0.0)] {
            sieve.remember(vec![fresh], asked);
        }
        assert!((sieve.agreement[0] - expected).abs() < 1e-6, "{smoothing}: {:?}", sieve.agreement);
        Ok(())
    };
    check(1.0, -4.5)?; // (-6) 3/4: what was not asked weighs as the mean so far
    check(0.5, -3.0)?;
    check(0.0, 0.0)
}

#[test]
fn the_share_that_may_be_kept_rises_to_all() -> Result<()> {
    let settings = config::Sieve { kept_first: 0.6, ..Default::default() };
    let check = |settings: config::Sieve, epochs: [u32; 3]| -> Result<()> {
        let sieve = sieve(settings, 4)?;
        let shares = epochs.map(|epoch| (100.0 * sieve.share(epoch)).round());
        assert_eq!(shares, [60.0, 80.0, 100.0], "{epochs:?}");
        Ok(())
    };
    check(settings.clone(), [2, 6, 10])?;
    let scout = config::Sieve { scout_epochs: Some(5), ..settings.clone() };
    check(scout.clone(), [2, 4, 6])?;
    check(config::Sieve { believer_epochs: Some(3), ..scout }, [5, 7, 9])?;
    let late = sieve(config::Sieve { from_epoch: 10, ..settings }, 4)?;
    assert_eq!(late.share(10), 0.6);
    let short = config::Sieve { scout_epochs: Some(1), kept_last: 0.7, ..Default::default() };
    assert_eq!(self::sieve(short, 4)?.share(2), 0.7, "the model's");
    Ok(())
}

#[test]
fn a_pair_in_doubt_has_no_part_in_the_loss_or_takes_a_pooled_caption() -> Result<()> {
    let logit_scale = Tensor::new(0f32, &Device::Cpu)?;
    let loss = |doubted, score, kept: &[u32]| -> Result<f32> {
        let mut sieve =
            sieve(config::Sieve { doubted: Some(doubted), score, ..Default::default() }, 8)?;
        sieve.loss(&pairs([RIGHT, UP], 0)?, &logit_scale)?; // into the pool, which holds four
        sieve.loss(&pairs([RIGHT, UP], 2)?, &logit_scale)?;
        sieve.kept = Some(kept.into());
        assert_eq!(sieve.selected(1), Selection::default(), "all are in the batches");
        let MethodLoss { loss, report, .. } = sieve.loss(&pairs([UP, UP], 4)?, &logit_scale)?;
        assert_eq!((report.phase, report.pool_filled), (Phase::Sieve, Some(4)));
        Ok(loss.to_scalar::<f32>()?)
    };
    let orthogonal = (1.0 + (-1f32).exp()).ln();
    let check = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-6, "{found}");
    // Alone in the loss, a pair has none. Matched, the first image finds what it shows.
    check(loss(Fate::LeftOut, Score::Pool, &[5])?, 0.0);
    check(loss(Fate::LeftOut, Score::Pool, &[])?, 0.0);
    check(loss(Fate::Matched, Score::References, &[5])?, orthogonal);
    // With its own caption it is as far from it as the second image is close.
    let own = loss(Fate::Matched, Score::References, &[4, 5])?;
    check(
        own,
        0.5 * (0.5 * (2f32.ln() + 2f32.ln()) + 0.5 * (orthogonal + (1.0 + 1f32.exp()).ln())),
    );
    Ok(())
}

#[test]
fn a_pool_says_how_well_pairs_agree() -> Result<()> {
    let logit_scale = Tensor::new(0f32, &Device::Cpu)?;
    let settings = config::Sieve { score: Score::Pool, ..Default::default() };
    let mut one = sieve(settings.clone(), 8)?;
    one.fresh = vec![f32::NAN; 8];
    one.loss(&pairs([RIGHT, UP], 0)?, &logit_scale)?;
    one.loss(&pairs([RIGHT, RIGHT], 2)?, &logit_scale)?;
    assert!(one.fresh.iter().all(|score| score.is_nan()), "the pool was not full");
    one.loss(&pairs([RIGHT, UP], 4)?, &logit_scale)?;
    // All four captions speak for both images: three to the right, one up.
    let length = 10f32.sqrt();
    assert!(
        (one.fresh[4] - 3.0 / length).abs() < 1e-6 && (one.fresh[5] - 1.0 / length).abs() < 1e-6
    );
    let mut other = sieve(settings, 8)?;
    assert!(other.restore(one.state()?));
    assert_eq!(other.fresh[4..6], one.fresh[4..6]);
    Ok(())
}

#[test]
fn each_part_begins_with_new_towers_and_its_own_rise_of_the_rate() -> Result<()> {
    let (believer_epochs, scout_epochs) = (Some(2), Some(3));
    let whole = sieve(config::Sieve { believer_epochs, scout_epochs, ..Default::default() }, 4)?;
    let fresh: Vec<u32> = (1..=15).filter(|&epoch| whole.starts_over(epoch)).collect();
    assert_eq!(fresh, [3, 6]);
    let alone = sieve(config::Sieve::default(), 4)?;
    assert!((1..=10).all(|epoch| !alone.starts_over(epoch)));
    // Ten steps in each of 15 epochs, a tenth of which warm up.
    let schedule = Schedule::new(1.0, 0.1, 150);
    let rate = |epoch: u32, step| whole.lr(&schedule, epoch, step);
    for (epoch, first, steps) in [(1, 0, 20), (3, 20, 30), (6, 50, 100)] {
        let part = Schedule::new(1.0, 0.1, steps);
        assert_eq!(rate(epoch, first), part.lr(0), "epoch {epoch}");
        assert_eq!(rate(epoch, first + steps / 10 - 1), 1.0, "epoch {epoch}");
    }
    assert!(rate(2, 19) < 0.02 && rate(5, 49) < 0.01 && rate(15, 149) < 0.001);
    Ok(())
}

#[test]
fn the_model_learns_pictures_in_doubt_with_other_captions() -> Result<()> {
    let settings = config::Sieve { scout_epochs: Some(2), ..Default::default() };
    let new = || sieve(settings.clone(), 6);
    let mut one = new()?;
    (one.agreement, one.kept) = (vec![-1.0; 6], Some([0, 3, 4].into()));
    let captions = [3, 0, 4, 0, 3, 0, 4, 0, 3, 0].to_vec();
    let recaptions = Recaptions::restore(vec![1, 5], captions, &[0, 3, 4], 5);
    one.recaptions = recaptions.expect("two in five epochs");
    let scout = one.selected(2);
    assert_eq!(scout, Selection::new(Some([0, 3, 4].into()), Vec::new()));
    let mut other = new()?;
    assert!(other.restore(one.state()?));
    for (epoch, caption) in [(3, 3), (4, 4), (7, 3)] {
        let model = other.selected(epoch);
        assert_eq!(model.rows, Some([0, 1, 3, 4, 5].into()));
        assert_eq!(*model.recaptioned, [(1, caption), (5, 0)]);
        assert_eq!([0, 1, 5].map(|row| model.caption_of(row)), [0, caption, 0]);
    }
    assert_eq!(
        other.selected(8),
        Selection::new(Some([0, 3, 4].into()), Vec::new()),
        "the second half is plain"
    );
    let doubted = one.doubted(&[0, 1, 2, 3, 4, 5]).expect("three");
    let doubted: Vec<_> = doubted.into_iter().map(|pair| (pair.row, pair.recaptioned)).collect();
    assert_eq!(doubted, [(1, true), (2, false), (5, true)]);
    let mut without = one.state()?;
    without.take_numbers(CAPTIONS_KEY);
    assert!(!new()?.restore(without), "pictures without captions");
    Ok(())
}

#[test]
fn pairs_of_a_crowd_are_in_doubt_however_well_they_agree() -> Result<()> {
    const PAIRS: u32 = 220;
    let kept = |factor, crowd: u32| -> Result<Vec<u32>> {
        let settings = config::Sieve { crowd_factor: factor, ..Default::default() };
        let mut sieve = sieve(settings, PAIRS as usize)?;
        let agreement = |pair: u32| (pair as f32 - PAIRS as f32) * 1e-3;
        sieve.remember((0..PAIRS).map(agreement).collect(), 1);
        let pictures: Vec<u32> = (0..PAIRS).map(|pair| pair.min(crowd)).collect();
        sieve.sift(2, &(0..PAIRS).collect::<Vec<_>>(), &pictures);
        Ok(sieve.kept.as_deref().expect("sieved").to_vec())
    };
    let all = kept(0.0, 200)?;
    let first = all[0];
    assert_eq!(all, (first..PAIRS).collect::<Vec<_>>(), "the better ones");
    assert_eq!(kept(3.0, 219)?, all, "each has a picture of its own");
    assert_eq!(kept(3.0, 200)?, (first..200).collect::<Vec<_>>(), "the last twenty are one");
    let quarter = first + PAIRS / 4;
    assert_eq!(kept(3.0, quarter)?, (first..quarter).collect::<Vec<_>>());
    assert_eq!(kept(3.0, quarter - 1)?, all, "less than a quarter would be left");
    Ok(())
}

#[test]
fn what_the_believer_said_comes_back_from_a_checkpoint() -> Result<()> {
    let settings = config::Sieve { believer_epochs: Some(1), ..Default::default() };
    let mut one = sieve(settings.clone(), 2)?;
    one.neighbors = Neighbors::restore(vec![1, 0], 2).expect("of two pairs");
    let restored = |one: &Sieve| -> Result<Sieve> {
        let mut other = sieve(settings.clone(), 2)?;
        assert!(other.restore(one.state()?));
        Ok(other)
    };
    assert_eq!(restored(&one)?.neighbors, one.neighbors);
    one.remember(vec![-8.0, -1.0], 1);
    one.sift(11, &[4, 7], &[0, 1]);
    one.neighbors = Neighbors::default(); // the verdict
    one.kept = Some([7].into());
    one.keystones = [(4, 2.0)].into();
    let other = restored(&one)?;
    assert_eq!((&other.company, &other.kept), (&one.company, &one.kept));
    assert_eq!(other.keystones, one.keystones);
    let doubted = other.doubted(&[4, 7]).expect("one");
    assert_eq!((doubted.len(), doubted[0].row, doubted[0].keystone), (1, 4, Some(2.0)));
    one.keystones = [(7, 2.0)].into();
    assert!(!sieve(settings.clone(), 2)?.restore(one.state()?), "patched and kept");
    one.keystones = [(4, 2.0)].into();
    let mut half = one.state()?;
    half.take_floats(KEYSTONES_KEY);
    assert!(!sieve(settings.clone(), 2)?.restore(half), "patched, and nobody knows how much");
    let mut without = one.state()?;
    without.take_floats(COMPANY_KEY);
    assert!(!sieve(settings, 2)?.restore(without), "kept without the company that decided");
    Ok(())
}

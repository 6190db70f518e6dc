//! What a pool of captions says of the pairs of a batch: no pass of its own is needed.

use candle_core::{D, Tensor};
use clip::ops::Equals;

use super::Pairs;
use crate::{error::Result, pool::Pool};

/// Captions that speak for an image.
const NEAREST: usize = 8;

/// How far each pair's caption is what the pool says of its image: the cosine of it with the mean
/// of the nearest captions to the image, its own text left out. `None` while the pool is not full.
pub(super) fn agreement(pool: &Pool, pairs: &Pairs) -> Result<Option<Vec<f32>>> {
    if pool.filled() < pool.capacity() {
        return Ok(None);
    }
    let (rows, text) = (pool.rows()?, pairs.text.detach());
    let near = pairs.image.detach().matmul(&rows.t()?)?.to_vec2::<f32>()?; // [B, P]
    let mut means = Vec::with_capacity(near.len());
    for (near, &own) in near.iter().zip(&pairs.captions) {
        let others = pool.kinds().iter().enumerate().filter(|(_, kind)| **kind != own);
        let mut slots: Vec<u32> = others.map(|(slot, _)| slot as u32).collect();
        let best = NEAREST.min(slots.len());
        if best < slots.len() {
            slots.select_nth_unstable_by(best, |a, b| {
                near[*b as usize].total_cmp(&near[*a as usize]).then(a.cmp(b))
            });
        }
        slots.truncate(best);
        slots.sort_unstable();
        means.push(match slots.is_empty() {
            true => text.zeros_like()?.get(0)?, // the pool holds nothing but this text
            false => rows.index_select(&Tensor::new(slots, rows.device())?, 0)?.mean(0)?,
        });
    }
    let means = Tensor::stack(&means, 0)?; // [B, D]
    let lengths = means.sqr()?.sum(D::Minus1)?.sqrt()?.affine(1.0, f64::from(f32::MIN_POSITIVE))?;
    Ok(Some((means * text)?.sum(D::Minus1)?.div(&lengths)?.to_vec1()?))
}

/// InfoNCE of a batch in which the captions of the pairs that are not `kept` are those of the pool
/// that are nearest to their images; one of these found twice is no negative of itself.
pub(super) fn matched(
    pool: &Pool,
    pairs: &Pairs,
    kept: &[bool],
    logit_scale: &Tensor,
) -> Result<Tensor> {
    let found = pool.nearest(&pairs.engine, &pairs.image, Some(&pairs.rows))?;
    let both = Tensor::cat(&[&pairs.text, &found.rows], 0)?; // [2 B, D]
    let (count, own) = (kept.len() as u32, |at: u32| kept[at as usize]);
    let chosen: Vec<u32> = (0..count).map(|at| if own(at) { at } else { count + at }).collect();
    let partners = both.index_select(&Tensor::new(chosen, both.device())?, 0)?;
    let kind = |at: u32| if own(at) { u32::MAX - at } else { found.kinds[at as usize] };
    let kinds: Vec<u32> = (0..count).map(kind).collect();
    Ok(pairs.engine.info_nce(&pairs.image, &partners, logit_scale, Equals::LeftOut(&kinds))?)
}

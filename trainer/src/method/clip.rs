//! CLIP (Radford et al. 2021, section 2.3): each image and its own caption.

use candle_core::Tensor;
use clip::ops::Equals;

use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Towers};
use crate::error::Result;

/// Keeps nothing.
#[derive(Debug)]
pub struct Clip;

impl Method for Clip {
    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        Ok(MethodLoss {
            loss: pairs.engine.info_nce(
                &pairs.image,
                &pairs.text,
                logit_scale,
                Equals::Negatives,
            )?,
            trained: Towers::BOTH,
            report: MethodReport::new(Phase::Plain),
        })
    }
}

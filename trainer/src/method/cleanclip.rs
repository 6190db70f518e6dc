//! CleanCLIP (Bansal et al., ICCV 2023, section 4): CLIP, and each image and each caption beside
//! its augmented self, so that a trigger is no longer what ties an image to a caption.
//! `docs/safeclip-cleanclip.md` has the formula, and how a poisoned model is fine-tuned with it.

use candle_core::Tensor;
use clip::ops::{Equals, info_nce_one_way};

use super::{Method, MethodLoss, MethodReport, Pairs, Phase, Towers};
use crate::{config, data::Views, error::Result};

/// Keeps nothing.
#[derive(Debug)]
pub struct Cleanclip {
    settings: config::Cleanclip,
}

impl Cleanclip {
    /// With these weights.
    pub fn new(settings: config::Cleanclip) -> Self {
        Self { settings }
    }
}

impl Method for Cleanclip {
    fn views(&self, _: u32) -> Views {
        Views::PlainAndVaried
    }

    fn loss(&mut self, pairs: &Pairs, logit_scale: &Tensor) -> Result<MethodLoss> {
        let (image, text, varied) = (&pairs.image, &pairs.text, pairs.second());
        let equals = Equals::Negatives;
        let of_pairs = pairs.engine.info_nce(image, text, logit_scale, equals)?;
        let of_images = info_nce_one_way(image, &varied.image, logit_scale, equals)?;
        let of_texts = info_nce_one_way(text, &varied.text, logit_scale, equals)?;
        let unimodal = ((of_images + of_texts)? * 0.5)?;
        let config::Cleanclip { clip_weight, unimodal_weight } = self.settings;
        Ok(MethodLoss {
            loss: ((of_pairs * clip_weight)? + (unimodal * unimodal_weight)?)?,
            trained: Towers::BOTH,
            report: MethodReport::new(Phase::Plain),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{
        method::{Second, proof},
        state::State,
    };

    /// Images, captions, and both varied; unit rows of three pairs.
    const VIEWS: [[[f64; 2]; 3]; 4] = [
        [[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]],
        [[0.8, 0.6], [0.0, 1.0], [0.6, -0.8]],
        [[0.8, -0.6], [1.0, 0.0], [0.0, -1.0]],
        [[0.0, 1.0], [-0.6, 0.8], [0.8, 0.6]],
    ];
    const SCALE: f64 = 1.5;

    fn vars() -> Result<[Var; 4]> {
        proof::vars(VIEWS)
    }

    fn loss(
        clip_weight: f64,
        unimodal_weight: f64,
        [image, text, i, t]: &[Var; 4],
    ) -> Result<Tensor> {
        let second = Second { image: i.as_tensor().clone(), text: t.as_tensor().clone() };
        let pairs = proof::pairs(image, text, Some(second), [0, 1, 2], 1);
        let mut method = Cleanclip::new(config::Cleanclip { clip_weight, unimodal_weight });
        let found = method.loss(&pairs, &Tensor::new(SCALE as f32, &Device::Cpu)?)?;
        assert_eq!(found.trained, Towers::BOTH);
        Ok(found.loss)
    }

    #[test]
    fn the_loss_is_that_of_the_formula() -> Result<()> {
        let one_way =
            |rows: usize, others: usize| proof::one_way(&VIEWS[rows], &VIEWS[others], SCALE);
        let clip = 0.5 * (one_way(0, 1) + one_way(1, 0));
        let unimodal = 0.5 * (one_way(0, 2) + one_way(1, 3)); // what is as it is looks for its own
        for (a, b) in [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.25)] {
            let found = f64::from(loss(a, b, &vars()?)?.to_scalar::<f32>()?);
            let expected = a * clip + b * unimodal;
            assert!((found - expected).abs() < 1e-5, "{a}, {b}: {found}, expected {expected}");
        }
        Ok(())
    }

    #[test]
    fn both_towers_learn_from_both_views() -> Result<()> {
        let vars = vars()?;
        let gradients = loss(1.0, 1.0, &vars)?.backward()?;
        for var in &vars {
            assert!(proof::moves(&gradients, var)?);
        }
        let alone = loss(1.0, 0.0, &vars)?.backward()?;
        assert!(proof::moves(&alone, &vars[0])? && !proof::moves(&alone, &vars[2])?);
        Ok(())
    }

    #[test]
    fn it_keeps_nothing() -> Result<()> {
        let mut method = Cleanclip::new(config::Cleanclip::default());
        assert!(method.restore(method.state()?));
        let mut other = State::default();
        other.numbers("pool", vec![1]);
        assert!(!method.restore(other));
        Ok(())
    }
}

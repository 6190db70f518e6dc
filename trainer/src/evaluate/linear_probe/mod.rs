//! Linear classifiers on frozen embeddings, projected and not given unit length.
//!
//! | file | holds |
//! |---|---|
//! | `head` | the linear layer, its cross-entropy and gradient |
//! | `adamw` | the recipe of RoCLIP's released code |
//! | `logistic` | logistic regression, as OpenAI's |
//! | `lbfgs` | what solves it |

use std::collections::HashSet;

use clip::{
    Rate,
    model::{Clip, Projections},
};
use rayon::prelude::*;
use serde::Serialize;

mod adamw;
pub(super) mod head;
mod lbfgs;
mod logistic;

use self::head::Inputs;
use super::{
    EvaluationError,
    pictures::{Pictures, projections},
};
use crate::{
    Result,
    data::{ImageSource, Manifest},
};

/// Bytes of the embeddings that a probe trains on, as towers give them and as heads take them.
const INPUT_BYTES_MAX: u64 = 8 << 30;

/// Top-1 accuracy over the counted test pictures of two classifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinearProbe {
    /// Pictures that they trained on.
    pub train_images: usize,
    /// AdamW, 32 epochs.
    pub adamw: Rate,
    /// Logistic regression by L-BFGS.
    pub lbfgs: Rate,
    /// Steps of L-BFGS.
    pub lbfgs_iterations: usize,
    /// Whether these reached the tolerance.
    pub lbfgs_converged: bool,
}

/// Pictures that a probe trains on, each once, not opened yet.
#[derive(Debug, Clone)]
pub struct ProbeSet {
    manifest: Manifest,
    pictures: Pictures,
}

impl ProbeSet {
    /// Refuses a manifest with a picture of two classes or of none, and one that holds pictures of
    /// `test`.
    pub fn new(manifest: Manifest, test: &Manifest) -> Result<Self> {
        manifest.classes()?;
        let pictures = Pictures::of(&manifest)?;
        // Pictures that are missing are refused, too, but where they are opened.
        let trained: HashSet<ImageSource> =
            pictures.sources(&manifest).into_par_iter().map(ImageSource::canonical).collect();
        let tested = Pictures::of(test)?.sources(test);
        let both: Vec<&&ImageSource> =
            tested.par_iter().filter(|image| trained.contains(&image.canonical())).collect();
        if let Some(&&first) = both.first() {
            let (train, test) = (manifest.path.clone(), test.path.clone());
            let (count, all, first) = (both.len(), tested.len(), Box::new(first.clone()));
            return Err(EvaluationError::TrainedOnTest { train, test, count, all, first }.into());
        }
        Ok(Self { manifest, pictures })
    }

    /// Pictures.
    pub fn count(&self) -> usize {
        self.pictures.count()
    }

    /// Embeds them all.
    fn read(&self, model: &Clip, on_pictures: &dyn Fn(u64)) -> Result<Inputs> {
        let (count, dim) = (self.count(), model.config().dim);
        let bytes = (count * dim * (size_of::<f32>() + size_of::<f64>())) as u64; // both at once
        if bytes > INPUT_BYTES_MAX {
            let (file, max) = (self.manifest.path.clone(), INPUT_BYTES_MAX);
            return Err(EvaluationError::ProbeSize { file, count, dim, bytes, max }.into());
        }
        let side = model.config().image.image_size() as u32;
        let row = |index: usize| &self.manifest.rows[self.pictures.first_rows[index]];
        let picture = |index| row(index).image.fitted(side);
        let rows = projections(model, count, picture, on_pictures)?;
        let class = |index| row(index).class.expect("`new` refused rows without one");
        inputs(&rows, (0..count).map(class))
    }
}

fn inputs(rows: &Projections, classes: impl Iterator<Item = usize>) -> Result<Inputs> {
    let values = (0..rows.lengths.len()).flat_map(|row| rows.row(row)).map(f64::from).collect();
    Inputs::new(values, classes.map(|class| class as u32).collect(), rows.rows.dim())
}

/// Trains on `train` and tests on `rows`, which show `own`, of `classes` classes.
pub(super) fn linear_probe(
    model: &Clip,
    train: &ProbeSet,
    classes: usize,
    (rows, own): (&Projections, &[usize]),
    on_pictures: &dyn Fn(u64),
) -> Result<LinearProbe> {
    let (train, test) = (train.read(model, on_pictures)?, inputs(rows, own.iter().copied())?);
    let (adamw, regression) = (adamw::fit(&train, classes)?, logistic::fit(&train, classes)?);
    Ok(LinearProbe {
        train_images: train.count(),
        adamw: head::accuracy(&adamw, &test)?,
        lbfgs: head::accuracy(&regression.point, &test)?,
        lbfgs_iterations: regression.iterations,
        lbfgs_converged: regression.converged,
    })
}

//! Where losses and look-ups are computed: on the CPU, or where the towers are.

#[cfg(any(test, feature = "cuda"))]
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(any(test, feature = "cuda"))]
use candle_core::{CpuStorage, CustomOp3, Layout, Shape};
use candle_core::{Result, Tensor};

use super::{Equals, info_nce, nearest};
#[cfg(any(test, feature = "cuda"))]
use super::{
    borrow,
    cuda::{Contrast, Keys, Loss},
    is_fused, values,
};

/// What computes the loss of a batch and finds its neighbors in a pool.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    #[cfg(any(test, feature = "cuda"))]
    gpu: Option<Arc<dyn Contrast>>,
}

impl Engine {
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn on(gpu: Arc<dyn Contrast>) -> Self {
        Self { gpu: Some(gpu) }
    }

    /// [`info_nce`]; tensors and gradients are on the CPU wherever it is computed. With
    /// [`Equals::Positives`] the CPU computes it, as it does
    /// [`info_nce_one_way`](super::info_nce_one_way).
    ///
    /// # Errors
    /// Those of [`info_nce`], or of the GPU.
    pub fn info_nce(
        &self,
        image: &Tensor,
        text: &Tensor,
        logit_scale: &Tensor,
        equals: Equals<'_>,
    ) -> Result<Tensor> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = self.gpu.as_ref().filter(|_| is_fused(image)) {
            assert_eq!(image.dims(), text.dims(), "one caption per image");
            let groups = match equals {
                Equals::Negatives => None,
                Equals::LeftOut(groups) => Some(groups.to_vec()),
                Equals::Positives(_) => return info_nce(image, text, logit_scale, equals),
            };
            let op = OnGpu { gpu: gpu.clone(), groups, found: Mutex::default() };
            return image.contiguous()?.apply_op3(&text.contiguous()?, logit_scale, op);
        }
        info_nce(image, text, logit_scale, equals)
    }

    /// What [`Kept::nearest`] looks through: `[P, D]` rows as they are now.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn keep(&self, rows: &Tensor) -> Result<Kept> {
        let _ = rows; // without GPUs there is one copy
        Ok(Kept {
            #[cfg(any(test, feature = "cuda"))]
            gpu: match &self.gpu {
                Some(gpu) => Some(gpu.keep(&borrow("keep", &rows.contiguous()?)?, rows.dim(1)?)?),
                None => None,
            },
        })
    }
}

/// A pool's rows where an engine looks them up.
#[derive(Debug)]
pub struct Kept {
    #[cfg(any(test, feature = "cuda"))]
    gpu: Option<Box<dyn Keys>>,
}

impl Kept {
    /// Writes `[B, D]` rows over those from number `first` on.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn put(&mut self, first: usize, rows: &Tensor) -> Result<()> {
        let _ = (first, rows);
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &mut self.gpu {
            gpu.put(first, &borrow("put", &rows.contiguous()?)?)?;
        }
        Ok(())
    }

    /// [`nearest`] among the first of the rows, as many as there are `groups`; `rows` are the same
    /// on the CPU.
    ///
    /// # Errors
    /// Those of [`nearest`], or of the GPU.
    pub fn nearest(
        &self,
        queries: &Tensor,
        rows: &Tensor,
        own: &[u32],
        groups: &[u32],
    ) -> Result<Vec<u32>> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(gpu) = &self.gpu {
            return gpu.nearest(&borrow("nearest", &queries.contiguous()?)?, own, groups);
        }
        nearest(queries, rows, own, groups)
    }
}

/// InfoNCE with its gradient, which the forward pass computes, too.
#[cfg(any(test, feature = "cuda"))]
struct OnGpu {
    gpu: Arc<dyn Contrast>,
    groups: Option<Vec<u32>>,
    found: Mutex<Option<Loss>>,
}

#[cfg(any(test, feature = "cuda"))]
impl CustomOp3 for OnGpu {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        text: &CpuStorage,
        text_layout: &Layout,
        logit_scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows =
            [values(self.name(), image, image_layout)?, values(self.name(), text, text_layout)?];
        let scale = values(self.name(), logit_scale, scale_layout)?[0];
        let (count, _) = image_layout.shape().dims2()?;
        let loss = self.gpu.info_nce(rows, count, scale, self.groups.as_deref())?;
        let value = loss.value;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(loss);
        Ok((CpuStorage::F32(vec![value]), Shape::from(())))
    }

    fn bwd(
        &self,
        image: &Tensor,
        text: &Tensor,
        logit_scale: &Tensor,
        _loss: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Loss { scale, image: to_image, text: to_text, .. } =
            found.expect("the forward pass comes first, and one way back");
        let factor = f64::from(gradient.to_scalar::<f32>()?);
        let tensor = |values, of: &Tensor| {
            (Tensor::from_vec(values, of.shape(), of.device())? * factor).map(Some)
        };
        Ok((tensor(to_image, image)?, tensor(to_text, text)?, tensor(vec![scale], logit_scale)?))
    }
}

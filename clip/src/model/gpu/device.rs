//! The GPU of a process, and what is sent there ahead.

use std::{path::Path, sync::Arc};

use candle_core::{Result, Tensor};

use super::OnMachine;
use crate::{
    image::Pictures,
    model::Clip,
    ops::{
        self, Seat,
        cuda::{Card, Machine, Precision, Sent as Received, Timed, Unvaried},
    },
};

/// An NVIDIA GPU.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Card>);

impl Gpu {
    /// Opens the one that is this process's: number `number` modulo their count, with CUDA's
    /// libraries out of `folder` or from where the system finds them. With a `seat` it joins the
    /// GPUs of other processes, and waits for all of them; this is then called before there are
    /// other threads.
    ///
    /// # Errors
    /// One line about what is missing.
    pub fn open(
        folder: Option<&Path>,
        number: usize,
        seat: Option<&Seat>,
    ) -> crate::Result<Self, String> {
        Card::open(folder, number, seat).map(Self)
    }

    /// Puts in the place of values their sums over all processes that it has joined, the same bits
    /// on all of them.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn sum_over_ranks(&self, values: &mut [f32]) -> crate::Result<()> {
        Ok(self.0.sum_over_ranks(values)?)
    }

    /// The bytes of all processes that it has joined, rank after rank; each gives as many.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn gather(&self, own: &[u8]) -> crate::Result<Vec<u8>> {
        Ok(self.0.gather(own)?)
    }

    /// As its driver names it.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether it convolves by cuDNN; without, convolutions go through products, which takes
    /// longer.
    pub fn has_cudnn(&self) -> bool {
        self.0.has_cudnn()
    }

    /// Floating-point operations per second in products of `[size, size]` matrices of bf16: the
    /// best of `turns`.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn product_rate(&self, size: usize, turns: usize) -> crate::Result<f64> {
        Ok(ops::cuda::product_rate(&self.0, size, turns)?)
    }

    /// Sends `[B, 3, H, W]` pixels ahead while it computes; there when this returns. `None` if it
    /// has no room.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn send(&self, pixels: &[f32]) -> crate::Result<Option<Sent>> {
        let sent = self.0.send(bytemuck::cast_slice(pixels));
        ahead(sent.map(Received::Pixels))
    }

    /// The same for pictures, which are varied and normalised there.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn send_pictures(&self, pictures: &Pictures) -> crate::Result<Option<Sent>> {
        ahead(Unvaried::send(&self.0, pictures).map(Received::Unvaried))
    }

    /// Does `body`, and says how long each kernel and each form of product and convolution took
    /// meanwhile; what the GPU waits for is in none of them.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn profile<T>(&self, body: impl FnOnce() -> T) -> crate::Result<(T, Vec<Timed>)> {
        Ok(self.0.profile(body)?)
    }
}

/// Pixels that a GPU has.
#[derive(Debug)]
pub struct Sent(Received<Card>);

/// What was sent, if there was room for it.
fn ahead(sent: Result<Received<Card>>) -> crate::Result<Option<Sent>> {
    match sent {
        Ok(sent) => Ok(Some(Sent(sent))),
        Err(error) if ops::is_out_of_memory(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Clip {
    /// Takes what was sent ahead to this model's GPU. The tensor `[count, 3, H, W]`, of pictures also
    /// parts of it along the first axis, stands for that until something else is received; its
    /// own values mean nothing, and a copy of it stands for nothing.
    ///
    /// # Errors
    /// Of candle, or if the model lives on no GPU.
    pub fn receive(&self, sent: Sent, count: usize) -> crate::Result<Tensor> {
        let Some(gpu) = &self.gpu else {
            let problem = "pixels were sent ahead for a model that lives on no GPU";
            return Err(candle_core::Error::Msg(problem.into()).into());
        };
        let pixels = self.stand_in(count)?;
        gpu.receive(&pixels, Box::new(sent.0));
        Ok(pixels)
    }

    /// Copies the parameters of trainable f32 towers to a GPU, where they are from now on: in bf16
    /// for steps of training, in f32 for evaluation. The logit scale stays.
    pub fn onto(mut self, gpu: &Gpu) -> crate::Result<Self> {
        let towers = OnMachine::new(gpu.0.clone(), &self.parameters, Precision::Bf16)?;
        self.gpu = Some(Arc::new(towers));
        Ok(self)
    }
}

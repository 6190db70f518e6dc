//! The GPU of a run, in a build that can have one.

#[cfg(feature = "cuda")]
mod built {
    use std::{env, path::PathBuf};

    use candle_core::Tensor;
    use clip::{
        model::{Clip, Gpu, Sent},
        ops::Seat,
    };

    use crate::error::{Error, Result};

    /// Opens a GPU, number `number` modulo their count; `ROCLIP_CUDA_LIBRARIES` names a folder with
    /// CUDA's libraries.
    ///
    /// # Errors
    /// [`Error::Cuda`] says what is missing.
    pub fn open(number: usize) -> Result<Gpu> {
        Gpu::open(libraries().as_deref(), number, None).map_err(|problem| Error::Cuda { problem })
    }

    /// The same, joined with those of other processes.
    ///
    /// # Errors
    /// [`Error::Nccl`] says what is missing.
    pub fn join(number: usize, seat: &Seat) -> Result<Gpu> {
        let gpu = Gpu::open(libraries().as_deref(), number, Some(seat));
        gpu.map_err(|problem| Error::Nccl { problem: format!("but {problem}") })
    }

    fn libraries() -> Option<PathBuf> {
        let folder = env::var_os("ROCLIP_CUDA_LIBRARIES").filter(|folder| !folder.is_empty());
        folder.map(PathBuf::from)
    }

    /// See [`Clip::receive`].
    ///
    /// # Errors
    /// Of candle.
    pub fn receive(model: &Clip, sent: Sent, count: usize) -> Result<Tensor> {
        Ok(model.receive(sent, count)?)
    }

    /// Moves a model to the GPU, if there is one.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn place(model: Clip, gpu: Option<&Gpu>) -> Result<Clip> {
        Ok(match gpu {
            Some(gpu) => model.onto(gpu)?,
            None => model,
        })
    }
}

#[cfg(not(feature = "cuda"))]
mod built {
    use candle_core::Tensor;
    use clip::{image::Pictures, model::Clip};

    use crate::error::{Error, Result};

    /// There is none.
    #[derive(Debug, Clone)]
    pub enum Gpu {}

    /// There are none.
    #[derive(Debug)]
    pub enum Sent {}

    /// See `clip::model::Timed`.
    #[derive(Debug)]
    pub struct Timed {
        /// Of what the GPU did
        pub name: String,
        /// How often
        pub calls: usize,
        /// Together
        pub seconds: f64,
    }

    impl Gpu {
        /// As its driver names it.
        pub fn name(&self) -> &str {
            match *self {}
        }

        /// See `clip::model::Gpu::has_cudnn`.
        pub fn has_cudnn(&self) -> bool {
            match *self {}
        }

        /// See `clip::model::Gpu::product_rate`.
        pub fn product_rate(&self, _size: usize, _turns: usize) -> Result<f64> {
            match *self {}
        }

        /// See `clip::model::Gpu::send`.
        pub fn send(&self, _pixels: &[f32]) -> Result<Option<Sent>> {
            match *self {}
        }

        /// See `clip::model::Gpu::send_pictures`.
        pub fn send_pictures(&self, _pictures: &Pictures) -> Result<Option<Sent>> {
            match *self {}
        }

        /// See `clip::model::Gpu::profile`.
        pub fn profile<T>(&self, _body: impl FnOnce() -> T) -> Result<(T, Vec<Timed>)> {
            match *self {}
        }
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always [`Error::Cuda`].
    pub fn open(_: usize) -> Result<Gpu> {
        let problem = "this build knows no GPU: \
                       `cargo build --release -p trainer --features cuda` makes one that does";
        Err(Error::Cuda { problem: problem.into() })
    }

    /// Is never asked.
    ///
    /// # Errors
    /// Never.
    pub fn receive(_: &Clip, sent: Sent, _: usize) -> Result<Tensor> {
        match sent {}
    }

    /// Leaves a model where it is.
    ///
    /// # Errors
    /// Never.
    pub fn place(model: Clip, gpu: Option<&Gpu>) -> Result<Clip> {
        match gpu {
            Some(gpu) => match *gpu {},
            None => Ok(model),
        }
    }
}

#[cfg(feature = "cuda")]
pub use built::join;
#[cfg(not(feature = "cuda"))]
pub use built::{Gpu, Sent, Timed};
pub use built::{open, place, receive};
#[cfg(feature = "cuda")]
pub use clip::model::{Gpu, Sent, Timed};

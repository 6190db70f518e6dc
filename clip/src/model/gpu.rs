//! Towers on a GPU: their parameters live there; the logit scale does not.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Device, Result, Tensor};

use super::{Clip, Image, LOGIT_SCALE, Mode, Parameter, text::Text};
#[cfg(feature = "cuda")]
pub use crate::ops::cuda::Timed;
pub use crate::ops::cuda::Update;
#[cfg(feature = "cuda")]
use crate::ops::{self, cuda::Card};
use crate::{
    image::Pictures,
    ops::{
        Engine, Graph,
        cuda::{
            CudaTape, CudaValue, Machine, Moments, Precision, Sent as Received, Store, Unvaried,
            floats,
        },
    },
};

/// The first NVIDIA GPU.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Card>);

#[cfg(feature = "cuda")]
impl Gpu {
    /// Opens it, with CUDA's libraries out of `folder` or from where the system finds them.
    ///
    /// # Errors
    /// One line about what is missing.
    pub fn open(folder: Option<&std::path::Path>) -> crate::Result<Self, String> {
        Card::open(folder).map(Self)
    }

    /// As its driver names it.
    pub fn name(&self) -> &str {
        self.0.name()
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

    /// Does `body`, and says how long each kernel and each form of product took meanwhile; what
    /// the GPU waits for is in none of them.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn profile<T>(&self, body: impl FnOnce() -> T) -> crate::Result<(T, Vec<Timed>)> {
        Ok(self.0.profile(body)?)
    }
}

/// Pixels that a GPU has.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub struct Sent(Received<Card>);

/// What was sent, if there was room for it.
#[cfg(feature = "cuda")]
fn ahead(sent: Result<Received<Card>>) -> crate::Result<Option<Sent>> {
    match sent {
        Ok(sent) => Ok(Some(Sent(sent))),
        Err(error) if ops::is_out_of_memory(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Clip {
    /// Takes what was sent ahead to this model's GPU. The tensor `[count, 3, H, W]`, of pictures also
    /// parts of it along the first axis, stands for that until something else is received; its own
    /// values are all 0.
    ///
    /// # Errors
    /// Of candle, or if the model lives on no GPU.
    #[cfg(feature = "cuda")]
    pub fn receive(&self, sent: Sent, count: usize) -> crate::Result<Tensor> {
        let Some(gpu) = &self.gpu else {
            let problem = "pixels were sent ahead for a model that lives on no GPU";
            return Err(candle_core::Error::Msg(problem.into()).into());
        };
        let pixels = self.blank(count)?;
        gpu.receive(&pixels, Box::new(sent.0));
        Ok(pixels)
    }

    /// Copies the parameters of trainable f32 towers to a GPU, where they are from now on: in bf16
    /// for steps of training, in f32 for evaluation. The logit scale stays.
    #[cfg(feature = "cuda")]
    pub fn onto(mut self, gpu: &Gpu) -> crate::Result<Self> {
        let towers = OnMachine::new(gpu.0.clone(), &self.parameters, Precision::Bf16)?;
        self.gpu = Some(Arc::new(towers));
        Ok(self)
    }

    /// The parameters on the GPU, if that is where they live.
    pub fn resident(&self) -> Option<&dyn Resident> {
        self.gpu.as_deref().map(|towers| towers as &dyn Resident)
    }
}

/// Parameters on a GPU, for whoever moves them.
pub trait Resident: fmt::Debug + Send + Sync {
    /// Forgets all gradients.
    ///
    /// # Errors
    /// If the GPU fails.
    fn rest(&self) -> Result<()>;

    /// Whether a parameter got a gradient since [`Resident::rest`]. Whoever asks for the logit scale
    /// asks the wrong one.
    fn is_reached(&self, parameter: &Parameter) -> bool;

    /// The Euclidean norm of the whole gradient.
    ///
    /// # Errors
    /// If the GPU fails.
    fn norm(&self) -> Result<f64>;

    /// The gradient of a parameter, row-major.
    ///
    /// # Errors
    /// If the GPU fails, or the parameter does not live there.
    fn gradient(&self, parameter: &Parameter) -> Result<Vec<f32>>;

    /// Moves parameters; returns [`Resident::norm`]. If that is not finite, nothing has moved.
    ///
    /// # Errors
    /// If the GPU fails, or a parameter does not live there.
    fn update(&self, updates: &[(&Parameter, Update)]) -> Result<f64>;

    /// Running means of a parameter's gradient and of its square, row-major.
    ///
    /// # Errors
    /// If the GPU fails, or the parameter does not live there.
    fn moments(&self, parameter: &Parameter) -> Result<[Vec<f32>; 2]>;

    /// Takes back what [`Resident::moments`] gave of all parameters.
    ///
    /// # Errors
    /// If the GPU fails, or a parameter does not live there.
    fn restore(&self, moments: &[(&Parameter, [&[f32]; 2])]) -> Result<()>;
}

/// The way back through a tower, from the gradient of its rows.
pub(super) trait WayBack: fmt::Debug + Send {
    fn back(self: Box<Self>, gradient: &[f32]) -> Result<()>;
}

/// `[B, D]` unit rows on the CPU, and the way back from them.
pub(super) type Rows = (Tensor, Box<dyn WayBack>);

/// What rows without a way back are for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// To be the rows of a step, in its precision
    Training,
    /// To be exact, in f32
    Evaluation,
}

/// What a model asks of the machine that its towers live on.
pub(super) trait Towers: Resident {
    /// Rows of a step of training, in bf16.
    fn image_pass(&self, tower: &Image, pixels: &Tensor, mode: Mode) -> Result<Rows>;

    /// Rows of a step of training, in bf16.
    fn text_pass(&self, tower: &Text, ids: &Tensor) -> Result<Rows>;

    /// Rows without a way back.
    fn image_rows(
        &self,
        tower: &Image,
        pixels: &Tensor,
        mode: Mode,
        purpose: Purpose,
    ) -> Result<Tensor>;

    /// What leaves three quarters of the tower, and its projections, in f32.
    fn image_features(&self, tower: &Image, pixels: &Tensor, mode: Mode) -> Result<[Tensor; 2]>;

    /// Rows without a way back.
    fn text_rows(&self, tower: &Text, ids: &Tensor, purpose: Purpose) -> Result<Tensor>;

    /// The machine as what computes losses.
    fn engine(&self) -> Engine;

    /// Takes what this machine was sent, for `pixels` to stand for.
    #[cfg(feature = "cuda")]
    fn receive(&self, pixels: &Tensor, sent: Box<dyn std::any::Any>);

    /// The same with pictures that are still to be sent.
    fn upload(&self, pixels: &Tensor, pictures: &Pictures) -> Result<()>;

    /// The values of a parameter.
    fn values(&self, tensor: &Tensor) -> Result<Vec<f32>>;
}

/// Towers on a machine.
#[derive(Debug)]
pub(super) struct OnMachine<M: Machine> {
    store: Arc<Store<M>>,
    moments: Mutex<Moments<M>>,
    training: Precision,
}

impl<M: Machine> OnMachine<M> {
    /// Copies all parameters but the logit scale to the machine, those that are updated alike next
    /// to one another.
    pub(super) fn new(
        machine: Arc<M>,
        parameters: &[Parameter],
        training: Precision,
    ) -> Result<Self> {
        let mut order: Vec<_> = parameters.iter().filter(|one| one.name != LOGIT_SCALE).collect();
        order.sort_by_key(|parameter| (parameter.is_text(), parameter.decays()));
        let store = Store::new(machine, order.iter().map(|parameter| parameter.var.as_tensor()))?;
        let moments = Mutex::new(Moments::new(&store)?);
        Ok(Self { store: Arc::new(store), moments, training })
    }

    fn tape(&self) -> CudaTape<M> {
        CudaTape::new(self.store.clone(), self.training)
    }

    fn forgetful(&self, purpose: Purpose) -> CudaTape<M> {
        let precision = match purpose {
            Purpose::Training => self.training,
            Purpose::Evaluation => Precision::F32,
        };
        CudaTape::forgetful(self.store.clone(), precision)
    }

    /// The root of a square on the machine.
    fn root(&self, square: &M::Memory) -> Result<f64> {
        Ok(f64::from(floats(&**self.store.machine(), square, 0, 1)?[0]).sqrt())
    }

    fn download(&self, tape: &CudaTape<M>, rows: &CudaValue<M>) -> Result<Tensor> {
        let dims = tape.dims(rows);
        let values = floats(&**self.store.machine(), rows.data(), 0, dims.iter().product())?;
        Tensor::from_vec(values, dims, &Device::Cpu)
    }

    fn pass(&self, tape: CudaTape<M>, rows: CudaValue<M>) -> Result<Rows> {
        let values = self.download(&tape, &rows)?;
        Ok((values, Box::new(Way { store: self.store.clone(), tape, rows })))
    }
}

/// A tape and where it ended.
#[derive(Debug)]
struct Way<M: Machine> {
    store: Arc<Store<M>>,
    tape: CudaTape<M>,
    rows: CudaValue<M>,
}

impl<M: Machine> WayBack for Way<M> {
    fn back(self: Box<Self>, gradient: &[f32]) -> Result<()> {
        let memory = self.store.machine().upload(gradient)?;
        self.tape.backward(&self.rows, memory)
    }
}

impl<M: Machine> Towers for OnMachine<M> {
    fn image_pass(&self, tower: &Image, pixels: &Tensor, mode: Mode) -> Result<Rows> {
        let tape = self.tape();
        let rows = tower.rows(&tape, pixels, mode)?;
        self.pass(tape, rows)
    }

    fn text_pass(&self, tower: &Text, ids: &Tensor) -> Result<Rows> {
        let tape = self.tape();
        let rows = tower.rows(&tape, ids)?;
        self.pass(tape, rows)
    }

    fn image_rows(
        &self,
        tower: &Image,
        pixels: &Tensor,
        mode: Mode,
        purpose: Purpose,
    ) -> Result<Tensor> {
        let tape = self.forgetful(purpose);
        self.download(&tape, &tower.rows(&tape, pixels, mode)?)
    }

    fn image_features(&self, tower: &Image, pixels: &Tensor, mode: Mode) -> Result<[Tensor; 2]> {
        let tape = self.forgetful(Purpose::Evaluation);
        let middle = tower.middle(&tape, pixels, mode)?;
        let rows = tower.rest(&tape, middle.clone(), mode)?;
        Ok([self.download(&tape, &middle)?, self.download(&tape, &rows)?])
    }

    fn text_rows(&self, tower: &Text, ids: &Tensor, purpose: Purpose) -> Result<Tensor> {
        let tape = self.forgetful(purpose);
        self.download(&tape, &tower.rows(&tape, ids)?)
    }

    fn engine(&self) -> Engine {
        Engine::on(Arc::new(self.store.machine().clone()))
    }

    #[cfg(feature = "cuda")]
    fn receive(&self, pixels: &Tensor, sent: Box<dyn std::any::Any>) {
        let sent = sent.downcast::<Received<M>>().expect("what a GPU was sent is the GPU's");
        self.store.receive(pixels, *sent);
    }

    fn upload(&self, pixels: &Tensor, pictures: &Pictures) -> Result<()> {
        let pictures = Unvaried::upload(self.store.machine(), pictures)?;
        self.store.receive(pixels, Received::Unvaried(pictures));
        Ok(())
    }

    fn values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.store.read(tensor)
    }
}

impl<M: Machine> Resident for OnMachine<M> {
    fn rest(&self) -> Result<()> {
        self.store.rest()
    }

    fn is_reached(&self, parameter: &Parameter) -> bool {
        self.store.is_reached(&parameter.var)
    }

    fn norm(&self) -> Result<f64> {
        self.root(&self.store.square_norm()?)
    }

    fn gradient(&self, parameter: &Parameter) -> Result<Vec<f32>> {
        self.store.gradient_values(&parameter.var)
    }

    fn update(&self, updates: &[(&Parameter, Update)]) -> Result<f64> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let norm = self.store.square_norm()?;
        let updates =
            updates.iter().map(|(parameter, update)| (parameter.var.as_tensor(), *update));
        self.store.update(&moments, &norm, updates)?;
        self.root(&norm)
    }

    fn moments(&self, parameter: &Parameter) -> Result<[Vec<f32>; 2]> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let values = |array| self.store.read_from(array, &parameter.var);
        Ok([values(&moments.means)?, values(&moments.squares)?])
    }

    fn restore(&self, moments: &[(&Parameter, [&[f32]; 2])]) -> Result<()> {
        let flat = |part: usize| {
            let parts =
                moments.iter().map(|(parameter, both)| (parameter.var.as_tensor(), both[part]));
            self.store.flat(parts)
        };
        let restored = Moments { means: flat(0)?, squares: flat(1)? };
        *self.moments.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        Ok(())
    }
}

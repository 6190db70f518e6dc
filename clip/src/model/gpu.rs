//! Towers on a GPU: their parameters live there; the logit scale does not.

#[cfg(feature = "cuda")]
mod device;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use candle_core::{Device, Result, Tensor};

use super::{Clip, Image, LOGIT_SCALE, Mode, Parameter, text::Text};
pub use crate::ops::cuda::Update;
use crate::{
    image::Pictures,
    ops::{
        Engine, Graph, Peers,
        cuda::{
            CudaTape, CudaValue, Machine, Moments, Precision, Sent as Received, Store, Unvaried,
            floats,
        },
    },
};

#[cfg(feature = "cuda")]
pub use device::{Gpu, Sent};

impl Clip {
    /// The parameters on the GPU, if that is where they live.
    pub fn resident(&self) -> Option<&dyn Resident> {
        self.gpu.as_deref().map(|towers| towers as &dyn Resident)
    }

    /// `[count, 3, H, W]` to stand for pixels that are on a GPU. A copy of it stands for nothing, which
    /// NaN tells whoever computes with it.
    pub(super) fn stand_in(&self, count: usize) -> Result<Tensor> {
        let side = self.config.image.image_size();
        Tensor::full(f32::NAN, (count, 1, 1, 1), &self.device)?.expand((count, 3, side, side))
    }
}

/// Parameters on a GPU, for whoever moves them.
pub trait Resident: fmt::Debug + Send + Sync {
    /// Forgets all gradients: a step begins, on all ranks together.
    ///
    /// # Errors
    /// If the GPU fails.
    fn rest(&self) -> Result<()>;

    /// Whether a parameter got a gradient since [`Resident::rest`]. Whoever asks for the logit scale
    /// asks the wrong one.
    fn is_reached(&self, parameter: &Parameter) -> bool;

    /// Puts in the place of each gradient its sum over all ranks, which have one of the same
    /// parameters.
    ///
    /// # Errors
    /// If the GPU fails.
    fn sum_gradients(&self, peers: &dyn Peers) -> Result<()>;

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

    /// See [`Clip::join`]; once.
    fn join(&self, peers: Arc<dyn Peers>);

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
    /// Who else trains them.
    peers: OnceLock<Arc<dyn Peers>>,
    /// Set as soon as the first step has begun together.
    met: OnceLock<()>,
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
        let (peers, met) = (OnceLock::new(), OnceLock::new());
        Ok(Self { store: Arc::new(store), moments, training, peers, met })
    }

    fn tape(&self) -> CudaTape<M> {
        CudaTape::new(self.store.clone(), self.training).among(self.peers.get().cloned())
    }

    fn forgetful(&self, purpose: Purpose) -> CudaTape<M> {
        let tape = |precision| CudaTape::forgetful(self.store.clone(), precision);
        match purpose {
            Purpose::Training => tape(self.training).among(self.peers.get().cloned()),
            Purpose::Evaluation => tape(Precision::F32),
        }
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

    fn join(&self, peers: Arc<dyn Peers>) {
        self.peers.set(peers).expect("towers on a machine are joined once");
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
        self.store.rest()?;
        match self.peers.get() {
            Some(peers) if self.met.set(()).is_ok() => self.store.meet(&**peers),
            _ => Ok(()),
        }
    }

    fn is_reached(&self, parameter: &Parameter) -> bool {
        self.store.is_reached(&parameter.var)
    }

    fn sum_gradients(&self, peers: &dyn Peers) -> Result<()> {
        self.store.sum_gradients(peers)
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

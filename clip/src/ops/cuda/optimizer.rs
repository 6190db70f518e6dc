//! AdamW over the flat arrays of a [`Store`].

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{
    Launch, Machine, Precision, Store,
    store::{joined, zeros},
};

/// Blocks among which the sum of squares is divided.
const BLOCKS: usize = 256;

/// What becomes of a parameter, with g for `scale` times its gradient:
/// `mean = b1 mean + (1 - b1) g`, `square = b2 square + (1 - b2) g^2`,
/// `weight = kept weight - size mean / (sqrt(factor square) + epsilon)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Factor on the gradient
    pub scale: f64,
    /// b1 and b2
    pub betas: [f64; 2],
    /// Learning rate over what the mean lacks
    pub size: f64,
    /// 1 over what the square lacks
    pub factor: f64,
    /// Added to the root
    pub epsilon: f64,
    /// What weight decay leaves
    pub kept: f64,
}

/// Running means of all gradients and of their squares.
#[derive(Debug)]
pub(crate) struct Moments<M: Machine> {
    pub(crate) means: M::Memory,
    pub(crate) squares: M::Memory,
}

impl<M: Machine> Moments<M> {
    /// All zero.
    pub(crate) fn new(store: &Store<M>) -> Result<Self> {
        let zeros = || zeros(store.machine(), store.length());
        Ok(Self { means: zeros()?, squares: zeros()? })
    }
}

impl<M: Machine> Store<M> {
    /// The square of the Euclidean norm of the whole gradient, one float.
    pub(crate) fn square_norm(&self) -> Result<M::Memory> {
        let machine: &Arc<M> = self.machine();
        let (parts, norm) = (machine.take(4 * BLOCKS)?, zeros(machine, 1)?);
        let launch = Launch::new("norm_sums", [BLOCKS, 1, 1], 256).pointer(self.gradients());
        let launch = launch.pointer(M::address(&parts)).count(self.length());
        machine.launch(Precision::F32, &launch)?;
        let fold = Launch::fold(1).pointer(M::address(&parts)).pointer(M::address(&norm));
        machine.launch(Precision::F32, &fold.count(1).count(1).count(BLOCKS).float(1.0))?;
        Ok(norm)
    }

    /// Moves parameters, unless `norm` is not finite. Neighbors with the same update are moved
    /// together.
    pub(crate) fn update<'a>(
        &self,
        moments: &Moments<M>,
        norm: &M::Memory,
        updates: impl IntoIterator<Item = (&'a Tensor, Update)>,
    ) -> Result<()> {
        let mut runs = Vec::new();
        for (tensor, update) in updates {
            runs.push((self.room(tensor)?, update));
        }
        for (room, update) in joined(runs) {
            let Update { scale, betas: [b1, b2], size, factor, epsilon, kept } = update;
            let (start, count) = (room.start as u64, room.len());
            let launch = Launch::each("adamw", count).pointer(self.masters() + 4 * start);
            let launch = launch.pointer(self.copies() + 2 * start);
            let launch = launch.pointer(M::address(&moments.means) + 4 * start);
            let launch = launch.pointer(M::address(&moments.squares) + 4 * start);
            let launch = launch.pointer(self.gradients() + 4 * start).pointer(M::address(norm));
            let launch = launch.count(count).float(scale).float(b1).float(b2);
            let launch = launch.float(size).float(factor);
            self.machine().launch(Precision::F32, &launch.float(epsilon).float(kept))?;
        }
        Ok(())
    }
}

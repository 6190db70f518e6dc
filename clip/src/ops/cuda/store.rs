//! Parameters on a machine: f32 masters, their copies in bf16, and their gradients, each in one
//! flat array.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Result, Tensor, TensorId, bail};

use super::{Launch, Machine, Precision, Unvaried};
use crate::ops::Peers;

/// Values to which a parameter's place is rounded, so that products find it aligned.
const ALIGNMENT: usize = 128;

/// All parameters of a model, found by their tensors.
#[derive(Debug)]
pub(crate) struct Store<M: Machine> {
    machine: Arc<M>,
    /// Room of each, in values.
    places: HashMap<TensorId, Range<usize>>,
    length: usize,
    masters: M::Memory,
    copies: M::Memory,
    gradients: M::Memory,
    /// Parameters that got a gradient in this step.
    reached: Mutex<HashSet<TensorId>>,
    /// What a tensor stands for; `None` in the place of pixels that were given out.
    sent: Mutex<Option<(Tensor, Option<Sent<M>>)>>,
}

/// `[B, 3, H, W]` pixels that a machine has.
#[derive(Debug)]
pub(crate) enum Sent<M: Machine> {
    /// As they are
    Pixels(M::Memory),
    /// Still to be varied
    Unvaried(Unvaried<M>),
}

impl<M: Machine> Store<M> {
    /// Takes the values of f32 tensors, one after the other.
    pub(crate) fn new<'a>(
        machine: Arc<M>,
        tensors: impl IntoIterator<Item = &'a Tensor>,
    ) -> Result<Self> {
        let (mut places, mut values) = (HashMap::new(), Vec::new());
        for tensor in tensors {
            let start = values.len();
            values.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
            values.resize(values.len().next_multiple_of(ALIGNMENT), 0.0);
            places.insert(tensor.id(), start..values.len());
        }
        let length = values.len();
        let masters = machine.upload(&values)?;
        let (copies, gradients) = (machine.take(2 * length)?, machine.take(4 * length)?);
        let (reached, sent) = (Mutex::default(), Mutex::default());
        let store = Self { machine, places, length, masters, copies, gradients, reached, sent };
        let (masters, copies) = (M::address(&store.masters), M::address(&store.copies));
        let narrow = Launch::each("narrow", length).pointer(masters).pointer(copies).count(length);
        store.machine.launch(Precision::Bf16, &narrow)?;
        store.rest()?;
        Ok(store)
    }

    /// Takes what was sent, for `tensor` to stand for until something else is received.
    pub(crate) fn receive(&self, tensor: &Tensor, sent: Sent<M>) {
        let sent = Some((tensor.clone(), Some(sent))); // its storage stays its own
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }

    /// The pixels that a tensor stands for: of pictures any part, as often as it is asked for; of
    /// pixels the whole, once.
    pub(super) fn received(&self, tensor: &Tensor) -> Result<Option<M::Memory>> {
        let mut guard = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((whole, sent)) = &mut *guard else { return Ok(None) };
        let Some(first) = first_in(whole, tensor)? else { return Ok(None) };
        match sent {
            Some(Sent::Unvaried(pictures)) => {
                pictures.pixels(&self.machine, first, tensor.dim(0)?).map(Some)
            }
            Some(Sent::Pixels(_)) if tensor.elem_count() == whole.elem_count() => {
                let Some(Sent::Pixels(memory)) = sent.take() else { unreachable!("as matched") };
                Ok(Some(memory))
            }
            _ => bail!("pixels that were sent ahead are looked at once, and as a whole"),
        }
    }

    /// Who computes.
    pub(crate) fn machine(&self) -> &Arc<M> {
        &self.machine
    }

    /// Values of all parameters, and what lies between them.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn masters(&self) -> u64 {
        M::address(&self.masters)
    }

    pub(super) fn copies(&self) -> u64 {
        M::address(&self.copies)
    }

    pub(super) fn gradients(&self) -> u64 {
        M::address(&self.gradients)
    }

    /// Forgets all gradients.
    pub(crate) fn rest(&self) -> Result<()> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let gradients = M::address(&self.gradients);
        let zero = Launch::each("zero", self.length).pointer(gradients).count(self.length);
        self.machine.launch(Precision::F32, &zero)
    }

    /// The f32 values of a parameter.
    pub(crate) fn master(&self, tensor: &Tensor) -> Result<u64> {
        Ok(self.masters() + 4 * self.room(tensor)?.start as u64)
    }

    /// Its values as products take them.
    pub(crate) fn values(&self, tensor: &Tensor, precision: Precision) -> Result<u64> {
        match precision {
            Precision::F32 => self.master(tensor),
            Precision::Bf16 => Ok(self.copies() + 2 * self.room(tensor)?.start as u64),
        }
    }

    /// Where its f32 gradient is summed; `None` for a constant.
    pub(crate) fn gradient(&self, tensor: &Tensor) -> Result<Option<u64>> {
        if !tensor.is_variable() {
            return Ok(None);
        }
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).insert(tensor.id());
        Ok(Some(self.gradients() + 4 * self.room(tensor)?.start as u64))
    }

    /// Whether a parameter got a gradient since [`Store::rest`].
    pub(crate) fn is_reached(&self, tensor: &Tensor) -> bool {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).contains(&tensor.id())
    }

    /// Sums all gradients over all ranks while they are zeros: what a way to the others keeps for
    /// sums of this size is then taken before activations take all there is.
    pub(crate) fn meet(&self, peers: &dyn Peers) -> Result<()> {
        self.machine.sum(&self.gradients, 0..self.length, peers)
    }

    /// Puts in the place of each gradient since [`Store::rest`] its sum over all ranks, which have
    /// one of the same parameters. Neighbors are summed together.
    pub(crate) fn sum_gradients(&self, peers: &dyn Peers) -> Result<()> {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let rooms: Vec<_> = reached.iter().map(|id| (self.places[id].clone(), ())).collect();
        drop(reached);
        let mut runs = joined(rooms).into_iter();
        runs.try_for_each(|(run, ())| self.machine.sum(&self.gradients, run, peers))
    }

    /// The f32 values of a parameter; waits for them.
    pub(crate) fn read(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.read_from(&self.masters, tensor)
    }

    /// The gradient of a parameter; waits for it.
    pub(crate) fn gradient_values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.read_from(&self.gradients, tensor)
    }

    /// What a flat array has for a parameter.
    pub(crate) fn read_from(&self, array: &M::Memory, tensor: &Tensor) -> Result<Vec<f32>> {
        let start = self.room(tensor)?.start;
        floats(&*self.machine, array, start, tensor.elem_count())
    }

    /// A flat array with these values in the places of these parameters, zeros elsewhere.
    pub(crate) fn flat<'a>(
        &self,
        parts: impl IntoIterator<Item = (&'a Tensor, &'a [f32])>,
    ) -> Result<M::Memory> {
        let mut values = vec![0.0; self.length];
        for (parameter, part) in parts {
            let start = self.room(parameter)?.start;
            values[start..][..part.len()].copy_from_slice(part);
        }
        self.machine.upload(&values)
    }

    /// Where a parameter lies, with what is left free behind it.
    pub(super) fn room(&self, tensor: &Tensor) -> Result<Range<usize>> {
        match self.places.get(&tensor.id()) {
            Some(room) => Ok(room.clone()),
            None => bail!("a tensor of shape {:?} that is no parameter", tensor.shape()),
        }
    }
}

/// Rooms in their order, as one where neighbors have the same to be done.
pub(super) fn joined<T: PartialEq>(mut rooms: Vec<(Range<usize>, T)>) -> Vec<(Range<usize>, T)> {
    rooms.sort_by_key(|(room, _)| room.start);
    rooms.dedup_by(|(room, what), (before, same)| {
        let joins = before.end == room.start && what == same;
        if joins {
            before.end = room.end;
        }
        joins
    });
    rooms
}

/// The picture of a tensor of pictures with which another begins, if that is a part of it.
fn first_in(whole: &Tensor, part: &Tensor) -> Result<Option<usize>> {
    let [(whole, all), (part, some)] = [whole, part].map(Tensor::storage_and_layout);
    if !std::ptr::eq(&*whole, &*part) {
        return Ok(None);
    }
    if all.stride() != some.stride() || all.dims()[1..] != some.dims()[1..] {
        bail!("a part of pixels that were sent ahead has to be whole pictures in a row");
    }
    Ok(Some((some.start_offset() - all.start_offset()) / all.stride()[0]))
}

/// `count` floats of an array, from number `start` on; waits for them.
pub(crate) fn floats<M: Machine>(
    machine: &M,
    array: &M::Memory,
    start: usize,
    count: usize,
) -> Result<Vec<f32>> {
    let mut values = vec![0.0; count];
    machine.read(array, 4 * start, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// `count` floats, all 0.
pub(crate) fn zeros<M: Machine>(machine: &Arc<M>, count: usize) -> Result<M::Memory> {
    let zeros = machine.take(4 * count)?;
    let launch = Launch::each("zero", count).pointer(M::address(&zeros)).count(count);
    machine.launch(Precision::F32, &launch)?;
    Ok(zeros)
}

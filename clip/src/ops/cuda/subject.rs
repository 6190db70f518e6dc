//! What the tests compute on: the emulator, or a GPU if one is asked for.

use std::sync::Arc;

use candle_core::Result;

#[cfg(feature = "cuda")]
use super::Card;
use super::{
    Launch, Machine, Precision, Product,
    convolution::Convolution,
    emulator::{self, Emulator},
};

/// If it is set, the tests run on the first GPU; `ROCLIP_CUDA_LIBRARIES` is as for a run.
const CARD: &str = "ROCLIP_TEST_CARD";

/// Either machine.
#[derive(Debug)]
pub(crate) enum Subject {
    Emulated(Arc<Emulator>),
    #[cfg(feature = "cuda")]
    Real(Arc<Card>),
}

/// An array, and what was asked for.
#[derive(Debug)]
pub(crate) struct Memory {
    array: Array,
    bytes: usize,
}

#[derive(Debug)]
enum Array {
    Emulated(emulator::Memory),
    #[cfg(feature = "cuda")]
    Real(<Card as Machine>::Memory),
}

impl Subject {
    /// On the emulator threads run in their order, or in the opposite one; a GPU has its own.
    /// `None`, and a line, without a C++ compiler.
    pub(crate) fn new(is_reversed: bool) -> Option<Arc<Self>> {
        if is_real() {
            return Some(Arc::new(real()));
        }
        Emulator::new(is_reversed).map(|emulator| Arc::new(Self::Emulated(emulator)))
    }
}

/// Whether a GPU is asked for.
pub(crate) fn is_real() -> bool {
    std::env::var_os(CARD).is_some_and(|value| !value.is_empty())
}

/// One for all tests: opening it compiles the kernels.
#[cfg(feature = "cuda")]
fn real() -> Subject {
    static OPENED: std::sync::OnceLock<std::result::Result<Arc<Card>, String>> =
        std::sync::OnceLock::new();
    let card = OPENED.get_or_init(|| {
        let folder = std::env::var_os("ROCLIP_CUDA_LIBRARIES").filter(|folder| !folder.is_empty());
        Card::open(folder.as_deref().map(std::path::Path::new), 0, None)
    });
    Subject::Real(card.clone().unwrap_or_else(|problem| panic!("{CARD} is set, but {problem}")))
}

#[cfg(not(feature = "cuda"))]
fn real() -> Subject {
    panic!("{CARD} is set, but these tests are built without the feature `cuda`")
}

impl Machine for Subject {
    type Memory = Memory;

    /// Begins as NaN on both.
    fn take(self: &Arc<Self>, bytes: usize) -> Result<Memory> {
        let array = match &**self {
            Self::Emulated(emulator) => Array::Emulated(emulator.take(bytes)?),
            #[cfg(feature = "cuda")]
            Self::Real(card) => {
                let memory = card.take(bytes)?;
                card.write(&memory, 0, &vec![0xff; bytes])?;
                Array::Real(memory)
            }
        };
        Ok(Memory { array, bytes })
    }

    fn send(self: &Arc<Self>, bytes: &[u8]) -> Result<Memory> {
        let array = match &**self {
            Self::Emulated(emulator) => Array::Emulated(emulator.send(bytes)?),
            #[cfg(feature = "cuda")]
            Self::Real(card) => Array::Real(card.send(bytes)?),
        };
        Ok(Memory { array, bytes: bytes.len() })
    }

    fn address(memory: &Memory) -> u64 {
        match &memory.array {
            Array::Emulated(memory) => Emulator::address(memory),
            #[cfg(feature = "cuda")]
            Array::Real(memory) => Card::address(memory),
        }
    }

    fn write(&self, memory: &Memory, start: usize, bytes: &[u8]) -> Result<()> {
        match (self, &memory.array) {
            (Self::Emulated(emulator), Array::Emulated(memory)) => {
                emulator.write(memory, start, bytes)
            }
            #[cfg(feature = "cuda")]
            (Self::Real(card), Array::Real(memory)) => card.write(memory, start, bytes),
            #[cfg(feature = "cuda")]
            _ => unreachable!("memory of another machine"),
        }
    }

    fn read(&self, memory: &Memory, start: usize, bytes: &mut [u8]) -> Result<()> {
        match (self, &memory.array) {
            (Self::Emulated(emulator), Array::Emulated(memory)) => {
                emulator.read(memory, start, bytes)
            }
            #[cfg(feature = "cuda")]
            (Self::Real(card), Array::Real(memory)) => card.read(memory, start, bytes),
            #[cfg(feature = "cuda")]
            _ => unreachable!("memory of another machine"),
        }
    }

    fn launch(&self, precision: Precision, launch: &Launch) -> Result<()> {
        match self {
            Self::Emulated(emulator) => emulator.launch(precision, launch),
            #[cfg(feature = "cuda")]
            Self::Real(card) => card.launch(precision, launch),
        }
    }

    fn convolve(self: &Arc<Self>, precision: Precision, asked: &Convolution) -> Result<bool> {
        match &**self {
            Self::Emulated(emulator) => emulator.convolve(precision, asked),
            #[cfg(feature = "cuda")]
            Self::Real(card) => card.convolve(precision, asked),
        }
    }

    fn multiply(&self, precision: Precision, product: &Product) -> Result<()> {
        match self {
            Self::Emulated(emulator) => emulator.multiply(precision, product),
            #[cfg(feature = "cuda")]
            Self::Real(card) => card.multiply(precision, product),
        }
    }
}

/// All values of an array.
pub(crate) fn values(subject: &Subject, memory: &Memory, precision: Precision) -> Result<Vec<f64>> {
    let mut bytes = vec![0; memory.bytes];
    subject.read(memory, 0, &mut bytes)?;
    Ok(match precision {
        Precision::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            values.iter().map(|value| f64::from(f32::from_ne_bytes(*value))).collect()
        }
        Precision::Bf16 => {
            let (values, _) = bytes.as_chunks::<2>();
            let wide = |half: &[u8; 2]| f32::from_bits(u32::from(u16::from_ne_bytes(*half)) << 16);
            values.iter().map(|half| f64::from(wide(half))).collect()
        }
    })
}

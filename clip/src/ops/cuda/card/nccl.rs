//! The way from card to card: NVIDIA's NCCL, a library that is opened when it is asked for.
#![expect(unsafe_code, reason = "a library takes pointers")]

use std::{
    env,
    ffi::{CStr, c_char, c_int, c_void},
    fmt,
    ops::Range,
    path::Path,
    ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use candle_core::Error;
use libloading::{Library, Symbol};

use super::{Card, CardMemory, Result, failed};
use crate::ops::{
    Seat,
    cuda::{Machine, libraries},
};

/// As every NCCL 2 is called.
const LIBRARY: &str = "libnccl.so.2";
/// Where NCCL's first rank waits for the others, `host:port`; each rank looks there.
const MEETING: &str = "NCCL_COMM_ID";
/// Numbers of `nccl.h`.
const SUCCESS: c_int = 0;
const UINT8: c_int = 1;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// What ranks know each other by.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([c_char; 128]);

type Handle = *mut c_void;
type Stream = *mut c_void;
type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
type CommInitRank = unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> c_int;
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> c_int;
type AllGather =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, Stream) -> c_int;
type CommDestroy = unsafe extern "C" fn(Handle) -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// The cards of all ranks. All calls are made in the same order on all of them.
pub(super) struct Nccl {
    library: &'static Library,
    communicator: Mutex<Communicator>,
    ranks: usize,
}

struct Communicator(Handle);

// SAFETY: belongs to no thread; the mutex around keeps calls apart.
unsafe impl Send for Communicator {}

impl fmt::Debug for Nccl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Nccl of {} ranks", self.ranks)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if thread::panicking() {
            return; // NCCL would wait for the other ranks
        }
        let communicator = self.communicator.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: declared as in `nccl.h`; made by `join`, and dropped once. What NCCL has against it
        // would help nobody.
        unsafe {
            if let Ok(destroy) = self.library.get::<CommDestroy>(b"ncclCommDestroy\0") {
                destroy(communicator.0);
            }
        }
    }
}

/// Tells NCCL where the ranks meet, unless somebody else has. To be called before anything that
/// starts threads, which may look into the environment.
pub(super) fn announce(seat: &Seat) {
    if let Some((host, port)) = &seat.meeting
        && env::var_os(MEETING).is_none()
    {
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() }; // IPv6
        // SAFETY: no other thread looks into the environment yet.
        unsafe { env::set_var(MEETING, format!("{host}:{port}")) }
    }
}

impl Nccl {
    /// Joins the ranks with the card that this thread has bound; waits for all of them. The library
    /// lies in `folder` or beside it, as pip installs it, or where the system finds it.
    pub(super) fn join(folder: Option<&Path>, seat: &Seat) -> Result<Self, String> {
        // Never closed: NCCL has threads of its own.
        let library: &'static Library = Box::leak(Box::new(open(folder)?));
        let (mut id, mut communicator) = (UniqueId([0; 128]), ptr::null_mut());
        let (rank, ranks) = (seat.rank as c_int, seat.ranks as c_int);
        // SAFETY: declared as in `nccl.h`; both write what they are given room for.
        unsafe {
            let unique: Symbol<'_, GetUniqueId> = function(library, "ncclGetUniqueId")?;
            check(library, unique(&raw mut id))?;
            let init: Symbol<'_, CommInitRank> = function(library, "ncclCommInitRank")?;
            check(library, init(&raw mut communicator, ranks, id, rank))?;
        }
        let communicator = Mutex::new(Communicator(communicator));
        Ok(Self { library, communicator, ranks: seat.ranks })
    }

    pub(super) fn ranks(&self) -> usize {
        self.ranks
    }

    /// Puts in the place of `count` floats their sums over all ranks, the same bits on all, in the
    /// order of a stream.
    ///
    /// # Safety
    /// So many floats lie there.
    unsafe fn sum(&self, address: u64, count: usize, stream: Stream) -> Result<()> {
        let handle = self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
        let at = address as *mut c_void;
        // SAFETY: declared as in `nccl.h`; the floats are the caller's promise.
        let outcome = unsafe {
            function::<AllReduce>(self.library, "ncclAllReduce").and_then(|all_reduce| {
                let done = all_reduce(at, at, count, FLOAT32, SUM, handle.0, stream);
                check(self.library, done)
            })
        };
        outcome.map_err(Error::Msg)
    }

    /// Copies `count` bytes of each rank, rank after rank, in the order of a stream.
    ///
    /// # Safety
    /// So many bytes lie there, and room for those of all ranks.
    unsafe fn gather(&self, own: u64, all: u64, count: usize, stream: Stream) -> Result<()> {
        let handle = self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: declared as in `nccl.h`; the bytes and the room are the caller's promise.
        let outcome = unsafe {
            function::<AllGather>(self.library, "ncclAllGather").and_then(|all_gather| {
                let (own, all) = (own as *const c_void, all as *mut c_void);
                check(self.library, all_gather(own, all, count, UINT8, handle.0, stream))
            })
        };
        outcome.map_err(Error::Msg)
    }
}

impl Card {
    /// Puts in the place of floats their sums over the cards of all processes.
    pub(crate) fn sum_over_ranks(self: &Arc<Self>, values: &mut [f32]) -> Result<()> {
        let memory = self.upload(values)?;
        self.sum_among(self.joined()?, &memory, 0..values.len())?;
        self.read(&memory, 0, bytemuck::cast_slice_mut(values))
    }

    /// The bytes that each process has, as many: rank after rank.
    pub(crate) fn gather(self: &Arc<Self>, own: &[u8]) -> Result<Vec<u8>> {
        let nccl = self.joined()?;
        let mut all = vec![0; nccl.ranks * own.len()];
        let (from, to) = (self.upload(own)?, self.take(all.len())?);
        let stream = self.stream.cu_stream().cast();
        // SAFETY: arrays of these sizes; what is asked of the stream later finds it done.
        unsafe { nccl.gather(from.address, to.address, own.len(), stream) }?;
        self.read(&to, 0, &mut all)?;
        Ok(all)
    }

    fn joined(&self) -> Result<&Nccl> {
        self.nccl.as_ref().ok_or_else(|| Error::Msg("a GPU that has joined no others".into()))
    }

    pub(super) fn sum_among(
        &self,
        nccl: &Nccl,
        memory: &CardMemory,
        floats: Range<usize>,
    ) -> Result<()> {
        assert!(4 * floats.end <= memory.size, "fits");
        self.context.bind_to_thread().map_err(failed)?;
        let address = memory.address + 4 * floats.start as u64;
        // SAFETY: fits; what is asked of the stream later finds it done.
        unsafe { nccl.sum(address, floats.len(), self.stream.cu_stream().cast()) }
    }
}

fn open(folder: Option<&Path>) -> Result<Library, String> {
    libraries::open(folder, "nccl", LIBRARY).ok_or_else(|| {
        format!(
            "`{LIBRARY}` is not found: set LD_LIBRARY_PATH to its folder, or ROCLIP_CUDA_LIBRARIES \
             to one that holds it, too"
        )
    })
}

/// # Safety
/// `F` is how `nccl.h` declares it.
unsafe fn function<'a, F>(library: &'a Library, name: &str) -> Result<Symbol<'a, F>, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| format!("`{LIBRARY}` has no `{name}`"))
}

/// What NCCL says, as an error unless it is content.
fn check(library: &Library, outcome: c_int) -> Result<(), String> {
    if outcome == SUCCESS {
        return Ok(());
    }
    // SAFETY: declared as in `nccl.h`; gives a text that stays.
    let text = unsafe {
        let text = function::<GetErrorString>(library, "ncclGetErrorString")?;
        CStr::from_ptr(text(outcome)).to_string_lossy().into_owned()
    };
    Err(format!("NCCL says: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_says_so() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // SAFETY: only looks.
        let is_there = unsafe { Library::new(LIBRARY) }.is_ok();
        match open(Some(folder.path())) {
            Err(problem) if !is_there => {
                assert!(problem.starts_with("`libnccl.so.2` is not found"), "{problem}");
            }
            outcome => assert!(is_there, "{:?}", outcome.map(drop)),
        }
    }
}

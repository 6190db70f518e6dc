//! The machine that is an NVIDIA GPU. CUDA's libraries are opened when a card is asked for: a
//! program with this in it starts on machines that have none.
#![expect(unsafe_code, reason = "a driver takes pointers")]

mod cudnn;
mod nccl;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use candle_core::Error;
use cudarc::{
    cublaslt,
    driver::{
        CudaContext, CudaEvent, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
        result as driver, sys,
    },
    nvrtc::{self, CompileOptions},
};

use super::{
    KERNELS, Launch, Machine, Precision, Product, Timed,
    convolution::Convolution,
    definition,
    libraries::builtins,
    machine::{out_of_memory, sum_through},
    names,
    products::Products,
    profile::Profile,
};
use crate::ops::{Peers, Seat, is_out_of_memory};

use cudnn::Cudnn;
use nccl::Nccl;

/// A `Result`, by default with candle's error.
type Result<T, E = Error> = std::result::Result<T, E>;

/// The least compute capability: bf16 products came with it.
const CAPABILITY_MIN: (i32, i32) = (8, 0);
/// The CUDA version of the libraries, as the driver writes it.
const VERSION: i32 = 13_000;

/// Libraries by the names under which a folder of a pip installation holds them. NVRTC looks for its
/// other half, see [`builtins`].
const LIBRARIES: [&str; 2] = ["libnvrtc.so.13", "libcublasLt.so.13"];

/// A GPU.
pub(crate) struct Card {
    /// The way to the cards of other processes; left before the rest of the card is given up.
    nccl: Option<Nccl>,
    /// Opened when it is asked for; `None` if there is none. Left before the stream that it uses.
    cudnn: OnceLock<Option<Mutex<Cudnn>>>,
    name: String,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Of what is sent ahead.
    ahead: Arc<CudaStream>,
    /// For values of f32 and of bf16.
    kernels: [HashMap<&'static str, CudaFunction>; 2],
    products: Mutex<Products>,
    /// Where the libraries lie, if not where the system finds them.
    folder: Option<PathBuf>,
    /// Arrays that nobody holds, by size: used again in the order of the stream.
    free: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// Arrays of what was sent ahead that nobody holds, with the end of their last use.
    free_ahead: Mutex<Vec<(usize, u64, CudaEvent)>>,
    profile: Profile,
}

impl fmt::Debug for Card {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Card({})", self.name)
    }
}

impl Card {
    /// Opens a GPU, number `number` modulo their count, and compiles the kernels for it. The
    /// libraries are those of `folder`, or those that the system finds; what is missing is said in
    /// one line. With a `seat` it joins the GPUs of other processes, and waits for all of them.
    pub(crate) fn open(
        folder: Option<&Path>,
        number: usize,
        seat: Option<&Seat>,
    ) -> Result<Arc<Self>, String> {
        seat.into_iter().for_each(nccl::announce);
        load(folder)?;
        // SAFETY: these only look whether libraries can be opened.
        let (has_driver, has_nvrtc, has_blas) = unsafe {
            let nvrtc = nvrtc::sys::is_culib_present();
            (sys::is_culib_present(), nvrtc, cublaslt::sys::is_culib_present())
        };
        if !has_driver {
            return Err("this machine has no NVIDIA driver (`libcuda.so.1`)".into());
        }
        let refused = |error: DriverError| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => "the driver finds no GPU".to_owned(),
            other => format!("the driver says {other:?}"),
        };
        driver::init().map_err(refused)?;
        let mut version = 0;
        // SAFETY: writes one number.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(refused)?;
        check_driver(version)?;
        let count = CudaContext::device_count().map_err(refused)?.max(1); // of none, the first
        let context = CudaContext::new(number % count as usize).map_err(refused)?;
        let name = context.name().map_err(refused)?;
        let found = context.compute_capability().map_err(refused)?;
        check_capability(&name, found)?;
        for (has, library) in [(has_nvrtc, LIBRARIES[0]), (has_blas, LIBRARIES[1])] {
            if !has {
                return Err(format!(
                    "`{library}` is not found: set LD_LIBRARY_PATH or ROCLIP_CUDA_LIBRARIES to its folder"
                ));
            }
        }
        // SAFETY: all is asked of one stream but what is sent ahead, which waits by itself.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(refused)?;
        let ahead = context.new_stream().map_err(refused)?;
        let kernels = [Precision::F32, Precision::Bf16].map(|of| compile(&context, of, found));
        let [f32, bf16] = kernels;
        let products = Products::new(&stream)?;
        let nccl = seat.map(|seat| Nccl::join(folder, seat)).transpose()?;
        Ok(Arc::new(Self {
            name,
            context,
            stream,
            ahead,
            kernels: [f32?, bf16?],
            products: Mutex::new(products),
            cudnn: OnceLock::new(),
            folder: folder.map(Path::to_owned),
            nccl,
            free: Mutex::default(),
            free_ahead: Mutex::default(),
            profile: Profile::default(),
        }))
    }

    /// Does `body`, and says how long each kernel and each form of product and convolution took
    /// meanwhile.
    pub(crate) fn profile<T>(&self, body: impl FnOnce() -> T) -> Result<(T, Vec<Timed>)> {
        self.profile.begin();
        let done = body();
        Ok((done, self.profile.end()?))
    }

    /// As the driver names it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An array of its own, if there is room.
    fn allocate(self: &Arc<Self>, size: usize) -> Result<u64> {
        self.context.bind_to_thread().map_err(failed)?;
        // SAFETY: holds anything, as `Machine::take` says.
        match unsafe { driver::malloc_sync(size) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(out_of_memory(&self.name, size))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives back what nobody holds.
    fn trim(&self) -> Result<()> {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ahead = self.free_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead: Vec<_> = ahead.drain(..).map(|(_, address, _)| address).collect();
        self.stream.synchronize().map_err(failed)?; // what they were used for is over
        for address in free.into_values().flatten().chain(ahead) {
            // SAFETY: allocated by `allocate`, held by nobody, and used by nothing after the wait.
            unsafe { driver::free_sync(address) }.map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = self.trim(); // the process may be ending with the driver gone
        }
    }
}

/// Refuses a driver, by the CUDA version that it knows, that is too old for the libraries.
fn check_driver(version: i32) -> Result<(), String> {
    let (major, minor) = (version / 1000, version % 1000 / 10);
    match version < VERSION {
        true => Err(format!("the driver knows CUDA {major}.{minor}, at least 13.0 is needed")),
        false => Ok(()),
    }
}

/// Refuses a GPU that is too old for the kernels.
fn check_capability(name: &str, found: (i32, i32)) -> Result<(), String> {
    let ((major, minor), (least, _)) = (found, CAPABILITY_MIN);
    match found < CAPABILITY_MIN {
        true => Err(format!(
            "{name} has compute capability {major}.{minor}, at least {least}.0 is needed"
        )),
        false => Ok(()),
    }
}

fn failed(error: DriverError) -> Error {
    Error::Msg(format!("the GPU says {:?}", error.0))
}

/// Opens libraries by their paths; whoever asks for them by name then gets these.
fn load(folder: Option<&Path>) -> Result<(), String> {
    let Some(folder) = folder else { return Ok(()) };
    for path in builtins(folder)?.into_iter().chain(LIBRARIES.map(|name| folder.join(name))) {
        // SAFETY: NVIDIA's libraries, whose start changes nothing that this program sees.
        let library = unsafe { libloading::Library::new(&path) };
        let library = library.map_err(|_| format!("cannot load `{}`", path.display()))?;
        std::mem::forget(library); // stays open
    }
    Ok(())
}

fn compile(
    context: &Arc<CudaContext>,
    precision: Precision,
    (major, minor): (i32, i32),
) -> Result<HashMap<&'static str, CudaFunction>, String> {
    let target = format!("--gpu-architecture=compute_{major}{minor}");
    let options = vec![target, definition(precision).to_owned()];
    let options = CompileOptions { options, ..CompileOptions::default() };
    let code = nvrtc::compile_ptx_with_opts(KERNELS.concat(), options)
        .map_err(|error| format!("NVRTC refuses the kernels: {error}"))?;
    let refused = |error: DriverError| format!("the GPU refuses the kernels: {:?}", error.0);
    let module = context.load_module(code).map_err(refused)?;
    let function = |name| Ok((name, module.load_function(name).map_err(refused)?));
    names().map(function).collect()
}

/// An array of a card, given back to it when dropped.
pub(crate) struct CardMemory {
    address: u64,
    size: usize,
    is_ahead: bool,
    card: Arc<Card>,
}

impl fmt::Debug for CardMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CardMemory of {} bytes", self.size)
    }
}

impl Drop for CardMemory {
    fn drop(&mut self) {
        let Self { address, size, .. } = *self;
        if self.is_ahead
            && let Ok(used) = self.card.stream.record_event(None)
        {
            let free = &self.card.free_ahead;
            free.lock().unwrap_or_else(PoisonError::into_inner).push((size, address, used));
            return;
        }
        let mut free = self.card.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(size).or_default().push(address);
    }
}

/// Sizes in steps of an eighth, so that batches of nearly equal captions share arrays.
fn size(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.next_power_of_two() / 16).max(512)).max(512)
}

impl Machine for Card {
    type Memory = CardMemory;

    fn take(self: &Arc<Self>, bytes: usize) -> Result<CardMemory> {
        let size = size(bytes);
        let memory =
            |address, size| CardMemory { address, size, is_ahead: false, card: self.clone() };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for (&size, addresses) in free.range_mut(size..=size + size / 4) {
            if let Some(address) = addresses.pop() {
                return Ok(memory(address, size));
            }
        }
        drop(free);
        let address = match self.allocate(size) {
            Err(error) if is_out_of_memory(&error) => {
                self.trim()?;
                self.allocate(size)
            }
            outcome => outcome,
        };
        Ok(memory(address?, size))
    }

    fn send(self: &Arc<Self>, bytes: &[u8]) -> Result<CardMemory> {
        let size = size(bytes.len());
        let mut free = self.free_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.iter().position(|(free, ..)| *free == size).map(|at| free.swap_remove(at));
        drop(free);
        let (address, used) = match found {
            Some((_, address, used)) => (address, Some(used)),
            None => (self.allocate(size)?, None),
        };
        let memory = CardMemory { address, size, is_ahead: true, card: self.clone() };
        used.map_or(Ok(()), |used| self.ahead.wait(&used)).map_err(failed)?;
        self.context.bind_to_thread().map_err(failed)?;
        // SAFETY: fits; `bytes` stays borrowed until the copy is over.
        unsafe { driver::memcpy_htod_async(memory.address, bytes, self.ahead.cu_stream()) }
            .map_err(failed)?;
        self.ahead.synchronize().map_err(failed)?;
        Ok(memory)
    }

    fn address(memory: &CardMemory) -> u64 {
        memory.address
    }

    fn write(&self, memory: &CardMemory, start: usize, bytes: &[u8]) -> Result<()> {
        assert!(start + bytes.len() <= memory.size, "fits");
        self.context.bind_to_thread().map_err(failed)?;
        let to = memory.address + start as u64;
        // SAFETY: fits; from memory that is not pinned, the driver has copied when it returns.
        unsafe { driver::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }.map_err(failed)
    }

    fn read(&self, memory: &CardMemory, start: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(start + bytes.len() <= memory.size, "fits");
        self.context.bind_to_thread().map_err(failed)?;
        let from = memory.address + start as u64;
        // SAFETY: fits; `bytes` stays borrowed until the copy is over.
        unsafe { driver::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(failed)?;
        self.stream.synchronize().map_err(failed)
    }

    fn launch(&self, precision: Precision, launch: &Launch) -> Result<()> {
        let Launch { kernel, grid, threads, arguments } = launch;
        if grid.contains(&0) {
            return Ok(()); // of nothing
        }
        let function = &self.kernels[usize::from(precision == Precision::Bf16)][kernel];
        let mut builder = self.stream.launch_builder(function);
        arguments.iter().for_each(|argument| {
            builder.arg(argument);
        });
        let [x, y, z] = *grid;
        let grid =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (*threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the launches of tapes, stores and losses; the tests run the same on the emulator,
        // which compares the number of arguments and watches what lies around the arrays.
        let ask = || unsafe { builder.launch(grid) }.map(drop).map_err(failed);
        self.profile.around(&self.stream, || (*kernel).to_owned(), ask)
    }

    fn multiply(&self, precision: Precision, product: &Product) -> Result<()> {
        self.context.bind_to_thread().map_err(failed)?;
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let Product { rows, columns, inner, .. } = product;
        let name = || format!("{rows}x{inner} by {inner}x{columns}");
        self.profile.around(&self.stream, name, || {
            let done = products.multiply(precision, product, &self.stream);
            done.map_err(|error| Error::Msg(format!("cuBLASLt refuses {}: {:?}", name(), error.0)))
        })
    }

    fn convolve(self: &Arc<Self>, precision: Precision, asked: &Convolution) -> Result<bool> {
        match precision {
            Precision::Bf16 => self.convolve_by_cudnn(asked),
            Precision::F32 => Ok(false),
        }
    }

    fn sum(&self, memory: &CardMemory, floats: Range<usize>, peers: &dyn Peers) -> Result<()> {
        match &self.nccl {
            Some(nccl) => {
                assert_eq!(nccl.ranks(), peers.ranks(), "a card has joined these ranks");
                self.sum_among(nccl, memory, floats)
            }
            None => sum_through(self, memory, floats, peers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so() {
        // SAFETY: only looks.
        let has_driver = unsafe { sys::is_culib_present() };
        match Card::open(None, 0, None) {
            Err(problem) if !has_driver => {
                assert_eq!(problem, "this machine has no NVIDIA driver (`libcuda.so.1`)");
            }
            outcome => assert!(has_driver, "{outcome:?}"),
        }
    }

    #[test]
    fn what_is_too_old_is_refused() {
        let check = |outcome: Result<(), String>, refused: Option<&str>| {
            assert_eq!(outcome.err().as_deref(), refused);
        };
        let old = "the driver knows CUDA 12.9, at least 13.0 is needed";
        check(check_driver(12_090), Some(old));
        check(check_driver(13_000), None);
        let old = "Tesla T4 has compute capability 7.5, at least 8.0 is needed";
        check(check_capability("Tesla T4", (7, 5)), Some(old));
        check(check_capability("A100", (8, 0)), None);
        check(check_capability("H100", (9, 0)), None);
    }

    #[test]
    fn a_folder_without_the_libraries_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let problem = Card::open(Some(folder.path()), 0, None).expect_err("an empty folder");
        assert!(problem.contains("holds no `libnvrtc-builtins.so.13.*`"), "{problem}");
    }
}

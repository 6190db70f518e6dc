//! The machine of the tests: kernels compiled by the system's C++ compiler and carried out on the
//! CPU, see `emulator.cpp`.
#![expect(unsafe_code, reason = "the kernels take pointers")]

pub(super) mod convolution;

use std::{
    alloc::{Layout, alloc, dealloc},
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt, fs,
    io::{self, Write},
    path::Path,
    process::Command,
    slice,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use candle_core::{Result, bail};

use super::{
    KERNELS, Launch, Machine, Precision, Product, convolution::Convolution, definition,
    machine::out_of_memory, names,
};

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Bind at once; `RTLD_NOW` of every system that has `dlopen`.
const NOW: c_int = 2;
/// A library that stays loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library(usize);

impl Library {
    /// Its symbols are seen by nobody else. `None` if it cannot be loaded.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let path = CString::new(path.to_str()?).ok()?;
        // SAFETY: a C string that outlives the call; the libraries opened here run no code on loading.
        let library = unsafe { dlopen(path.as_ptr(), NOW) };
        (!library.is_null()).then_some(Self(library as usize))
    }

    /// Where a symbol lies.
    pub(super) fn symbol(self, name: &CStr) -> *mut c_void {
        // SAFETY: a library that was opened and is never closed.
        let symbol = unsafe { dlsym(self.0 as *mut c_void, name.as_ptr()) };
        assert!(!symbol.is_null(), "the library has {name:?}");
        symbol
    }
}

type LaunchFn =
    unsafe extern "C" fn(*const c_char, *const u32, u32, *const u64, u32, c_int) -> *const c_char;
type MultiplyFn = unsafe extern "C" fn(*const Product);

/// The kernels for values of one precision.
struct Kernels {
    launch: LaunchFn,
    multiply: MultiplyFn,
}

/// Runs one kernel at a time: threads and shared memory of the emulator are global.
pub(crate) struct Emulator {
    is_reversed: bool,
    /// Bytes that arrays may take together.
    limit: usize,
    held: AtomicUsize,
    /// The most that were held at once.
    peak: AtomicUsize,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Emulator")
    }
}

/// Bytes on each side of an array that no kernel may touch.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

/// An array between two guards.
#[derive(Debug)]
pub(crate) struct Memory {
    start: usize,
    bytes: usize,
    machine: Arc<Emulator>,
}

impl Memory {
    fn layout(&self) -> Layout {
        Layout::from_size_align(self.bytes + 2 * GUARD, GUARD).expect("a size that was allocated")
    }

    fn parts(&self) -> [&[u8]; 3] {
        let at = |offset, bytes| {
            // SAFETY: lies within the allocation; kernels, which alone write it, are not running.
            unsafe { slice::from_raw_parts((self.start + offset) as *const u8, bytes) }
        };
        [at(0, GUARD), at(GUARD, self.bytes), at(GUARD + self.bytes, GUARD)]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let [before, _, after] = self.parts();
        let is_whole = [before, after].concat().iter().all(|byte| *byte == GUARD_BYTE);
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start as *mut u8, self.layout()) }
        self.machine.held.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(is_whole || std::thread::panicking(), "a kernel wrote beside {} bytes", self.bytes);
    }
}

impl Emulator {
    /// Threads in their order, or in the opposite one. `None`, and a line, without a C++ compiler.
    pub(crate) fn new(is_reversed: bool) -> Option<Arc<Self>> {
        Self::build(is_reversed, usize::MAX)
    }

    /// Threads in their order, and no more than `limit` bytes for arrays.
    pub(crate) fn with_memory(limit: usize) -> Option<Arc<Self>> {
        Self::build(false, limit)
    }

    /// The most bytes that arrays have held at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes that arrays hold.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn build(is_reversed: bool, limit: usize) -> Option<Arc<Self>> {
        if Command::new("c++").arg("--version").output().is_err() {
            let line = "skipped: the kernels need `c++` to run on the CPU (Debian: `g++`)";
            writeln!(io::stderr(), "{line}").expect("stderr is open"); // libtest hides `eprintln!`
            return None;
        }
        let (held, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Some(Arc::new(Self { is_reversed, limit, held, peak }))
    }

    fn kernels(precision: Precision) -> MutexGuard<'static, Kernels> {
        static F32: OnceLock<Mutex<Kernels>> = OnceLock::new();
        static BF16: OnceLock<Mutex<Kernels>> = OnceLock::new();
        let kernels = match precision {
            Precision::F32 => &F32,
            Precision::Bf16 => &BF16,
        };
        let kernels = kernels.get_or_init(|| Mutex::new(compile(precision)));
        kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile(precision: Precision) -> Kernels {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("a temporary folder can be written to");
    };
    write("emulator.cpp", include_str!("emulator.cpp"));
    write("kernels.cuh", &KERNELS.concat());
    write("known.inc", &names().map(|name| format!("KNOWN({name})\n")).collect::<String>());
    let library = folder.path().join("kernels.so");
    let mut compiler = Command::new("c++");
    compiler.args([
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-shared",
        "-fPIC",
    ]);
    compiler.arg(definition(precision)).arg(folder.path().join("emulator.cpp"));
    let outcome = compiler.arg("-o").arg(&library).output().expect("`c++` was there before");
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let library = Library::open(&library).expect("the compiler made it");
    // SAFETY: `emulator.cpp` declares both functions with these types.
    unsafe {
        Kernels {
            launch: std::mem::transmute::<*mut c_void, LaunchFn>(library.symbol(c"launch")),
            multiply: std::mem::transmute::<*mut c_void, MultiplyFn>(library.symbol(c"multiply")),
        }
    }
}

impl Machine for Emulator {
    type Memory = Memory;

    /// Begins as NaN, so that a test sees what is read before it is written.
    fn take(self: &Arc<Self>, bytes: usize) -> Result<Memory> {
        let held = self.held() + bytes;
        if held > self.limit {
            return Err(out_of_memory("the emulator", bytes));
        }
        self.held.store(held, Ordering::Relaxed);
        self.peak.fetch_max(held, Ordering::Relaxed);
        let mut memory = Memory { start: 0, bytes, machine: self.clone() };
        // SAFETY: of more than no bytes; all of them are then written.
        unsafe {
            let start = alloc(memory.layout());
            assert!(!start.is_null(), "memory for {bytes} bytes");
            start.write_bytes(GUARD_BYTE, bytes + 2 * GUARD);
            start.add(GUARD).write_bytes(0xff, bytes);
            memory.start = start as usize;
        }
        Ok(memory)
    }

    fn address(memory: &Memory) -> u64 {
        (memory.start + GUARD) as u64
    }

    fn write(&self, memory: &Memory, start: usize, bytes: &[u8]) -> Result<()> {
        assert!(start + bytes.len() <= memory.bytes, "fits");
        // SAFETY: `bytes` fits, and is no part of the array.
        unsafe {
            let to = (Self::address(memory) as *mut u8).add(start);
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(())
    }

    fn read(&self, memory: &Memory, start: usize, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&memory.parts()[1][start..][..bytes.len()]);
        Ok(())
    }

    fn launch(&self, precision: Precision, launch: &Launch) -> Result<()> {
        let Launch { kernel, grid, threads, arguments } = launch;
        let name = CString::new(*kernel).expect("a name");
        let kernels = Self::kernels(precision);
        let (values, count) = (arguments.as_ptr(), arguments.len() as u32);
        // SAFETY: the number of arguments is compared with the kernel's; that the addresses among
        // them are those of arrays which are large enough is what the tests are about.
        let problem = unsafe {
            let order = c_int::from(self.is_reversed);
            let problem =
                (kernels.launch)(name.as_ptr(), grid.as_ptr(), *threads, values, count, order);
            (!problem.is_null()).then(|| CStr::from_ptr(problem).to_string_lossy().into_owned())
        };
        match problem {
            Some(problem) => bail!("{problem}"),
            None => Ok(()),
        }
    }

    fn multiply(&self, precision: Precision, product: &Product) -> Result<()> {
        // SAFETY: as for `launch`.
        unsafe { (Self::kernels(precision).multiply)(product) }
        Ok(())
    }

    /// Its own way is that of a card, bf16; with a stride it has none, so that the tests see both.
    fn convolve(self: &Arc<Self>, precision: Precision, asked: &Convolution) -> Result<bool> {
        let has_way = precision == Precision::Bf16 && asked.sizes.window.stride == 1;
        if has_way {
            convolution::convolve(asked);
        }
        Ok(has_way)
    }
}

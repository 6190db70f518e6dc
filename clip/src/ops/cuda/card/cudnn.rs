//! Convolutions by cuDNN, which is asked once for each form how it computes it best; by its graph
//! API, in which everything is a descriptor with attributes.
#![expect(unsafe_code, reason = "cuDNN takes pointers")]

mod descriptor;

use std::{
    collections::HashMap,
    fmt, io,
    path::Path,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::Error;
use cudarc::{
    cudnn::{
        result::CudnnError,
        sys::{
            self, cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Type,
            cudnnBackendHeurMode_t as Search, cudnnBackendNumericalNote_t as Note,
            cudnnConvolutionMode_t as Mode, cudnnDataType_t as Values, cudnnStatus_t as Status,
        },
    },
    driver::CudaStream,
};

use super::{Card, Result, failed};
use crate::ops::{
    cuda::{
        Machine,
        convolution::{Convolution, Sizes, Wanted},
        libraries,
    },
    is_out_of_memory,
};
use descriptor::Descriptor;

/// As every cuDNN 9 is called.
const LIBRARY: &str = "libcudnn.so.9";
/// What it says of itself, in tens of thousands.
const VERSION: usize = 9;
/// What it says where the card has no room.
const NO_MEMORY: Status = Status::CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
/// Ways that cuDNN is asked for at most.
const WAYS_MAX: usize = 16;
/// Bytes that a way may use for itself.
const WORKSPACE_MAX: i64 = 2 << 30;
/// cuDNN counts the values of an array in 32 bits.
const VALUES_MAX: usize = i32::MAX as usize;

/// cuDNN, and what it has been asked so far.
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// `None` where it has no way.
    plans: HashMap<Form, Option<Plan>>,
}

// SAFETY: cuDNN's handles and descriptors belong to no thread; the mutex around keeps calls apart.
unsafe impl Send for Cudnn {}

impl fmt::Debug for Cudnn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cudnn with {} plans", self.plans.len())
    }
}

/// What decides how cuDNN computes an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    sizes: Sizes,
    wanted: Wanted,
    /// Bytes to which all arrays are aligned.
    alignment: i64,
}

/// How it does.
struct Plan {
    descriptor: Descriptor,
    workspace: usize,
    /// What the descriptor was made of; cuDNN says nowhere that it keeps copies.
    _parts: Vec<Descriptor>,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: made by `open`, and destroyed once. What cuDNN has against it would help nobody.
        let _ = unsafe { sys::cudnnDestroy(self.handle) };
    }
}

impl Cudnn {
    /// For what is asked of a stream. `None` if the library is not found, in `folder`, beside it, as
    /// pip installs it, or by the system, is another version, or refuses the card.
    pub(super) fn open(folder: Option<&Path>, stream: &CudaStream) -> Option<Self> {
        // Never closed: cuDNN opens others for itself.
        std::mem::forget(libraries::open(folder, "cudnn", LIBRARY)?);
        let mut handle = ptr::null_mut();
        // SAFETY: only look; the latter is asked of what the former has found.
        if unsafe { !sys::is_culib_present() || sys::cudnnGetVersion() / 10_000 != VERSION } {
            return None;
        }
        // SAFETY: writes a handle; the card is bound to this thread, and its stream outlives it.
        unsafe {
            sys::cudnnCreate(&raw mut handle).result().ok()?;
            let cudnn = Self { handle, plans: HashMap::new() };
            sys::cudnnSetStream(handle, stream.cu_stream().cast()).result().ok()?;
            Some(cudnn)
        }
    }

    /// The way to compute an array, if there is one.
    fn plan(&mut self, form: Form) -> Result<Option<&Plan>, CudnnError> {
        if !self.plans.contains_key(&form) {
            let plan =
                plan_of(self.handle, &form).or_else(|error| match is_unsupported(error) {
                    true => Ok(None),
                    false => Err(error),
                })?;
            self.plans.insert(form, plan);
        }
        Ok(self.plans[&form].as_ref())
    }
}

impl Plan {
    /// Asks the handle's stream for an array: `[input, kernel, output]`.
    ///
    /// # Safety
    /// These and the workspace are arrays of the sizes that the plan was made for.
    unsafe fn execute(
        &self,
        handle: sys::cudnnHandle_t,
        arrays: [u64; 3],
        workspace: u64,
    ) -> Result<(), CudnnError> {
        let pack = Descriptor::new(Type::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &IDS)?
            .pointers(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &arrays)?
            .pointers(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?
            .finished()?;
        // SAFETY: a plan; the arrays are the caller's promise.
        unsafe { sys::cudnnBackendExecute(handle, self.descriptor.0, pack.0) }.result()
    }
}

/// Whether it was asked for what it does not know, which it will not know later either.
fn is_unsupported(error: CudnnError) -> bool {
    (3000..4000).contains(&(error.0 as u32)) // `CUDNN_STATUS_NOT_SUPPORTED` and its reasons
}

impl Card {
    /// Whether convolutions go through cuDNN, which is opened when it is asked for.
    pub(crate) fn has_cudnn(&self) -> bool {
        self.cudnn().is_some()
    }

    fn cudnn(&self) -> Option<&Mutex<Cudnn>> {
        let open = || {
            self.context.bind_to_thread().ok()?;
            Cudnn::open(self.folder.as_deref(), &self.stream).map(Mutex::new)
        };
        self.cudnn.get_or_init(open).as_ref()
    }

    /// [`Machine::convolve`] with arrays of bf16.
    pub(super) fn convolve_by_cudnn(self: &Arc<Self>, asked: &Convolution) -> Result<bool> {
        let Some(cudnn) = self.cudnn() else { return Ok(false) };
        if asked.sizes.counts().into_iter().any(|count| count > VALUES_MAX) {
            return Ok(false);
        }
        self.context.bind_to_thread().map_err(failed)?;
        let mut cudnn = cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.ask_cudnn(&mut cudnn, asked) {
            Err(error) if is_out_of_memory(&error) => {
                self.trim()?; // cuDNN takes memory beside ours
                self.ask_cudnn(&mut cudnn, asked)
            }
            outcome => outcome,
        }
    }

    fn ask_cudnn(self: &Arc<Self>, cudnn: &mut Cudnn, asked: &Convolution) -> Result<bool> {
        let &Convolution { sizes, wanted, arrays } = asked;
        let bits = arrays.iter().fold(16, |bits, address| bits | address);
        let form = Form { sizes, wanted, alignment: 1 << bits.trailing_zeros() };
        let refused = |error: CudnnError| match error.0 {
            NO_MEMORY => {
                let reason = format!("{} has no memory left for cuDNN", self.name);
                Error::Io(io::Error::new(io::ErrorKind::OutOfMemory, reason))
            }
            other => Error::Msg(format!("cuDNN refuses {asked}: {other:?}")),
        };
        let handle = cudnn.handle;
        let Some(plan) = cudnn.plan(form).map_err(refused)? else { return Ok(false) };
        let workspace = self.take(plan.workspace)?;
        self.profile.around(
            &self.stream,
            || asked.to_string(),
            || {
                // SAFETY: the caller's arrays, of these sizes; the stream keeps the order, also of what
                // uses the workspace next.
                unsafe { plan.execute(handle, arrays, Self::address(&workspace)) }.map_err(refused)
            },
        )?;
        Ok(true)
    }
}

/// Numbers of the input, the kernel and the output within a graph.
const IDS: [i64; 3] = [1, 2, 3];

/// The first of cuDNN's ways, best first, that is exact.
fn plan_of(handle: sys::cudnnHandle_t, form: &Form) -> Result<Option<Plan>, CudnnError> {
    let mut parts = operation(form)?;
    let operation = parts.last().expect("it comes last");
    let graph = Descriptor::new(Type::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .parts(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[operation])?
        .handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?
        .finished()?;
    let search = Descriptor::new(Type::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .parts(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&graph])?
        .search(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Search::CUDNN_HEUR_MODE_A)?
        .finished()?;
    let ways = search.read_parts(
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Type::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
        WAYS_MAX,
    )?;
    for way in ways {
        if !is_exact(&way)? {
            continue;
        }
        let plan = Descriptor::new(Type::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?
            .parts(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&way])?
            .finished();
        let descriptor = match plan {
            Ok(plan) => plan,
            Err(error) if error.0 == NO_MEMORY => return Err(error),
            Err(_) => continue, // not on this card, or not with what is installed here
        };
        let workspace = descriptor.integer(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        if workspace <= WORKSPACE_MAX {
            parts.extend([graph, search, way]);
            let workspace = workspace as usize;
            return Ok(Some(Plan { descriptor, workspace, _parts: parts }));
        }
    }
    Ok(None)
}

/// Whether a way gives the same bits each time, from bf16 as it is and sums in f32.
fn is_exact(way: &Descriptor) -> Result<bool, CudnnError> {
    let name = Name::CUDNN_ATTR_ENGINECFG_ENGINE;
    let engines = way.read_parts(name, Type::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let Some(engine) = engines.first() else { return Ok(false) };
    let rough = [
        Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
    ];
    let notes = engine.notes(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE)?;
    Ok(!rough.iter().any(|rough| notes.contains(&(*rough as u32))))
}

/// The convolution, or one of its two ways back: what it is made of, and last itself.
fn operation(form: &Form) -> Result<Vec<Descriptor>, CudnnError> {
    let Sizes { batch, height, width, inputs, outputs, window, high, wide } = form.sizes;
    let [batch, inputs, outputs] = [batch, inputs, outputs].map(|size| size as i64);
    let [side, stride, padding] =
        [window.side, window.stride, window.padding].map(|size| size as i64);
    let arrays = [
        [batch, inputs, height as i64, width as i64],
        [outputs, inputs, side, side],
        [batch, outputs, high as i64, wide as i64],
    ];
    let tensor = |at: usize| tensor(IDS[at], arrays[at], form.alignment);
    let [x, w, y] = [tensor(0)?, tensor(1)?, tensor(2)?];
    let slide = Descriptor::new(Type::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .values(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Values::CUDNN_DATA_FLOAT)?
        .mode(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Mode::CUDNN_CROSS_CORRELATION)?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1, 1])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[stride; 2])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[padding; 2])?
        .integers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[padding; 2])?
        .finished()?;
    let (of, [input, kernel, output, slides, factor, on_top]) = match form.wanted {
        Wanted::Output => (
            Type::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            ],
        ),
        Wanted::InputGradient => (
            Type::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            ],
        ),
        Wanted::KernelGradient => (
            Type::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            ],
        ),
    };
    let operation = Descriptor::new(of)?
        .parts(input, &[&x])?
        .parts(kernel, &[&w])?
        .parts(output, &[&y])?
        .parts(slides, &[&slide])?
        .float(factor, 1.0)?
        .float(on_top, 0.0)?
        .finished()?;
    Ok(vec![x, w, y, slide, operation])
}

/// An array of bf16, by its sizes `[N, C, H, W]`, whose channels lie together.
fn tensor(id: i64, sizes: [i64; 4], alignment: i64) -> Result<Descriptor, CudnnError> {
    let [_, channels, height, width] = sizes;
    let strides = [height * width * channels, 1, width * channels, channels];
    Descriptor::new(Type::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .integers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?
        .values(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Values::CUDNN_DATA_BFLOAT16)?
        .integers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[alignment])?
        .integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &sizes)?
        .integers(Name::CUDNN_ATTR_TENSOR_STRIDES, &strides)?
        .finished()
}

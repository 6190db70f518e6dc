//! Convolutions by cuDNN, which is asked once for each form how it computes it best; by its graph
//! API, in which everything is a descriptor with attributes.
#![expect(unsafe_code, reason = "cuDNN takes pointers")]

use std::{
    collections::HashMap,
    ffi::c_void,
    fmt,
    path::Path,
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::Error;
use cudarc::{
    cudnn::{
        result::CudnnError,
        sys::{
            self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Kind,
            cudnnBackendDescriptorType_t as Type, cudnnBackendHeurMode_t as Search,
            cudnnBackendNumericalNote_t as Note, cudnnConvolutionMode_t as Mode,
            cudnnDataType_t as Values,
        },
    },
    driver::CudaStream,
};

use super::{Card, Result, failed};
use crate::ops::cuda::{
    Machine,
    convolution::{Convolution, Wanted},
    libraries,
};

/// As every cuDNN 9 is called.
const LIBRARY: &str = "libcudnn.so.9";
/// Ways that cuDNN is asked for at most.
const WAYS_MAX: usize = 16;
/// Notes on a way.
const NOTES_MAX: usize = 32;
/// Bytes that a way may use for itself.
const WORKSPACE_MAX: i64 = 2 << 30;
/// cuDNN counts the values of an array in 32 bits.
const VALUES_MAX: usize = i32::MAX as usize;

/// cuDNN, and what it has been asked so far.
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// `None` where it has no way.
    plans: HashMap<Form, Option<Arc<Plan>>>,
}

// SAFETY: cuDNN's handles belong to no thread; the mutex around keeps calls apart.
unsafe impl Send for Cudnn {}

impl fmt::Debug for Cudnn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cudnn with {} plans", self.plans.len())
    }
}

/// What decides how cuDNN computes an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    sizes: Convolution,
    wanted: Wanted,
    /// Bytes to which all arrays are aligned.
    alignment: i64,
}

/// How it does.
struct Plan {
    descriptor: Descriptor,
    workspace: usize,
    /// What the descriptor was made of.
    _parts: [Descriptor; 3],
}

// SAFETY: descriptors belong to no thread; one that is finished is only read.
unsafe impl Send for Plan {}
// SAFETY: the same.
unsafe impl Sync for Plan {}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: made by `open`, and destroyed once. What cuDNN has against it would help nobody.
        let _ = unsafe { sys::cudnnDestroy(self.handle) };
    }
}

impl Cudnn {
    /// For what is asked of a stream. `None` if the library is not found, in `folder`, beside it, as
    /// pip installs it, or by the system, or if it refuses the card.
    pub(super) fn open(folder: Option<&Path>, stream: &CudaStream) -> Option<Self> {
        // Never closed: cuDNN opens others for itself.
        std::mem::forget(libraries::open(folder, "cudnn", LIBRARY)?);
        let mut handle = ptr::null_mut();
        // SAFETY: only looks.
        if !unsafe { sys::is_culib_present() } {
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
    fn plan(&mut self, form: Form) -> Option<Arc<Plan>> {
        let handle = self.handle;
        let plan = self.plans.entry(form);
        plan.or_insert_with(|| plan_of(handle, &form).ok().flatten().map(Arc::new)).clone()
    }

    /// Asks the stream for an array: `[input, kernel, output]`.
    fn execute(&self, plan: &Plan, arrays: [u64; 3], workspace: u64) -> Result<(), CudnnError> {
        let pack = Descriptor::new(Type::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &IDS)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Kind::CUDNN_TYPE_VOID_PTR, &arrays)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Kind::CUDNN_TYPE_VOID_PTR, &[workspace])?
            .finished()?;
        // SAFETY: a plan and its arrays, which the caller holds, of the sizes that it was made for.
        unsafe { sys::cudnnBackendExecute(self.handle, plan.descriptor.0, pack.0) }.result()
    }
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
    pub(super) fn convolve_by_cudnn(
        self: &Arc<Self>,
        sizes: &Convolution,
        wanted: Wanted,
        arrays: [u64; 3],
    ) -> Result<bool> {
        let Some(cudnn) = self.cudnn() else { return Ok(false) };
        if sizes.counts().into_iter().any(|count| count > VALUES_MAX) {
            return Ok(false);
        }
        self.context.bind_to_thread().map_err(failed)?;
        let bits = arrays.iter().fold(16, |bits, address| bits | address);
        let form = Form { sizes: *sizes, wanted, alignment: 1 << bits.trailing_zeros() };
        let mut cudnn = cudnn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = cudnn.plan(form) else { return Ok(false) };
        let workspace = self.take(plan.workspace)?;
        let name = || format!("{sizes}: {wanted:?}");
        self.profile.around(&self.stream, name, || {
            let done = cudnn.execute(&plan, arrays, Self::address(&workspace));
            done.map_err(|error| Error::Msg(format!("cuDNN refuses {}: {:?}", name(), error.0)))
        })?;
        Ok(true)
    }
}

/// Numbers of the input, the kernel and the output within a graph.
const IDS: [i64; 3] = [1, 2, 3];

/// The first of cuDNN's ways, best first, whose sums have a fixed order.
fn plan_of(handle: sys::cudnnHandle_t, form: &Form) -> Result<Option<Plan>, CudnnError> {
    let operation = operation(form)?;
    let graph = Descriptor::new(Type::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .parts(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[&operation])?
        .set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Kind::CUDNN_TYPE_HANDLE, &[handle])?
        .finished()?;
    let search = [Search::CUDNN_HEUR_MODE_A];
    let search = Descriptor::new(Type::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .parts(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&graph])?
        .set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Kind::CUDNN_TYPE_HEUR_MODE, &search)?
        .finished()?;
    let ways = search.read_parts(
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Type::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
        WAYS_MAX,
    )?;
    for way in ways {
        if !has_fixed_order(&way)? {
            continue;
        }
        let plan = Descriptor::new(Type::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Kind::CUDNN_TYPE_HANDLE, &[handle])?
            .parts(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&way])?
            .finished();
        let Ok(descriptor) = plan else { continue }; // not on this card
        let mut workspace = [0i64];
        let name = Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE;
        descriptor.read(name, Kind::CUDNN_TYPE_INT64, &mut workspace)?;
        if workspace[0] <= WORKSPACE_MAX {
            let workspace = workspace[0] as usize;
            return Ok(Some(Plan { descriptor, workspace, _parts: [operation, graph, way] }));
        }
    }
    Ok(None)
}

/// Whether a way gives the same bits each time.
fn has_fixed_order(way: &Descriptor) -> Result<bool, CudnnError> {
    let name = Name::CUDNN_ATTR_ENGINECFG_ENGINE;
    let engines = way.read_parts(name, Type::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let mut notes = [0u32; NOTES_MAX]; // a newer cuDNN may have notes that have no name here
    let kind = Kind::CUDNN_TYPE_NUMERICAL_NOTE;
    let count = engines[0].read(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kind, &mut notes)?;
    Ok(!notes[..count].contains(&(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32)))
}

/// The convolution, or one of its two ways back.
fn operation(form: &Form) -> Result<Descriptor, CudnnError> {
    let Convolution { batch, height, width, inputs, outputs, window, high, wide } = form.sizes;
    let [batch, inputs, outputs] = [batch, inputs, outputs].map(|size| size as i64);
    let [side, stride, padding] =
        [window.side, window.stride, window.padding].map(|size| size as i64);
    let arrays = [
        [batch, inputs, height as i64, width as i64],
        [outputs, inputs, side, side],
        [batch, outputs, high as i64, wide as i64],
    ];
    let tensor = |at: usize| tensor(IDS[at], arrays[at], form.alignment);
    let tensors = [tensor(0)?, tensor(1)?, tensor(2)?];
    let mode = [Mode::CUDNN_CROSS_CORRELATION];
    let slide = Descriptor::new(Type::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .values(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Values::CUDNN_DATA_FLOAT)?
        .set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Kind::CUDNN_TYPE_CONVOLUTION_MODE, &mode)?
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
    Descriptor::new(of)?
        .parts(input, &[&tensors[0]])?
        .parts(kernel, &[&tensors[1]])?
        .parts(output, &[&tensors[2]])?
        .parts(slides, &[&slide])?
        .set(factor, Kind::CUDNN_TYPE_FLOAT, &[1f32])?
        .set(on_top, Kind::CUDNN_TYPE_FLOAT, &[0f32])?
        .finished()
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

/// What cuDNN is told about something.
struct Descriptor(sys::cudnnBackendDescriptor_t);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed once. What cuDNN has against it would help nobody.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    fn new(of: Type) -> Result<Self, CudnnError> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: writes a descriptor.
        unsafe { sys::cudnnBackendCreateDescriptor(of, &raw mut descriptor) }.result()?;
        Ok(Self(descriptor))
    }

    /// With an attribute, whose values are of its kind.
    fn set<T: Copy>(self, name: Name, kind: Kind, values: &[T]) -> Result<Self, CudnnError> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: cuDNN copies so many values, and refuses an attribute of another kind.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, count, values) }.result()?;
        Ok(self)
    }

    fn integers(self, name: Name, values: &[i64]) -> Result<Self, CudnnError> {
        self.set(name, Kind::CUDNN_TYPE_INT64, values)
    }

    /// How values are kept.
    fn values(self, name: Name, of: Values) -> Result<Self, CudnnError> {
        self.set(name, Kind::CUDNN_TYPE_DATA_TYPE, &[of])
    }

    fn parts(self, name: Name, parts: &[&Self]) -> Result<Self, CudnnError> {
        let parts: Vec<_> = parts.iter().map(|part| part.0).collect();
        self.set(name, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &parts)
    }

    /// With all its attributes.
    fn finished(self) -> Result<Self, CudnnError> {
        // SAFETY: a descriptor.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }

    /// Reads an attribute's values, of its kind, as many as there is room for; their number.
    fn read<T: Copy>(&self, name: Name, kind: Kind, to: &mut [T]) -> Result<usize, CudnnError> {
        let (mut count, most) = (0, to.len() as i64);
        let to = to.as_mut_ptr().cast::<c_void>();
        // SAFETY: cuDNN writes at most as many values, and refuses an attribute of another kind.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, most, &raw mut count, to) }
            .result()?;
        Ok(count.clamp(0, most) as usize)
    }

    /// Reads an attribute's descriptors, at most so many.
    fn read_parts(&self, name: Name, of: Type, most: usize) -> Result<Vec<Self>, CudnnError> {
        let mut parts: Vec<_> = (0..most).map(|_| Self::new(of)).collect::<Result<_, _>>()?;
        let mut handles: Vec<_> = parts.iter().map(|part| part.0).collect();
        let count = self.read(name, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut handles)?;
        parts.truncate(count);
        Ok(parts)
    }
}

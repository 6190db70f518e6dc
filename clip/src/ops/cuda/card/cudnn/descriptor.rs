//! What cuDNN is told: descriptors with attributes.
#![expect(unsafe_code, reason = "cuDNN takes pointers")]

use std::{ffi::c_void, ptr};

use cudarc::cudnn::{
    result::CudnnError,
    sys::{
        self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Kind,
        cudnnBackendDescriptorType_t as Type, cudnnBackendHeurMode_t as Search,
        cudnnConvolutionMode_t as Mode, cudnnDataType_t as Values,
    },
};

/// Notes on a way.
const NOTES_MAX: usize = 32;

/// What cuDNN is told about something.
pub(super) struct Descriptor(pub(super) sys::cudnnBackendDescriptor_t);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed once. What cuDNN has against it would help nobody.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl Descriptor {
    pub(super) fn new(of: Type) -> Result<Self, CudnnError> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: writes a descriptor.
        unsafe { sys::cudnnBackendCreateDescriptor(of, &raw mut descriptor) }.result()?;
        Ok(Self(descriptor))
    }

    /// With an attribute.
    ///
    /// # Safety
    /// `T` is what cuDNN's manual says of the kind.
    unsafe fn set<T: Copy>(self, name: Name, kind: Kind, values: &[T]) -> Result<Self, CudnnError> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: cuDNN copies so many values, and refuses a kind that is not the attribute's.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, count, values) }.result()?;
        Ok(self)
    }

    pub(super) fn integers(self, name: Name, values: &[i64]) -> Result<Self, CudnnError> {
        // SAFETY: `int64_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_INT64, values) }
    }

    pub(super) fn float(self, name: Name, value: f32) -> Result<Self, CudnnError> {
        // SAFETY: `float`
        unsafe { self.set(name, Kind::CUDNN_TYPE_FLOAT, &[value]) }
    }

    pub(super) fn pointers(self, name: Name, addresses: &[u64]) -> Result<Self, CudnnError> {
        // SAFETY: `void *`
        unsafe { self.set(name, Kind::CUDNN_TYPE_VOID_PTR, addresses) }
    }

    pub(super) fn handle(self, name: Name, handle: sys::cudnnHandle_t) -> Result<Self, CudnnError> {
        // SAFETY: `cudnnHandle_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_HANDLE, &[handle]) }
    }

    /// How values are kept.
    pub(super) fn values(self, name: Name, of: Values) -> Result<Self, CudnnError> {
        // SAFETY: `cudnnDataType_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_DATA_TYPE, &[of]) }
    }

    pub(super) fn mode(self, name: Name, mode: Mode) -> Result<Self, CudnnError> {
        // SAFETY: `cudnnConvolutionMode_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_CONVOLUTION_MODE, &[mode]) }
    }

    pub(super) fn search(self, name: Name, search: Search) -> Result<Self, CudnnError> {
        // SAFETY: `cudnnBackendHeurMode_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_HEUR_MODE, &[search]) }
    }

    pub(super) fn parts(self, name: Name, parts: &[&Self]) -> Result<Self, CudnnError> {
        let parts: Vec<_> = parts.iter().map(|part| part.0).collect();
        // SAFETY: `cudnnBackendDescriptor_t`
        unsafe { self.set(name, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &parts) }
    }

    /// With all its attributes.
    pub(super) fn finished(self) -> Result<Self, CudnnError> {
        // SAFETY: a descriptor.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }

    /// Reads an attribute's values, as many as there is room for; their number.
    ///
    /// # Safety
    /// `T` is what cuDNN's manual says of the kind.
    unsafe fn read<T>(&self, name: Name, kind: Kind, to: &mut [T]) -> Result<usize, CudnnError> {
        let (mut count, most) = (0, to.len() as i64);
        let to = to.as_mut_ptr().cast::<c_void>();
        // SAFETY: cuDNN writes at most as many values, and refuses a kind that is not the attribute's.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, most, &raw mut count, to) }
            .result()?;
        Ok(count.clamp(0, most) as usize)
    }

    pub(super) fn integer(&self, name: Name) -> Result<i64, CudnnError> {
        let mut value = [0];
        // SAFETY: `int64_t`
        unsafe { self.read(name, Kind::CUDNN_TYPE_INT64, &mut value) }?;
        Ok(value[0])
    }

    /// As numbers: a newer cuDNN may have notes that have no name here.
    pub(super) fn notes(&self, name: Name) -> Result<Vec<u32>, CudnnError> {
        let mut notes = vec![0; NOTES_MAX];
        // SAFETY: `cudnnBackendNumericalNote_t`
        let count = unsafe { self.read(name, Kind::CUDNN_TYPE_NUMERICAL_NOTE, &mut notes) }?;
        notes.truncate(count);
        Ok(notes)
    }

    /// Reads an attribute's descriptors, at most so many.
    pub(super) fn read_parts(
        &self,
        name: Name,
        of: Type,
        most: usize,
    ) -> Result<Vec<Self>, CudnnError> {
        let mut parts: Vec<_> = (0..most).map(|_| Self::new(of)).collect::<Result<_, _>>()?;
        let mut handles: Vec<_> = parts.iter().map(|part| part.0).collect();
        // SAFETY: `cudnnBackendDescriptor_t`, into which cuDNN puts what it has.
        let count = unsafe { self.read(name, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut handles) }?;
        parts.truncate(count);
        Ok(parts)
    }
}

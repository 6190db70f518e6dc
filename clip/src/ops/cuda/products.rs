//! Matrix products by cuBLASLt, which is asked once for each form how it computes it best.
#![expect(unsafe_code, reason = "cuBLASLt takes pointers")]

use std::{collections::HashMap, ffi::c_void, ptr, sync::Arc};

use cudarc::{
    cublaslt::{
        result as blas,
        sys::{
            self as blas_sys, cublasLtMatmulDescAttributes_t as Attribute,
            cublasLtMatmulPreferenceAttributes_t as Preference,
        },
    },
    driver::{CudaSlice, CudaStream, DevicePtr},
};

use super::{Operand, Precision, Product};

/// Memory that products may use between their parts.
const WORKSPACE: usize = 32 << 20;

/// What decides how cuBLASLt computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    is_bf16: bool,
    is_wide: bool,
    has_bias: bool,
    shape: [u64; 3],
    strides: [u64; 3],
    transposes: [u64; 2],
    /// Bytes to which its A, B, C and D are aligned.
    alignments: [u32; 4],
}

/// The greatest power of two, up to what cuBLASLt asks at most, that divides an address.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// How it does.
struct Plan {
    description: blas_sys::cublasLtMatmulDesc_t,
    /// Of its A, B and D; C is as D.
    layouts: [blas_sys::cublasLtMatrixLayout_t; 3],
    way: blas_sys::cublasLtMatmulHeuristicResult_t,
}

/// cuBLASLt, asked once for each form of a product.
pub(super) struct Products {
    handle: blas_sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Form, Plan>,
}

// SAFETY: cuBLASLt's handles belong to no thread; the mutex around keeps calls apart.
unsafe impl Send for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: made by `new` and `plan`, and dropped once. What cuBLASLt has against it would
        // help nobody.
        unsafe {
            for plan in self.plans.values() {
                let _ = blas::destroy_matmul_desc(plan.description);
                for layout in plan.layouts {
                    let _ = blas::destroy_matrix_layout(layout);
                }
            }
            let _ = blas::destroy_handle(self.handle);
        }
    }
}

impl Products {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, String> {
        let handle = blas::create_handle().map_err(|error| format!("cuBLASLt: {:?}", error.0))?;
        // SAFETY: holds anything.
        let workspace = unsafe { stream.alloc(WORKSPACE) };
        let workspace = workspace.map_err(|error| format!("the GPU says {:?}", error.0))?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    pub(super) fn multiply(
        &mut self,
        precision: Precision,
        product: &Product,
        stream: &Arc<CudaStream>,
    ) -> Result<(), blas::CublasError> {
        let Product { a, b, c, bias, d, d_stride, rows, columns, inner, is_wide, beta } = *product;
        let c = if c == 0 { d } else { c };
        let form = Form {
            is_bf16: precision == Precision::Bf16,
            is_wide: is_wide == 1,
            has_bias: bias != 0,
            shape: [rows, columns, inner],
            strides: [a.stride, b.stride, d_stride],
            transposes: [a.is_transposed, b.is_transposed],
            alignments: [b.address, a.address, c, d].map(alignment),
        };
        if !self.plans.contains_key(&form) {
            let plan = self.plan(&form, product)?;
            self.plans.insert(form, plan);
        }
        let plan = &self.plans[&form];
        let (one, beta) = (1f32, beta as f32);
        let (workspace, _held) = self.workspace.device_ptr(stream);
        // SAFETY: layouts and addresses are those of the product, whose arrays its caller holds;
        // the stream keeps the order, also of the workspace's uses.
        unsafe {
            if form.has_bias {
                set(plan.description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            }
            blas::matmul(
                self.handle,
                plan.description,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&beta).cast(),
                b.address as *const c_void,
                plan.layouts[0],
                a.address as *const c_void,
                plan.layouts[1],
                c as *const c_void,
                plan.layouts[2],
                d as *mut c_void,
                plan.layouts[2],
                &plan.way.algo,
                workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
    }

    /// cuBLASLt counts columns first: it computes `d^T = b^T a^T`, so that our b is its A.
    fn plan(&self, form: &Form, product: &Product) -> Result<Plan, blas::CublasError> {
        let values = match form.is_bf16 {
            true => blas_sys::cudaDataType::CUDA_R_16BF,
            false => blas_sys::cudaDataType::CUDA_R_32F,
        };
        let out = if form.is_wide { blas_sys::cudaDataType::CUDA_R_32F } else { values };
        let [rows, columns, inner] = form.shape;
        let layout = |operand: &Operand, rows: u64, columns: u64| {
            // What are rows here are columns there.
            let (high, wide) =
                if operand.is_transposed == 1 { (rows, columns) } else { (columns, rows) };
            blas::create_matrix_layout(values, high, wide, operand.stride as i64)
        };
        let layouts = [
            layout(&product.b, inner, columns)?,
            layout(&product.a, rows, inner)?,
            blas::create_matrix_layout(out, columns, rows, form.strides[2] as i64)?,
        ];
        let description = blas::create_matmul_desc(
            blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas_sys::cudaDataType_t::CUDA_R_32F,
        )?;
        let [a, b] = form.transposes.map(|transposed| transposed as i32);
        let epilogue = match form.has_bias {
            true => blas_sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            false => blas_sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        // SAFETY: each attribute is given a value of its type.
        let way = unsafe {
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &b)?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &a)?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if form.has_bias {
                set(description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)?;
            }
            let preference = blas::create_matmul_pref()?;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
            let attributes = [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ];
            for (attribute, bytes) in attributes.into_iter().zip(&form.alignments) {
                prefer(preference, attribute, bytes)?;
            }
            let [x, y, z] = layouts;
            let way =
                blas::get_matmul_algo_heuristic(self.handle, description, x, y, z, z, preference);
            blas::destroy_matmul_pref(preference)?;
            way?
        };
        Ok(Plan { description, layouts, way })
    }
}

/// Sets an attribute.
///
/// # Safety
/// The value must be of the type that cuBLASLt's manual gives for the attribute.
unsafe fn set<T>(
    description: blas_sys::cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> Result<(), blas::CublasError> {
    let pointer = ptr::from_ref(value).cast();
    // SAFETY: the caller's.
    unsafe { blas::set_matmul_desc_attribute(description, attribute, pointer, size_of::<T>()) }
}

/// Sets an attribute of the search for a way.
///
/// # Safety
/// The value must be of the type that cuBLASLt's manual gives for the attribute.
unsafe fn prefer<T>(
    preference: blas_sys::cublasLtMatmulPreference_t,
    attribute: Preference,
    value: &T,
) -> Result<(), blas::CublasError> {
    let pointer = ptr::from_ref(value).cast();
    // SAFETY: the caller's.
    unsafe { blas::set_matmul_pref_attribute(preference, attribute, pointer, size_of::<T>()) }
}

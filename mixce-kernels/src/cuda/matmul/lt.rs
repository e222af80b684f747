//! cublasLt: problems, and what was chosen for them.
//!
//! cublasLt is column-major, so row-major matrices are transposes to it, and a product is y^T = b^T a^T.

use candle_core::cuda::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda::cudarc::cublaslt::sys;
use sys::cublasLtMatmulDescAttributes_t::{
    CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD,
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB,
};
use sys::cublasLtMatmulPreferenceAttributes_t::{
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
};

/// Of the elements of all matrices, and of a bias.
const TYPE: sys::cudaDataType_t = sys::cudaDataType_t::CUDA_R_16BF;

/// The most memory that an algorithm may take beside its operands: what cuBLAS takes by default on Hopper, whose algorithms need more than the
/// 4 MiB that suffice elsewhere.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// What a product does with its sums before it stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Bias,
    Gelu,
    /// GELU, whose input is stored too.
    GeluSaving,
}

impl Kind {
    fn epilogue(self) -> sys::cublasLtEpilogue_t {
        match self {
            Self::Bias => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Self::Gelu => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
            Self::GeluSaving => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        }
    }
}

/// The largest power of two, up to 256, of which an address is a multiple.
pub(super) fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// A row-major matrix as it is stored, and whether the product takes its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    pub(super) transposed: bool,
    pub(super) alignment: u32,
}

/// Everything that an algorithm is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) a: Operand,
    pub(super) b: Operand,
    pub(super) y: Operand,
    /// Of the bias, and of the pre-activation.
    pub(super) alignments: [u32; 2],
}

/// Where the operands lie. There is a pre-activation if it is to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) y: u64,
    pub(super) bias: u64,
    pub(super) pre_activation: Option<u64>,
}

/// The library on the device whose context is current.
pub(super) struct Handle(sys::cublasLtHandle_t);

// SAFETY: any thread may use a handle.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn new() -> Result<Self, CublasError> {
        result::create_handle().map(Self)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once. Nothing can be done about an error.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// Descriptor of an operation.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn set<V>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: V) -> Result<(), CublasError> {
        // SAFETY: the library reads as many bytes as the value has, and refuses another number.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<V>())
        }
    }

    fn set_addresses(&self, addresses: &Addresses) -> Result<(), CublasError> {
        self.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, addresses.bias)?;
        match addresses.pre_activation {
            Some(address) => self.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, address),
            None => Ok(()),
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Descriptor of a matrix.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(matrix: Operand) -> Result<Self, CublasError> {
        let (rows, columns) = (matrix.columns as u64, matrix.rows as u64);
        result::create_matrix_layout(TYPE, rows, columns, matrix.stride as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may do.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn set<V>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: V,
    ) -> Result<(), CublasError> {
        // SAFETY: as for `Description::set`.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<V>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// An algorithm with the descriptors that it was chosen for.
pub(super) struct Plan {
    description: Description,
    a: Layout,
    b: Layout,
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: any thread may use descriptors, as long as no two do so at once: there are no shared references to a plan in two threads.
unsafe impl Send for Plan {}

impl Plan {
    /// The algorithm that the library expects to be the fastest.
    ///
    /// # Errors
    /// Where it has none.
    pub(super) fn find(
        library: &Handle,
        problem: &Problem,
        addresses: &Addresses,
    ) -> Result<Self, CublasError> {
        let (compute, scale) =
            (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let description = Description(result::create_matmul_desc(compute, scale)?);
        let operation = |matrix: Operand| match matrix.transposed {
            true => cublasOperation_t::CUBLAS_OP_T as i32,
            false => cublasOperation_t::CUBLAS_OP_N as i32,
        };
        description.set(CUBLASLT_MATMUL_DESC_TRANSA, operation(problem.b))?;
        description.set(CUBLASLT_MATMUL_DESC_TRANSB, operation(problem.a))?;
        description.set(CUBLASLT_MATMUL_DESC_EPILOGUE, problem.kind.epilogue() as u32)?;
        if problem.kind == Kind::GeluSaving {
            description.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, problem.y.columns as i64)?;
        }
        // Their alignment counts in the choice.
        description.set_addresses(addresses)?;
        let [a, b, y] = [problem.a, problem.b, problem.y].map(Layout::new);
        let (a, b, y, preference) = (a?, b?, y?, problem.preference()?);
        // SAFETY: all descriptors are there.
        let found = unsafe {
            result::get_matmul_algo_heuristic(library.0, description.0, b.0, a.0, y.0, y.0, preference.0)
        }?;
        Ok(Self { description, a, b, y, algorithm: found.algo })
    }

    /// Launches the product.
    ///
    /// # Errors
    /// When the library refuses it.
    ///
    /// # Safety
    /// The operands must lie at these addresses and be aligned as the problem says, and `workspace` have [`WORKSPACE_BYTES`].
    pub(super) unsafe fn launch(
        &mut self,
        library: &Handle,
        addresses: &Addresses,
        workspace: u64,
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        self.description.set_addresses(addresses)?;
        let (one, zero) = (1f32, 0f32);
        // SAFETY: passed on to the caller.
        unsafe {
            result::matmul(
                library.0,
                self.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                addresses.b as *const _,
                self.b.0,
                addresses.a as *const _,
                self.a.0,
                addresses.y as *const _,
                self.y.0,
                addresses.y as *mut _,
                self.y.0,
                &raw const self.algorithm,
                workspace as *mut _,
                WORKSPACE_BYTES,
                stream,
            )
        }
    }
}

impl Problem {
    fn preference(&self) -> Result<Preference, CublasError> {
        let preference = Preference(result::create_matmul_pref()?);
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_BYTES as u64)?;
        // A sum that is split is put together in f32, not in the type of the result.
        let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, self.b.alignment)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, self.a.alignment)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, self.y.alignment)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, self.y.alignment)?;
        Ok(preference)
    }
}

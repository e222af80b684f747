//! Matrix products by cuBLAS, into existing memory.

pub(crate) use candle_core::cuda::cudarc::cublas::sys::cudaDataType_t as DataType;
use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::cuda::{WrapErr, gemm_reduced_precision_f32};
use candle_core::{DType, Result, bail};

use super::{Array, Element, Gpu};

/// A row-major matrix `[rows, columns]`, or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: Array<'a, T>,
    /// Of the product: after transposition.
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// A row-major matrix of whole rows of `columns` elements.
    pub(super) fn new(data: Array<'a, T>, columns: usize) -> Self {
        let rows = data.len.checked_div(columns).unwrap_or(0);
        Self { data, rows, columns, transposed: false }
    }

    /// The transpose, sharing the data.
    pub(super) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Elements from one stored row to the next.
    fn stride(self) -> usize {
        if self.transposed { self.rows } else { self.columns }
    }
}

impl Gpu<'_> {
    /// `y = a b`, or `y += a b`: `y` is row-major. Sums are f32, whatever the types.
    ///
    /// # Errors
    /// If sizes do not match or the device fails.
    pub(super) fn matmul<T: Element, Out: Element>(
        &self,
        y: Array<'_, Out>,
        add: bool,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
    ) -> Result<()> {
        let (m, n, k) = (a.rows, b.columns, a.columns);
        if k != b.rows || y.len != m * n {
            bail!("matmul: [{m}, {k}] times [{}, {n}] into {} elements", b.rows, y.len);
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let (Ok(m), Ok(n), Ok(k)) = (i32::try_from(m), i32::try_from(n), i32::try_from(k)) else {
            bail!("matmul: [{m}, {k}] times [{k}, {n}] exceeds cuBLAS's index range")
        };
        let operation = |matrix: Matrix<'_, T>| match matrix.transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let compute = match gemm_reduced_precision_f32() && T::DTYPE == DType::F32 {
            true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let handle = *self.0.cublas_handle().handle();
        // Otherwise cuBLAS may accumulate split sums in the type of the result.
        let mode = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // cuBLAS is column-major, so row-major matrices are transposes to it, and the product is y^T = b^T a^T.
        // SAFETY: the sizes fit the arrays (`Matrix::new` and the checks above), whose storages are borrowed.
        unsafe {
            sys::cublasSetMathMode(handle, mode).result().w()?;
            result::gemm_strided_batched_ex(
                handle,
                operation(b),
                operation(a),
                n,
                m,
                k,
                (&raw const alpha).cast(),
                b.data.address as *const _,
                T::MATRIX,
                b.stride().max(1) as i32,
                0,
                a.data.address as *const _,
                T::MATRIX,
                a.stride().max(1) as i32,
                0,
                (&raw const beta).cast(),
                y.address as *mut _,
                Out::MATRIX,
                n,
                0,
                1,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()
    }
}

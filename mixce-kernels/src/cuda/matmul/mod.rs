//! Matrix products by cuBLAS, into existing memory.

mod epilogue;
mod lt;

pub(super) use epilogue::Epilogue;

use std::marker::PhantomData;

pub(crate) use candle_core::cuda::cudarc::cublas::sys::cudaDataType_t as DataType;
use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::cuda::{WrapErr, gemm_reduced_precision_f32};
use candle_core::{DType, Result, bail};

use super::{Arg, Array, Element, Gpu};

/// A row-major matrix `[rows, columns]`, some columns of one, or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    /// Of its first element.
    address: u64,
    /// Of the product: after transposition.
    rows: usize,
    columns: usize,
    /// Elements from one stored row to the next.
    stride: usize,
    transposed: bool,
    storage: PhantomData<&'a T>,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// A row-major matrix of whole rows of `columns` elements.
    pub(super) fn new(data: Array<'a, T>, columns: usize) -> Self {
        let rows = data.len.checked_div(columns).unwrap_or(0);
        let address = data.address;
        Self { address, rows, columns, stride: columns, transposed: false, storage: PhantomData }
    }

    /// The first `columns` elements of rows that are `stride` elements apart.
    ///
    /// # Errors
    /// When rows are shorter.
    pub(super) fn strided(data: Array<'a, T>, columns: usize, stride: usize) -> Result<Self> {
        Self::new(data, stride).narrow_columns(0, columns)
    }

    /// The transpose, sharing the data.
    pub(super) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// The columns `first..first + columns` of a matrix that is not a transpose.
    ///
    /// # Errors
    /// When there are fewer.
    pub(super) fn narrow_columns(self, first: usize, columns: usize) -> Result<Self> {
        if self.transposed || first + columns > self.columns {
            bail!("columns {first}..{} of a matrix of {}", first + columns, self.columns);
        }
        Ok(Self { address: self.address + (first * size_of::<T>()) as u64, columns, ..self })
    }

    /// The rows `first..first + rows` of a matrix that is not a transpose.
    ///
    /// # Errors
    /// When there are fewer.
    pub(super) fn narrow_rows(self, first: usize, rows: usize) -> Result<Self> {
        if self.transposed || first + rows > self.rows {
            bail!("rows {first}..{} of a matrix of {}", first + rows, self.rows);
        }
        Ok(Self { address: self.address + (first * self.stride * size_of::<T>()) as u64, rows, ..self })
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(super) fn columns(self) -> usize {
        self.columns
    }

    pub(super) fn is_transposed(self) -> bool {
        self.transposed
    }

    /// As arguments of a kernel; of a matrix that is not a transpose.
    pub(super) fn address_and_stride(self) -> (Arg, u64) {
        (Arg::Pointer(self.address), self.stride as u64)
    }
}

impl Gpu<'_> {
    /// `y = a b`, or `y += a b`, where `y` is not a transpose. Sums are f32, whatever the types.
    ///
    /// # Errors
    /// If sizes do not match or the device fails.
    pub(super) fn matmul<T: Element, Out: Element>(
        &self,
        y: Matrix<'_, Out>,
        add: bool,
        a: Matrix<'_, T>,
        b: Matrix<'_, T>,
    ) -> Result<()> {
        let (m, n, k) = (a.rows, b.columns, a.columns);
        if k != b.rows || (y.rows, y.columns, y.transposed) != (m, n, false) {
            bail!("matmul: [{m}, {k}] times [{}, {n}] into [{}, {}]", b.rows, y.rows, y.columns);
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let int = |size: usize| match i32::try_from(size) {
            Ok(size) => Ok(size),
            Err(_) => bail!("matmul: [{m}, {k}] times [{k}, {n}] exceeds cuBLAS's index range"),
        };
        let strides = [int(a.stride.max(1))?, int(b.stride.max(1))?, int(y.stride)?];
        let (m, n, k) = (int(m)?, int(n)?, int(k)?);
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
        // SAFETY: the sizes fit the arrays (`Matrix` and the checks above), whose storages are borrowed.
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
                b.address as *const _,
                T::MATRIX,
                strides[1],
                0,
                a.address as *const _,
                T::MATRIX,
                strides[0],
                0,
                (&raw const beta).cast(),
                y.address as *mut _,
                Out::MATRIX,
                strides[2],
                0,
                1,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()
    }
}

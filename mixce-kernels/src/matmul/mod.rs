//! Matrix products of f32 slices on the CPU.

#![expect(
    unsafe_code,
    reason = "gemm takes pointers, and tasks write to tiles of one matrix; the bounds are checked here"
)]

mod blocked;
mod pack;

use gemm::Parallelism;

use candle_core::{Device, Result, bail};

use crate::bf16;
use crate::cuda::Gpu;

/// Number format of the operands of a matrix product. Accumulation is always f32. On the CPU matrices are also stored as f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Operands are rounded to bfloat16 (8 bits of significand): twice the rate where the CPU has AVX512-BF16, several times
    /// that of f32 on a GPU's tensor cores.
    Bf16,
}

impl Precision {
    /// Refuses bf16 on devices without instructions for it, where it would be slower than f32 without benefit. A CPU needs AVX512-BF16, a
    /// GPU compute capability 8.0.
    ///
    /// # Errors
    /// If the device lacks them.
    pub fn check(self, device: &Device) -> Result<()> {
        match (self, device) {
            (Self::F32, _) => Ok(()),
            (Self::Bf16, Device::Cpu) if bf16::is_available() => Ok(()),
            (Self::Bf16, Device::Cpu) => {
                bail!("expected a CPU with AVX512-BF16 (AMD since Zen 4, Intel since Sapphire Rapids)")
            }
            (Self::Bf16, _) => match Gpu::of(device) {
                Some(gpu) => gpu.check_bf16(),
                None => bail!("expected a CPU or, in a build with CUDA, a GPU; got {:?}", device.location()),
            },
        }
    }
}

/// A matrix in a slice: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix of `data.len() / columns` whole rows.
    #[must_use]
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        let rows = data.len().checked_div(columns).unwrap_or(0);
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, sharing the data.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Columns `start..start + len`.
    ///
    /// # Panics
    /// When there are not that many columns.
    #[must_use]
    pub fn columns(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.columns, "columns {start}..{} of {}", start + len, self.columns);
        let skipped = (start * self.column_stride).min(self.data.len());
        Self { data: &self.data[skipped..], columns: len, ..self }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// `dst = lhs rhs`, or `dst += lhs rhs`, on all threads of the current rayon pool.
///
/// `dst` is row-major, `[lhs.rows, rhs.columns]` with row stride `dst_stride`. Large single-precision products are computed by
/// `blocked`, small ones by the `gemm` crate; both select AVX-512 or AVX2 at run time. If the right side is reused with few rows on the
/// left, as in sampling, see [`crate::PackedWeight`]. With [`Precision::Bf16`] the operands are rounded first.
///
/// # Panics
/// If the shapes do not match, which is a bug in the caller.
pub fn matmul(
    precision: Precision,
    dst: &mut [f32],
    dst_stride: usize,
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert_eq!(k, rhs.rows, "matmul: inner dimensions");
    assert!(lhs.fits() && rhs.fits() && n <= dst_stride, "matmul: strides");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * dst_stride + n <= dst.len(), "matmul: a destination of {} elements", dst.len());
    let target = (dst_stride, accumulate);
    match precision {
        Precision::F32 => matmul_f32(dst, target, lhs, rhs),
        Precision::Bf16 => bf16::product(dst, target, lhs, rhs),
    }
}

/// [`matmul`] in single precision; the shapes have been checked.
pub(crate) fn matmul_f32(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    if blocked::pays(m, n, k) {
        return blocked::product(dst, (dst_stride, accumulate), lhs, rhs);
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: all three matrices lie inside their slices (the caller has checked that), `dst` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| Stream::new(seed).normal(i) as f32).collect()
    }

    #[test]
    fn every_layout_equals_the_triple_loop() {
        // The last one is large.
        let sizes = [
            (0, 3, 2),
            (1, 1, 1),
            (3, 0, 4),
            (2, 3, 0),
            (5, 7, 3),
            (65, 33, 17),
            (1, 64, 16),
            (13, 200, 40),
            (70, 200, 130),
        ];
        for (m, n, k) in sizes {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let matrix = |data, rows, columns| Matrix { rows, ..Matrix::new(data, columns) };
            for lhs in [matrix(&a, m, k), matrix(&at, k, m).t()] {
                for rhs in [matrix(&b, k, n), matrix(&bt, n, k).t()] {
                    for accumulate in [false, true] {
                        let mut dst = vec![0.5f32; m * n];
                        matmul(Precision::F32, &mut dst, n, accumulate, lhs, rhs);
                        for (at, got) in dst.iter().enumerate() {
                            let (i, j) = (at / n, at % n);
                            let product: f32 = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
                            let want = product + if accumulate { 0.5 } else { 0.0 };
                            assert!((got - want).abs() < 1e-4, "({i}, {j}): {got} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn columns_are_a_part_of_the_matrix() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let identity = [1f32, 0.0, 0.0, 1.0];
        let mut dst = [0f32; 6];
        let part = Matrix::new(&data, 4).columns(1, 2);
        matmul(Precision::F32, &mut dst, 2, false, part, Matrix::new(&identity, 2));
        assert_eq!(dst, [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    }
}

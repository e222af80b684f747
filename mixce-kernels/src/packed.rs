//! Matrix products with prepacked weights, for sampling.
//!
//! Decoding multiplies a few rows by every weight matrix, so its speed is limited by reading the weights. A general product copies
//! them into its own layout every time; and read in place, the rows of a matrix `[in, out]` are a power of two apart, which leaves most
//! of the cache unused. Packed once, the weights of 48 outputs are contiguous in memory in the order in which they are multiplied.
//!
//! Legend: M rows, K inputs, N outputs; a *panel* is 48 outputs, P = ceil(N / 48) of them.
//!
//! A packed weight is `[P, K, 48]` in f32, or `[P, ceil(K / 2), 48]` of pairs of bf16 numbers in u32 (the first of a pair in the low
//! half). Padding beyond N or K is zero. Every element of a product is summed in the order of K, for any number of rows and threads, so
//! a row does not depend on the other rows.

#![expect(unsafe_code, reason = "tasks write to columns of one matrix; the inner loop has no bounds checks")]

use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::bf16;
use crate::matmul::{Matrix, Precision};
use crate::simd::{LINE, prefetch};

/// Outputs of a panel: three vectors of AVX-512, whose products with 8 rows fill the registers.
pub(crate) const PANEL: usize = 48;
/// Block of inputs that all rows of a task process before the next block: its weights (147 KB) stay in the L2 cache.
const BLOCK: usize = 768;
/// Maximum rows per task; a multiple of 8.
const TASK_ROWS: usize = 128;

/// A weight `[K, N]` packed for products with few rows. Clones share the memory.
#[derive(Clone)]
pub struct PackedWeight {
    n_in: usize,
    n_out: usize,
    panels: Panels,
}

#[derive(Clone)]
enum Panels {
    F32(Arc<Vec<f32>>),
    Bf16(Arc<Vec<u32>>),
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedWeight[{}, {}; {:?}]", self.n_in, self.n_out, self.precision())
    }
}

impl PackedWeight {
    /// Packs a matrix `[K, N]` of f32 on the CPU, in any layout.
    ///
    /// # Errors
    /// If the weight is not such a matrix, or bf16 is requested on a CPU without it ([`Precision::check`]).
    pub fn new(weight: &Tensor, precision: Precision) -> Result<Self> {
        precision.check(weight.device())?;
        let (k, n) = weight.dims2()?;
        let (storage, layout) = weight.storage_and_layout();
        let data = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[layout.start_offset().min(data.len())..],
            _ => bail!(
                "packed weight: expected f32 on the CPU, got {:?} on {:?}",
                weight.dtype(),
                weight.device().location()
            ),
        };
        let (row_stride, column_stride) = (layout.stride()[0], layout.stride()[1]);
        let weight_kn = Matrix { data, rows: k, columns: n, row_stride, column_stride };
        let panels = match precision {
            Precision::F32 => {
                let mut packed = vec![0f32; n.div_ceil(PANEL) * k * PANEL];
                let tasks = packed.par_chunks_mut((k * PANEL).max(1)).enumerate();
                tasks.for_each(|(panel, packed)| pack_panel(weight_kn, panel * PANEL, packed));
                Panels::F32(packed.into())
            }
            Precision::Bf16 => Panels::Bf16(bf16::pack_right(weight_kn).into()),
        };
        Ok(Self { n_in: k, n_out: n, panels })
    }

    /// `(K, N)`.
    #[must_use]
    pub fn dims2(&self) -> (usize, usize) {
        (self.n_in, self.n_out)
    }

    /// The precision of its products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match self.panels {
            Panels::F32(_) => Precision::F32,
            Panels::Bf16(_) => Precision::Bf16,
        }
    }

    /// Refuses a precision other than that of this weight's products.
    pub(crate) fn check_precision(&self, precision: Precision) -> Result<()> {
        let packed = self.precision();
        match packed == precision {
            true => Ok(()),
            false => bail!("expected {packed:?}, in which the weight was packed, got {precision:?}"),
        }
    }

    /// `y = x W` for `m` rows, `y_stride` elements apart in `y`, on all threads of the current rayon pool. Panics if the shapes do not match.
    pub(crate) fn multiply(&self, x: &[f32], m: usize, y: &mut [f32], y_stride: usize) {
        let (k, n) = (self.n_in, self.n_out);
        let y_len = m.checked_sub(1).map_or(0, |rows| rows * y_stride + n);
        assert!(x.len() == m * k && n <= y_stride && y_len <= y.len(), "packed product: shapes");
        let blocks = m.div_ceil(TASK_ROWS);
        let target = Target(y.as_mut_ptr());
        let (pairs, left) = match self.panels {
            Panels::Bf16(_) => (k.div_ceil(2), bf16::pack_left(Matrix { rows: m, ..Matrix::new(x, k) })),
            Panels::F32(_) => (0, Vec::new()),
        };
        let task = |task: usize| {
            let (panel, first_row) = (task / blocks, task % blocks * TASK_ROWS);
            let rows = TASK_ROWS.min(m - first_row);
            let mut out = [0f32; TASK_ROWS * PANEL];
            let out = &mut out[..rows * PANEL];
            match &self.panels {
                Panels::F32(weight) => {
                    let (x, weight) = (&x[first_row * k..][..rows * k], &weight[panel * k * PANEL..]);
                    Arch::new().dispatch(Task { x, weight, k, out });
                }
                Panels::Bf16(weight) => {
                    let weight = &weight[panel * pairs * PANEL..][..pairs * PANEL];
                    bf16::multiply_panel(&left[first_row * pairs..], weight, out);
                }
            }
            let columns = PANEL.min(n - panel * PANEL);
            for (row, out) in out.chunks(PANEL).enumerate() {
                let at = (first_row + row) * y_stride + panel * PANEL;
                // SAFETY: `y` has `m` rows of `n` columns (checked above), these columns of these rows are in it, no other task writes to them,
                // and `y` is borrowed mutably until all tasks have ended.
                unsafe { target.write(at, &out[..columns]) };
            }
        };
        (0..n.div_ceil(PANEL) * blocks).into_par_iter().with_min_len(2).for_each(task);
    }
}

fn pack_panel(weight: Matrix<'_>, first: usize, packed: &mut [f32]) {
    let columns = PANEL.min(weight.columns - first);
    let at = |row: usize, column: usize| row * weight.row_stride + (first + column) * weight.column_stride;
    if weight.column_stride == 1 {
        for (row, packed) in packed.chunks_mut(PANEL).enumerate() {
            packed[..columns].copy_from_slice(&weight.data[at(row, 0)..][..columns]);
        }
    } else {
        // A few rows at a time, so that both sides stay in cache.
        for (block, packed) in packed.chunks_mut(LINE * PANEL).enumerate() {
            for column in 0..columns {
                for (row, packed) in packed.chunks_mut(PANEL).enumerate() {
                    packed[column] = weight.data[at(block * LINE + row, column)];
                }
            }
        }
    }
}

/// A matrix whose parts are written by several tasks.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: the pointer is only used by `write`, whose callers write disjoint parts.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The elements from `at` on must be inside the matrix, and not be accessed concurrently.
    #[inline(always)]
    unsafe fn write(&self, at: usize, values: &[f32]) {
        // SAFETY: guaranteed by the caller; `values` is borrowed, so it does not overlap the matrix.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(at), values.len()) };
    }
}

/// Some rows of a product for one panel: `out` `[rows, 48]`, initially zero.
struct Task<'a> {
    x: &'a [f32],
    /// From this panel to the end of the packed weight.
    weight: &'a [f32],
    k: usize,
    out: &'a mut [f32],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many accumulators as there are vector registers: 32 with AVX-512, 16 otherwise.
        match S::F32_LANES {
            16 => self.blocks::<S, 8, 3>(simd),
            _ => self.blocks::<S, 4, 3>(simd),
        }
    }
}

/// The position of a tile: its first row, its first column, and the inputs from `start` to `end`.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    column: usize,
    start: usize,
    end: usize,
}

impl Task<'_> {
    /// `R` rows and `V` vectors of columns at a time.
    #[inline(always)]
    fn blocks<S: Simd, const R: usize, const V: usize>(&mut self, simd: S) {
        let rows = self.out.len() / PANEL;
        for start in (0..self.k).step_by(BLOCK) {
            let end = self.k.min(start + BLOCK);
            for column in (0..PANEL).step_by(V * S::F32_LANES) {
                let mut row = 0;
                while row < rows {
                    let tile = Tile { row, column, start, end };
                    row += match rows - row {
                        1 => self.tile::<S, 1, V>(simd, tile),
                        2..4 => self.tile::<S, 2, V>(simd, tile),
                        rest if rest < R => self.tile::<S, 4, V>(simd, tile),
                        _ => self.tile::<S, R, V>(simd, tile),
                    };
                }
            }
        }
    }

    /// Adds to a tile of `out` and returns its rows.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, tile: Tile) -> usize {
        let Tile { row, column, start, end } = tile;
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * self.k..][start..end]);
        let (weights, next) = self.weight[start * PANEL..].split_at((end - start) * PANEL);
        let (weights, _) = weights.as_chunks::<PANEL>();
        // Prefetch the next weights while these are used, an equal share with every input: 3 cache lines.
        let lines = (PANEL / LINE).div_ceil((self.out.len() / PANEL).div_ceil(R));
        let fetched = row / R * lines * weights.len() * LINE;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let (out, _) = S::as_simd_f32s(&self.out[(row + r) * PANEL + column..][..V * S::F32_LANES]);
            sums.copy_from_slice(out);
        }
        for (i, weights) in weights.iter().enumerate() {
            let ahead = fetched + i * lines * LINE;
            prefetch(next, ahead);
            if lines > 1 {
                prefetch(next, ahead + LINE);
                prefetch(next, ahead + (lines - 1) * LINE);
            }
            let (weights, _) = S::as_simd_f32s(&weights[column..][..V * S::F32_LANES]);
            for r in 0..R {
                // SAFETY: there are as many elements in each row as there are rows of weights.
                let x = simd.splat_f32s(unsafe { *x[r].get_unchecked(i) });
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(x, weights[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(row + r) * PANEL + column..][..V * S::F32_LANES];
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        }
        R
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weight;
    use crate::testing::{assert_close, random};
    use candle_core::DType;

    /// Whole tiles and rests in each direction, one block of inputs and several, one task's rows and several.
    const SIZES: [(usize, usize, usize); 10] = [
        (0, 3, 2),
        (3, 0, 4),
        (2, 3, 0),
        (1, 1, 1),
        (1, 96, 64),
        (7, 49, 33),
        (8, 48, 768),
        (13, 200, 769),
        (32, 71, 1600),
        (261, 47, 20),
    ];

    fn pack(weight: &Tensor, precision: Precision) -> Result<Weight> {
        Ok(Weight::Packed(PackedWeight::new(weight, precision)?))
    }

    fn times(x: &Tensor, weight: &Weight) -> Result<Vec<f32>> {
        let mut y = vec![f32::NAN; 5];
        weight.product(x, &mut y)?;
        Ok(y)
    }

    fn rounded(x: &Tensor) -> Result<Tensor> {
        x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
    }

    #[test]
    fn products_equal_those_of_matrices() -> Result<()> {
        for (m, n, k) in SIZES {
            let (x, w) = (random(&[m, k], 1)?, random(&[k, n], 2)?);
            let transposed = if n * k == 0 { w.clone() } else { w.t()?.contiguous()?.t()? };
            for weight in [&w, &transposed] {
                let y = times(&x, &pack(weight, Precision::F32)?)?;
                assert_eq!(y.len(), m * n);
                if m * n * k == 0 {
                    assert!(y.iter().all(|y| *y == 0.0));
                    continue;
                }
                let close = |name: &str, y: Vec<f32>, x: &Tensor, w: &Tensor| -> Result<()> {
                    let y = Tensor::from_vec(y, (m, n), x.device())?;
                    assert_close(name, &y, &x.matmul(w)?, 1e-5 * (k as f32).sqrt(), 1e-5);
                    Ok(())
                };
                close("f32", y, &x, &w)?;
                if Precision::Bf16.check(x.device()).is_ok() {
                    let y = times(&x, &pack(weight, Precision::Bf16)?)?;
                    close("bf16", y, &rounded(&x)?, &rounded(&w)?)?;
                }
            }
        }
        Ok(())
    }

    /// A row's bits depend neither on the other rows nor on the threads.
    #[test]
    fn rows_do_not_depend_on_their_neighbours() -> Result<()> {
        let (m, n, k) = (139, 100, 900);
        let x = random(&[m, k], 1)?;
        for precision in [Precision::F32, Precision::Bf16] {
            if precision.check(x.device()).is_err() {
                continue;
            }
            let weight = pack(&random(&[k, n], 2)?, precision)?;
            let run = |threads: usize, x: &Tensor| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| times(x, &weight))
            };
            let all = run(1, &x)?;
            assert_eq!(all, run(3, &x)?);
            for (row, len) in [(0, 1), (5, 3), (100, 39), (138, 1)] {
                assert_eq!(run(2, &x.narrow(0, row, len)?)?, all[row * n..(row + len) * n]);
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let packed = pack(&random(&[5, 50], 1)?, Precision::F32)?;
        assert_eq!(packed.dims2()?, (5, 50));
        assert!(times(&random(&[2, 5], 1)?, &packed).is_ok());
        assert!(times(&random(&[2, 6], 1)?, &packed).is_err());
        assert!(times(&random(&[2, 5], 1)?.to_dtype(DType::F64)?, &packed).is_err());
        assert!(pack(&random(&[5], 1)?, Precision::F32).is_err());
        assert!(pack(&random(&[5, 5], 1)?.to_dtype(DType::F64)?, Precision::F32).is_err());
        assert!(packed.stored().unwrap_err().to_string().contains("packed for inference"));
        assert!(packed.pack(Precision::F32).is_ok());
        let error = packed.pack(Precision::Bf16).unwrap_err().to_string();
        assert!(error.contains("expected F32, in which the weight was packed, got Bf16"), "{error}");
        Ok(())
    }

    /// A weight that cannot be packed stays a matrix in f32, and is refused in bf16.
    #[test]
    fn other_types_are_not_packed() -> Result<()> {
        let (x, weight) =
            (random(&[2, 5], 1)?.to_dtype(DType::F64)?, random(&[5, 3], 2)?.to_dtype(DType::F64)?);
        let dense = Weight::from(weight.clone()).pack(Precision::F32)?;
        let want = x.matmul(&weight)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(times(&x, &dense)?, want);
        let error = Weight::from(weight).pack(Precision::Bf16).unwrap_err().to_string();
        assert!(error.contains("expected f32 on the CPU or CUDA, got F64"), "{error}");
        Ok(())
    }
}

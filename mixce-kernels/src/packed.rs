//! Products with weights that were packed beforehand: the matrix products of sampling.
//!
//! Decoding multiplies a few rows by every weight matrix, so it is as fast as the weights can be read. A general product copies
//! them into its own layout first, each time; and read in place, the rows of a matrix `[in, out]` lie a power of two apart, which
//! leaves most of the cache unused. Packed once, the weights of 48 outputs follow each other in memory in the order in which they
//! are multiplied.
//!
//! Legend: M rows, K inputs, N outputs; a *panel* is 48 outputs, P = ceil(N / 48) of them.
//!
//! A packed weight is a tensor: `[P, K, 48]` in f32, or `[P, ceil(K / 2), 48]` of pairs of bf16 numbers in u32 (the first of a pair
//! in the low half). What lies beyond N or K is zero. Every element of a product is summed in the order of K, however many rows
//! there are and on however many threads, so rows do not depend on their neighbours.

#![expect(
    unsafe_code,
    reason = "tasks write to columns of one matrix; the inner loop does without bounds checks"
)]

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::bf16;
use crate::cpu::{slice, with_slices};
use crate::matmul::{Matrix, Precision};
use crate::simd::{LINE, prefetch};

/// Outputs of a panel: three vectors of AVX-512, whose products with 8 rows fill the registers.
pub(crate) const PANEL: usize = 48;
/// Inputs that all rows of a task pass over before the next ones: their weights (147 KB) stay in the second-level cache.
const BLOCK: usize = 768;
/// Most rows of a task; a multiple of 8.
const TASK_ROWS: usize = 128;

/// Packs a weight `[K, N]` of f32 in any layout; on a device other than the CPU it stays as it is.
///
/// # Errors
/// When the weight is not a matrix of f32, or bf16 does not work here ([`Precision::check`]).
pub fn pack(weight: &Tensor, precision: Precision) -> Result<Tensor> {
    precision.check(weight.device())?;
    let (k, n) = weight.dims2()?;
    if !weight.device().is_cpu() {
        return Ok(weight.clone());
    }
    let (storage, layout) = weight.storage_and_layout();
    let data = match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => &data[layout.start_offset().min(data.len())..],
        _ => bail!("pack: expected a weight of f32, got {:?}", weight.dtype()),
    };
    let (row_stride, column_stride) = (layout.stride()[0], layout.stride()[1]);
    let weight_kn = Matrix { data, rows: k, columns: n, row_stride, column_stride };
    let panels = n.div_ceil(PANEL);
    match precision {
        Precision::F32 => {
            let mut packed = vec![0f32; panels * k * PANEL];
            let tasks = packed.par_chunks_mut((k * PANEL).max(1)).enumerate();
            tasks.for_each(|(panel, packed)| pack_panel(weight_kn, panel * PANEL, packed));
            Tensor::from_vec(packed, (panels, k, PANEL), weight.device())
        }
        Precision::Bf16 => {
            let packed = bf16::pack_right(weight_kn);
            Tensor::from_vec(packed, (panels, k.div_ceil(2), PANEL), weight.device())
        }
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
        // A few rows at a time, so that both sides stay in the cache.
        for (block, packed) in packed.chunks_mut(LINE * PANEL).enumerate() {
            for column in 0..columns {
                for (row, packed) in packed.chunks_mut(PANEL).enumerate() {
                    packed[column] = weight.data[at(block * LINE + row, column)];
                }
            }
        }
    }
}

/// `y = x W`: `x` `[M, K]` f32, `weight` packed by [`pack`] from `[K, N]`, with N given as `n_out`; `y` becomes `[M, N]`, row after
/// row, whatever it was.
///
/// # Errors
/// When the shapes do not fit or a tensor is not on the CPU.
pub fn product(x: &Tensor, weight: &Tensor, n_out: usize, y: &mut Vec<f32>) -> Result<()> {
    let (m, k) = x.dims2()?;
    check(weight, k, n_out)?;
    y.resize(m * n_out, 0.0);
    with_slices("packed product", [x], |[x]| {
        with_weight("packed product", weight, |weight| multiply(x, weight, (m, n_out, k), y))
    })?
}

/// Whether a weight was packed: those of affine maps are matrices otherwise.
pub(crate) fn is_packed(weight: &Tensor) -> bool {
    weight.rank() == 3
}

/// Refuses a packed weight that is not one of `[k, n]`.
pub(crate) fn check(weight: &Tensor, k: usize, n: usize) -> Result<()> {
    let inner = if weight.dtype() == DType::U32 { k.div_ceil(2) } else { k };
    let expected = [n.div_ceil(PANEL), inner, PANEL];
    match weight.dims() == expected {
        true => Ok(()),
        false => bail!("expected a packed weight {expected:?} of [{k}, {n}], got {:?}", weight.dims()),
    }
}

/// The weight of an affine map `[K, N]` as products read it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    /// Row-major.
    InOut(&'a [f32]),
    /// `[P, K, 48]`.
    Packed(&'a [f32]),
    /// `[P, ceil(K / 2), 48]`.
    PackedBf16(&'a [u32]),
}

/// Runs `f` on a weight on the CPU, packed or not.
pub(crate) fn with_weight<T>(
    op: &'static str,
    weight: &Tensor,
    f: impl FnOnce(Weight<'_>) -> T,
) -> Result<T> {
    let weight = weight.contiguous()?;
    let (storage, layout) = weight.storage_and_layout();
    let weight = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U32(data)), Some((start, end))) => Weight::PackedBf16(&data[start..end]),
        (Storage::Cpu(data), _) if layout.dims().len() == 3 => Weight::Packed(slice(op, data, layout)?),
        (Storage::Cpu(data), _) => Weight::InOut(slice(op, data, layout)?),
        _ => bail!("{op}: expected a CPU tensor"),
    };
    Ok(f(weight))
}

/// `y = x W` for a packed weight, on all threads of the current rayon pool. The shapes are the caller's arithmetic.
pub(crate) fn multiply(x: &[f32], weight: Weight<'_>, (m, n, k): (usize, usize, usize), y: &mut [f32]) {
    assert!(x.len() == m * k && y.len() == m * n, "packed product: shapes");
    let (blocks, target) = (m.div_ceil(TASK_ROWS), Target(y.as_mut_ptr()));
    let (pairs, left) = match weight {
        Weight::PackedBf16(_) => (k.div_ceil(2), bf16::pack_left(Matrix { rows: m, ..Matrix::new(x, k) })),
        _ => (0, Vec::new()),
    };
    let task = |task: usize| {
        let (panel, first_row) = (task / blocks, task % blocks * TASK_ROWS);
        let rows = TASK_ROWS.min(m - first_row);
        let mut out = [0f32; TASK_ROWS * PANEL];
        let out = &mut out[..rows * PANEL];
        match weight {
            Weight::Packed(weight) => {
                let (x, weight) = (&x[first_row * k..][..rows * k], &weight[panel * k * PANEL..]);
                Arch::new().dispatch(Task { x, weight, k, out });
            }
            Weight::PackedBf16(weight) => {
                let weight = &weight[panel * pairs * PANEL..][..pairs * PANEL];
                bf16::multiply_panel(&left[first_row * pairs..], weight, out);
            }
            Weight::InOut(_) => unreachable!("the caller has packed it"),
        }
        let columns = PANEL.min(n - panel * PANEL);
        for (row, out) in out.chunks(PANEL).enumerate() {
            let at = (first_row + row) * n + panel * PANEL;
            // SAFETY: `y` has `m` rows of `n` columns, these columns of these rows are in it, no other task writes to them, and
            // `y` is borrowed mutably until all tasks have ended.
            unsafe { target.write(at, &out[..columns]) };
        }
    };
    (0..n.div_ceil(PANEL) * blocks).into_par_iter().with_min_len(2).for_each(task);
}

/// A matrix to whose parts several tasks write.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: the pointer is used by `write` alone, whose callers keep to parts of their own.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The elements from `at` on must lie in the matrix, and nobody else may use them meanwhile.
    #[inline(always)]
    unsafe fn write(&self, at: usize, values: &[f32]) {
        // SAFETY: as the caller promises; `values` is borrowed, so it is not part of the matrix.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(at), values.len()) };
    }
}

/// Some rows of a product for one panel: `out` `[rows, 48]`, zero before.
struct Task<'a> {
    x: &'a [f32],
    /// From the panel on to the end of the packed weight.
    weight: &'a [f32],
    k: usize,
    out: &'a mut [f32],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many sums as there are vector registers for: 32 with AVX-512, 16 otherwise.
        match S::F32_LANES {
            16 => self.blocks::<S, 8, 3>(simd),
            _ => self.blocks::<S, 4, 3>(simd),
        }
    }
}

/// Where a tile lies: its first row, its first column, and the inputs from `start` to `end`.
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
        // While the rows read these weights, the next ones are fetched, an equal share with every input: that takes 3 lines.
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
    use crate::testing::{assert_close, random};

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

    fn times(x: &Tensor, weight: &Tensor, n_out: usize) -> Result<Vec<f32>> {
        let mut y = vec![f32::NAN; 5];
        product(x, weight, n_out, &mut y)?;
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
                let y = times(&x, &pack(weight, Precision::F32)?, n)?;
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
                    let y = times(&x, &pack(weight, Precision::Bf16)?, n)?;
                    close("bf16", y, &rounded(&x)?, &rounded(&w)?)?;
                }
            }
        }
        Ok(())
    }

    /// A row's bits depend neither on the rows beside it nor on the threads.
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
                pool.install(|| times(x, &weight, n))
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
        assert!(times(&random(&[2, 5], 1)?, &packed, 50).is_ok());
        assert!(times(&random(&[2, 6], 1)?, &packed, 50).is_err());
        assert!(times(&random(&[2, 5], 1)?, &packed, 97).is_err());
        assert!(times(&random(&[2, 5], 1)?, &random(&[5, 50], 1)?, 50).is_err());
        assert!(pack(&random(&[5], 1)?, Precision::F32).is_err());
        assert!(pack(&random(&[5, 5], 1)?.to_dtype(DType::F64)?, Precision::F32).is_err());
        Ok(())
    }
}

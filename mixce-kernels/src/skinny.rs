//! Products with few rows on the left: the matrix products of decoding.
//!
//! With a handful of rows a product is as fast as the weights can be read. A general product first copies them into its own
//! layout, which costs more than the arithmetic; here they are read once, in place, in two layouts: `x W` with `W` `[k, n]`
//! (Conv1D), and `x W^T` with `W` `[n, k]` (the LM head).

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "prefetching takes an address"))]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows on the left: a single one is the general product's business, which has a kernel for vectors.
pub(crate) const ROWS: std::ops::RangeInclusive<usize> = 2..=64;
/// Columns of the result that a task computes.
const PANEL: usize = 64;
/// Rows of `[k, n]` weights that all rows of `x` pass over before the next ones: a panel of them (256 KB) stays in a core's
/// second-level cache, beside the one that is being fetched.
const BLOCK: usize = 1024;
/// f32 numbers of a cache line.
const LINE: usize = 16;

/// How the weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[k, n]`, row-major.
    InOut,
    /// `[n, k]`, row-major.
    OutIn,
}

/// `dst = x W`, or `dst += x W`: `x` `[m, k]` and `dst` `[m, n]` row-major, the latter with rows `dst_stride` apart.
pub(crate) fn product(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    x: &[f32],
    (w, layout): (&[f32], Layout),
    (m, n, k): (usize, usize, usize),
) {
    let first_columns: Vec<usize> = (0..n).step_by(PANEL).collect();
    let panel = |first: &usize| {
        let mut out = vec![0f32; m * PANEL];
        let columns = PANEL.min(n - first);
        let (w, stride) = match layout {
            Layout::InOut => (&w[*first..], n),
            Layout::OutIn => (&w[first * k..], k),
        };
        Arch::new().dispatch(Panel { x, w, stride, layout, sizes: (m, k), columns, out: &mut out });
        out
    };
    let panels: Vec<Vec<f32>> = first_columns.par_iter().with_min_len(4).map(panel).collect();
    for (row, dst) in dst.chunks_mut(dst_stride).take(m).enumerate() {
        for (dst, panel) in dst[..n].chunks_mut(PANEL).zip(&panels) {
            let values = &panel[row * PANEL..][..dst.len()];
            if accumulate {
                dst.iter_mut().zip(values).for_each(|(dst, value)| *dst += value);
            } else {
                dst.copy_from_slice(values);
            }
        }
    }
}

/// A few columns of a product, into `out` `[m, PANEL]`; `w` begins with their weights.
struct Panel<'a> {
    x: &'a [f32],
    w: &'a [f32],
    /// Elements between the rows of `w`.
    stride: usize,
    layout: Layout,
    /// `(m, k)`.
    sizes: (usize, usize),
    columns: usize,
    out: &'a mut [f32],
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many accumulators as there are vector registers: 32 with AVX-512, 16 otherwise.
        match (self.layout, S::F32_LANES) {
            (Layout::InOut, 16) => self.in_out::<S, 6, 4>(simd),
            (Layout::InOut, _) => self.in_out::<S, 4, 2>(simd),
            (Layout::OutIn, 16) => self.out_in::<S, 6, 4>(simd),
            (Layout::OutIn, _) => self.out_in::<S, 4, 2>(simd),
        }
    }
}

/// Part of a panel: some rows of `x` from `row` on, the vectors of columns from `column` on.
struct Tile {
    row: usize,
    column: usize,
    /// The rows of the weights.
    inner: Range<usize>,
    /// Where in the first row of the weights that come next the share lies that is fetched on the way.
    fetched: Range<usize>,
}

/// Asks for the cache line of an element, which need not exist.
#[inline(always)]
fn prefetch(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which does not touch memory: any address will do. The instruction is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(data.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

impl Panel<'_> {
    /// `R` rows and `V` vectors of columns at a time.
    #[inline(always)]
    fn in_out<S: Simd, const R: usize, const V: usize>(&mut self, simd: S) {
        let (m, k) = self.sizes;
        let width = V * S::F32_LANES;
        let whole = self.columns / width * width;
        for start in (0..k).step_by(BLOCK) {
            let end = k.min(start + BLOCK);
            let next = if end < k { end * self.stride } else { PANEL };
            for column in (0..whole).step_by(width) {
                let mut row = 0;
                while row < m {
                    let rows = if row + R <= m { R } else { 2.min(m - row) };
                    let line = |row: usize| next + (row * PANEL / m).next_multiple_of(LINE);
                    let tile = Tile { row, column, inner: start..end, fetched: line(row)..line(row + rows) };
                    match rows {
                        1 => self.in_out_tile::<S, 1, V>(simd, tile),
                        2 => self.in_out_tile::<S, 2, V>(simd, tile),
                        _ => self.in_out_tile::<S, R, V>(simd, tile),
                    }
                    row += rows;
                }
            }
        }
        if whole < self.columns {
            self.in_out_rest(whole);
        }
    }

    /// Adds a tile's products to `out`, and fetches its share of the weights that come next: they lie `stride` apart, which no
    /// hardware foresees.
    #[inline(always)]
    fn in_out_tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, tile: Tile) {
        let ((_, k), stride, Tile { row, column, inner, fetched }) = (self.sizes, self.stride, tile);
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * k..][..k]);
        let mut sums: [[S::f32s; V]; R] = std::array::from_fn(|r| {
            let (out, _) = S::as_simd_f32s(&self.out[(row + r) * PANEL + column..][..V * S::F32_LANES]);
            std::array::from_fn(|v| out[v])
        });
        for (ahead, i) in inner.enumerate() {
            for at in fetched.clone().step_by(LINE) {
                prefetch(self.w, ahead * stride + at);
            }
            let weights = &self.w[i * stride + column..][..V * S::F32_LANES];
            let (weights, _) = S::as_simd_f32s(weights);
            for r in 0..R {
                let x = simd.splat_f32s(x[r][i]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(x, weights[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(row + r) * PANEL + column..][..V * S::F32_LANES];
            let (out, _) = S::as_mut_simd_f32s(out);
            out.copy_from_slice(sums);
        }
    }

    /// The columns from `whole` on, which do not fill a tile.
    #[inline(always)]
    fn in_out_rest(&mut self, whole: usize) {
        let ((m, k), stride) = (self.sizes, self.stride);
        for row in 0..m {
            let out = &mut self.out[row * PANEL + whole..row * PANEL + self.columns];
            for (i, x) in self.x[row * k..][..k].iter().enumerate() {
                let weights = &self.w[i * stride + whole..];
                out.iter_mut().zip(weights).for_each(|(out, weight)| *out += x * weight);
            }
        }
    }

    /// `R` rows and `V` columns at a time, whose sums run over vectors of `k`.
    #[inline(always)]
    fn out_in<S: Simd, const R: usize, const V: usize>(&mut self, simd: S) {
        let (m, _) = self.sizes;
        let whole = self.columns / V * V;
        for column in 0..self.columns {
            let in_tile = column < whole;
            if in_tile && !column.is_multiple_of(V) {
                continue;
            }
            let mut row = 0;
            while row < m {
                let rows = if row + R <= m { R } else { 2.min(m - row) };
                match (rows, in_tile) {
                    (1, true) => self.out_in_tile::<S, 1, V>(simd, row, column),
                    (2, true) => self.out_in_tile::<S, 2, V>(simd, row, column),
                    (_, true) => self.out_in_tile::<S, R, V>(simd, row, column),
                    (1, false) => self.out_in_tile::<S, 1, 1>(simd, row, column),
                    (2, false) => self.out_in_tile::<S, 2, 1>(simd, row, column),
                    (_, false) => self.out_in_tile::<S, R, 1>(simd, row, column),
                }
                row += rows;
            }
        }
    }

    #[inline(always)]
    fn out_in_tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize, column: usize) {
        let (_, k) = self.sizes;
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * k..][..k]);
        let w: [&[f32]; V] = std::array::from_fn(|v| &self.w[(column + v) * self.stride..][..k]);
        let (x, x_rest) = (x.map(|x| S::as_simd_f32s(x).0), x.map(|x| S::as_simd_f32s(x).1));
        let (w, w_rest) = (w.map(|w| S::as_simd_f32s(w).0), w.map(|w| S::as_simd_f32s(w).1));
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for i in 0..k / S::F32_LANES {
            for r in 0..R {
                let x = x[r][i];
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(x, w[v][i], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                let rest: f32 = x_rest[r].iter().zip(w_rest[v]).map(|(x, w)| x * w).sum();
                self.out[(row + r) * PANEL + column + v] = simd.reduce_sum_f32s(sums[r][v]) + rest;
            }
        }
    }
}

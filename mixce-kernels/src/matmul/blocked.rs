//! A matrix product of two large sides, as training has them.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), with the sides exchanged
//! because matrices are row-major: a *tile* of R rows and W columns of the destination is computed in registers, from a *sliver*
//! (R rows of the left side), which stays in the L1 cache, and a *panel* (W columns of the right side). [`GROUP`] panels stay in the L2
//! cache while all slivers of a task pass by. Slivers and panels are packed ([`super::pack`]), [`DEPTH`] terms of the sums at a time.
//!
//! Every element is the sum of the sums over these depths, each in order; it depends neither on the number of threads nor on other
//! rows or columns.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};
use rayon::prelude::*;

use super::Matrix;
use super::pack::{pack_panels, pack_sliver};
use crate::simd::{LINE, prefetch_near};

/// Most terms of a sum between two accesses to the destination.
pub(super) const DEPTH: usize = 384;
/// Vectors in a row of a tile. With 8 rows (AVX-512) or 4 (AVX2) the sums, a row of a panel and a broadcast number fill the registers.
const VECTORS: usize = 3;
/// Most panels of a group: 590 KB with AVX-512, half of that with AVX2.
const GROUP: usize = 8;
/// Most numbers of packed slivers (16 MB), unless one sliver has more.
const MAX_LEFT: usize = 1 << 22;
/// Fewest rows of a task, so that packing its panels is a small part of its work.
const TASK_ROWS: usize = 64;
/// Terms of the sums in an iteration of the inner loop.
const UNROLL: usize = 4;
/// How many terms ahead the panel is prefetched into the L1 cache.
const AHEAD: usize = 16;

/// Whether packing pays for a product of these sizes `[m, k] x [k, n]`.
pub(super) fn pays(m: usize, n: usize, k: usize) -> bool {
    m >= TASK_ROWS && n >= 192 && k >= 128
}

/// `dst = lhs rhs`, or `dst += lhs rhs`, on all threads of the current rayon pool. Rows of `dst` begin `stride` elements apart.
///
/// Panics if the inner dimensions differ, a matrix exceeds its slice or one is empty.
pub(super) fn product(
    dst: &mut [f32],
    (stride, accumulate): (usize, bool),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    Arch::new().dispatch(Product::new(dst, (stride, accumulate), lhs, rhs));
}

struct Product<'a> {
    dst: Target,
    accumulate: bool,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
}

impl<'a> Product<'a> {
    fn new(dst: &mut [f32], (stride, accumulate): (usize, bool), lhs: Matrix<'a>, rhs: Matrix<'a>) -> Self {
        let (m, n) = (lhs.rows, rhs.columns);
        assert!(lhs.columns == rhs.rows && lhs.fits() && rhs.fits(), "product: operands");
        assert!(m > 0 && n > 0 && lhs.columns > 0 && n <= stride, "product: sizes");
        assert!((m - 1) * stride + n <= dst.len(), "product: destination");
        Self { dst: Target { data: dst.as_mut_ptr(), stride }, accumulate, lhs, rhs }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.bands::<S, 8, 48>(simd),
            8 => self.bands::<S, 4, 24>(simd),
            4 => self.bands::<S, 4, 12>(simd),
            _ => self.bands::<S, 4, 3>(simd),
        }
    }
}

/// How a product is divided.
#[derive(Clone, Copy)]
struct Division {
    /// Steps along the sums, and most terms of one.
    steps: usize,
    depth: usize,
    /// Panels of the right side, and most of a group.
    panels: usize,
    per_group: usize,
}

impl Division {
    fn new(n: usize, k: usize, width: usize) -> Self {
        let depth = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(UNROLL);
        let panels = n.div_ceil(width);
        let per_group = panels.div_ceil(panels.div_ceil(GROUP));
        Self { steps: k.div_ceil(depth), depth, panels, per_group }
    }

    fn groups(&self) -> usize {
        self.panels.div_ceil(self.per_group)
    }

    /// Parts of `rows` rows such that the tasks, one for each group and part, divide evenly among the threads.
    fn parts(&self, rows: usize) -> usize {
        let (groups, threads) = (self.groups(), rayon::current_num_threads());
        let even = (1..=threads).find(|parts| (groups * parts).is_multiple_of(threads)).unwrap_or(1);
        let enough = (4 * threads).div_ceil(groups);
        even.min(enough).min(rows.div_ceil(TASK_ROWS)).max(1)
    }
}

impl Product<'_> {
    /// Packs a band of the left side, as many rows as fit into the buffer, and multiplies it by the right side.
    #[inline(always)]
    fn bands<S: Simd, const R: usize, const W: usize>(self, simd: S) {
        let (m, k) = (self.lhs.rows, self.lhs.columns);
        let division = Division::new(self.rhs.columns, k, W);
        let Division { steps, depth, .. } = division;
        let tall = (MAX_LEFT / (steps * DEPTH) / R * R).clamp(R, m.next_multiple_of(R));
        with_buffer(&LEFT, tall * steps * DEPTH, |slivers| {
            for first_row in (0..m).step_by(tall) {
                let rows = tall.min(m - first_row);
                let count = rows.div_ceil(R);
                let packed = &mut slivers[..count * steps * R * DEPTH];
                packed.par_chunks_mut(R * DEPTH).with_min_len(8).enumerate().for_each(|(at, sliver)| {
                    let (start, row) = (at / count * depth, first_row + at % count * R);
                    let depth = depth.min(k - start);
                    simd.vectorize(|| pack_sliver::<R>(self.lhs, row, start, depth, sliver));
                });
                let band = Band { product: &self, division, first_row, rows, slivers: packed };
                let parts = division.parts(rows);
                (0..division.groups() * parts)
                    .into_par_iter()
                    .for_each(|task| band.task::<S, R, W>(simd, task / parts, (task % parts, parts)));
            }
        });
    }
}

/// Some rows of a product, whose left side is packed: `steps` times all its slivers.
struct Band<'a> {
    product: &'a Product<'a>,
    division: Division,
    first_row: usize,
    rows: usize,
    slivers: &'a [f32],
}

impl Band<'_> {
    /// A part of the rows times a group of panels.
    #[inline(always)]
    fn task<S: Simd, const R: usize, const W: usize>(
        &self,
        simd: S,
        group: usize,
        (part, parts): (usize, usize),
    ) {
        let Division { steps, depth, panels, per_group } = self.division;
        let rhs = self.product.rhs;
        let count = self.rows.div_ceil(R);
        let per_part = count.div_ceil(parts);
        let (first_panel, k) = (group * per_group, rhs.rows);
        let here = per_group.min(panels - first_panel);
        with_buffer(&RIGHT, here * W * depth, |packed| {
            for step in 0..steps {
                let packed = &mut packed[..here * W * depth.min(k - step * depth)];
                let slivers = part * per_part..count.min((part + 1) * per_part);
                simd.vectorize(Step::<S, R, W> { simd, band: self, step, slivers, first_panel, packed });
            }
        });
    }

    /// The tile of `dst` from row and column `at` on, which may end within it.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const W: usize>(
        &self,
        simd: S,
        (left, right): (&[f32], &[f32]),
        at: (usize, usize),
        add: bool,
    ) {
        let Product { dst, lhs, rhs, .. } = self.product;
        let (rows, columns) = (R.min(lhs.rows - at.0), W.min(rhs.columns - at.1));
        // SAFETY: these rows and columns are in `dst` (checked by `Product::new`), and no other task writes to them.
        unsafe {
            if rows == R && columns == W {
                return add_tile::<S, R>(simd, left, right, dst.at(at), dst.stride, add);
            }
            // Never larger than with AVX-512.
            let mut whole = [0f32; 8 * 48];
            add_tile::<S, R>(simd, left, right, whole.as_mut_ptr(), W, false);
            for (row, sums) in whole.chunks(W).take(rows).enumerate() {
                let dst = std::slice::from_raw_parts_mut(dst.at((at.0 + row, at.1)), columns);
                dst.iter_mut().zip(sums).for_each(|(dst, sum)| *dst = if add { *dst + sum } else { *sum });
            }
        }
    }
}

/// Packs a group of panels and multiplies some slivers by them, in one step along the sums. Not a closure: the way `FnOnce` calls one
/// need not be inlined, and what is not inlined is compiled without the vector instructions of `vectorize`.
struct Step<'a, S, const R: usize, const W: usize> {
    simd: S,
    band: &'a Band<'a>,
    step: usize,
    slivers: Range<usize>,
    first_panel: usize,
    packed: &'a mut [f32],
}

impl<S: Simd, const R: usize, const W: usize> NullaryFnOnce for Step<'_, S, R, W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, band, step, packed, .. } = self;
        let Product { rhs, accumulate, .. } = *band.product;
        let count = band.rows.div_ceil(R);
        let start = step * band.division.depth;
        let depth = band.division.depth.min(rhs.rows - start);
        pack_panels::<W>(rhs, self.first_panel * W, start, depth, packed);
        for sliver in self.slivers {
            let left = &band.slivers[(step * count + sliver) * R * DEPTH..][..R * DEPTH];
            for (panel, right) in packed.chunks(W * depth).enumerate() {
                let at = (band.first_row + sliver * R, (self.first_panel + panel) * W);
                band.tile::<S, R, W>(simd, (left, right), at, accumulate || step > 0);
            }
        }
    }
}

/// `dst = left right`, or `dst += left right`, for a sliver and a panel.
///
/// # Safety
/// R rows of [`VECTORS`] vectors, `stride` elements apart, must lie inside the allocation of `dst` and not be accessed by anyone else
/// meanwhile.
#[inline(always)]
unsafe fn add_tile<S: Simd, const R: usize>(
    simd: S,
    left: &[f32],
    right: &[f32],
    dst: *mut f32,
    stride: usize,
    add: bool,
) {
    let (vectors, rest) = S::as_simd_f32s(right);
    let depth = vectors.len() / VECTORS;
    assert!(left.len() == R * DEPTH && depth <= DEPTH && rest.is_empty(), "tile: sizes");
    for r in 0..R {
        for v in 0..VECTORS {
            prefetch_near(dst.wrapping_add(r * stride + v * S::F32_LANES));
        }
    }
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
    let unrolled = depth / UNROLL * UNROLL;
    // SAFETY: `i` is less than `depth`: the panel has as many rows and the sliver at least as many columns.
    unsafe {
        for start in (0..unrolled).step_by(UNROLL) {
            for i in start..start + UNROLL {
                add_term(simd, &mut sums, left, vectors, i);
            }
        }
        for i in unrolled..depth {
            add_term(simd, &mut sums, left, vectors, i);
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe {
                let at = dst.add(r * stride + v * S::F32_LANES).cast::<S::f32s>();
                let sum = if add { simd.add_f32s(at.read_unaligned(), sum) } else { sum };
                at.write_unaligned(sum);
            }
        }
    }
}

/// Adds the `i`th term of each sum of a tile.
///
/// Here and above loops are not written with `for_each`, whose calls need not be inlined either.
///
/// # Safety
/// The panel `right` must have more than `i` rows.
#[inline(always)]
unsafe fn add_term<S: Simd, const R: usize>(
    simd: S,
    sums: &mut [[S::f32s; VECTORS]; R],
    left: &[f32],
    right: &[S::f32s],
    i: usize,
) {
    // SAFETY: promised by the caller; a sliver has at least as many columns as a panel has rows.
    unsafe {
        let row: [S::f32s; VECTORS] = std::array::from_fn(|v| *right.get_unchecked(i * VECTORS + v));
        for v in 0..VECTORS {
            prefetch_near(right.as_ptr().wrapping_add((i + AHEAD) * VECTORS + v).cast());
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = simd.splat_f32s(*left.get_unchecked(r * DEPTH + i));
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add_f32s(x, y, *sum);
            }
        }
    }
}

/// A row-major matrix whose parts are written by several tasks.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    stride: usize,
}

// SAFETY: the pointer is only used by `Band::tile`, and different tasks write to different tiles.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    #[inline(always)]
    fn at(&self, (row, column): (usize, usize)) -> *mut f32 {
        self.data.wrapping_add(row * self.stride + column)
    }
}

thread_local! {
    static LEFT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `f` on a buffer of `n` numbers, aligned to cache lines, that the thread keeps: new memory would have to be zeroed by the
/// kernel. What the buffer contains is unspecified. A product that a waiting thread begins inside another one gets a new buffer.
#[inline(always)]
fn with_buffer<T>(kept: &'static LocalKey<Cell<Vec<f32>>>, n: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = kept.take();
    if buffer.len() < n + LINE {
        buffer.resize(n + LINE, 0.0);
    }
    let skipped = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = f(&mut buffer[skipped..][..n]);
    kept.set(buffer);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| Stream::new(seed).normal(i) as f32).collect()
    }

    /// Computes `product` with the given instructions.
    fn run(product: Product<'_>, lanes: usize) -> bool {
        match lanes {
            #[cfg(target_arch = "x86_64")]
            16 => pulp::x86::V4::try_new().map(|simd| product.with_simd(simd)).is_some(),
            #[cfg(target_arch = "x86_64")]
            8 => pulp::x86::V3::try_new().map(|simd| product.with_simd(simd)).is_some(),
            1 => {
                product.with_simd(pulp::Scalar::new());
                true
            }
            _ => false,
        }
    }

    /// Parts of tiles, whole tiles, several groups and several steps, in every layout and with all instructions of this machine.
    #[test]
    fn every_layout_equals_the_triple_loop() {
        for (m, n, k) in [(1, 1, 1), (9, 50, 5), (16, 96, 384), (70, 430, 33), (13, 30, 800)] {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let want: Vec<f64> = (0..m * n)
                .map(|at| (0..k).map(|l| f64::from(a[at / n * k + l]) * f64::from(b[l * n + at % n])).sum())
                .collect();
            let stride = n + 3;
            for lhs in [Matrix::new(&a, k), Matrix::new(&at, m).t()] {
                for rhs in [Matrix::new(&b, n), Matrix::new(&bt, k).t()] {
                    for (accumulate, lanes) in [(false, 16), (true, 16), (false, 8), (true, 8), (true, 1)] {
                        let mut dst = vec![0.5f32; m * stride];
                        if !run(Product::new(&mut dst, (stride, accumulate), lhs, rhs), lanes) {
                            continue;
                        }
                        for (at, got) in dst.iter().enumerate() {
                            let (i, j) = (at / stride, at % stride);
                            let product = if j < n { want[i * n + j] } else { 0.0 };
                            let want = product + if accumulate || j >= n { 0.5 } else { 0.0 };
                            let near = (f64::from(*got) - want).abs() < 2e-5 * (k as f64).sqrt();
                            assert!(near, "{m} x {k} x {n}, {lanes} lanes, ({i}, {j}): {got} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_depends_neither_on_threads_nor_on_other_rows_and_columns() {
        let (m, n, k) = (150, 700, 500);
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let multiply = |threads, rows, columns| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut dst = vec![0f32; m * n];
            let (lhs, rhs) = (Matrix::new(&a[..rows * k], k), Matrix::new(&b, n).columns(0, columns));
            pool.install(|| product(&mut dst, (n, false), lhs, rhs));
            dst
        };
        let whole = multiply(1, m, n);
        for threads in [2, 3, 7] {
            assert!(whole == multiply(threads, m, n), "{threads} threads");
        }
        let part = multiply(2, 33, 97);
        for row in 0..33 {
            assert_eq!(whole[row * n..][..97], part[row * n..][..97], "row {row}");
        }
    }
}

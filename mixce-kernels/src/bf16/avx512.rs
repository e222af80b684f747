//! Products on CPUs with AVX512-BF16.
//!
//! The right side is packed once, for all rows; then each task takes some rows of the left side, packs them a few columns at a
//! time, and multiplies them with the packed right side. Every element is summed in the order of `k`, whatever the threads.
//!
//! Legend: `dst` `[M, N]`, left side `[M, K]`, right side `[K, N]`; a *lane* is a row of the left or a column of the right side.

#![expect(unsafe_code, reason = "vector instructions behind a run-time check")]

use std::arch::x86_64::*;
use std::cell::Cell;

use rayon::prelude::*;

use crate::matmul::Matrix;

/// Rows and columns of the register tile: 8 x 3 vectors of 16 accumulators, out of 32 registers.
const ROWS: usize = 8;
const COLUMNS: usize = super::PANEL;
/// Pairs of `k` that are multiplied before the sums are stored: a panel of the right side (24 KB) stays in the L1 cache.
const PAIRS: usize = 128;
/// Maximum rows per task: its packed rows (64 KB) stay in the L2 cache.
const TASK_ROWS: usize = 128;
/// Maximum bytes of the packed right side, which all tasks read: it stays in the last-level cache.
const PACKED_BYTES: usize = 8 << 20;

/// [`super::product`] on a CPU that [`super::is_available`].
pub(super) fn product(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let pairs = lhs.columns.div_ceil(2);
    let panel_len = pairs * COLUMNS;
    let step = (PACKED_BYTES / 4 / panel_len.max(1)).max(1) * COLUMNS;
    // Few rows are split more finely, so that all threads have work.
    let share = lhs.rows.div_ceil(2 * rayon::current_num_threads());
    let task_rows = share.max(1).next_multiple_of(ROWS).min(TASK_ROWS);
    for first in (0..rhs.columns).step_by(step) {
        let part = rhs.columns(first, step.min(rhs.columns - first));
        let mut packed = Scratch::take(&RIGHT, part.columns.div_ceil(COLUMNS) * panel_len);
        pack_right(part, &mut packed.0);
        let rows = dst[first..].par_chunks_mut(task_rows * dst_stride).enumerate();
        rows.take(lhs.rows.div_ceil(task_rows)).for_each(|(task, dst)| {
            let rows = (task * task_rows, task_rows.min(lhs.rows - task * task_rows));
            multiply(dst, (dst_stride, accumulate), (lhs, rows), (&packed.0, part.columns));
        });
    }
}

/// Packs all columns of a right side, panel after panel.
pub(super) fn pack_right(rhs: Matrix<'_>, packed: &mut [u32]) {
    let pairs = rhs.rows.div_ceil(2);
    let panels = packed.par_chunks_mut((pairs * COLUMNS).max(1)).enumerate();
    // SAFETY: the callers have checked that the instructions exist.
    panels.for_each(|(panel, packed)| unsafe {
        pack::<COLUMNS>(rhs.t(), panel * COLUMNS, (0, pairs), packed);
    });
}

/// Packs all rows of a left side, 8 after 8.
pub(super) fn pack_left(lhs: Matrix<'_>) -> Vec<u32> {
    let len = lhs.columns.div_ceil(2) * ROWS;
    let mut packed = vec![0; lhs.rows.div_ceil(ROWS) * len];
    let tiles = packed.par_chunks_mut(len.max(1)).enumerate();
    // SAFETY: the caller has checked that the instructions exist.
    tiles.for_each(|(tile, packed)| unsafe { pack::<ROWS>(lhs, tile * ROWS, (0, len / ROWS), packed) });
    packed
}

/// [`super::multiply_panel`] on a CPU that [`super::is_available`].
pub(super) fn multiply_panel(left: &[u32], right: &[u32], out: &mut [f32]) {
    let (rows, pairs) = (out.len() / COLUMNS, right.len() / COLUMNS);
    for start in (0..pairs).step_by(PAIRS) {
        let len = PAIRS.min(pairs - start);
        let right = &right[start * COLUMNS..][..len * COLUMNS];
        for row in (0..rows).step_by(ROWS) {
            // The 8 rows from `row` on begin after the pairs of those before them.
            let left = &left[row * pairs + start * ROWS..][..len * ROWS];
            let (out, height) = (&mut out[row * COLUMNS..], ROWS.min(rows - row));
            // SAFETY: the caller has checked that the instructions exist.
            unsafe { tile(out, (COLUMNS, start > 0), (left, right), (height, COLUMNS)) };
        }
    }
}

thread_local! {
    static LEFT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// A buffer reused by a thread. It is taken out while in use, so that a nested task on the same thread allocates its own.
struct Scratch(Vec<u32>, &'static std::thread::LocalKey<Cell<Vec<u32>>>);

impl Scratch {
    fn take(place: &'static std::thread::LocalKey<Cell<Vec<u32>>>, len: usize) -> Self {
        let mut data = place.take();
        data.resize(len, 0);
        Self(data, place)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.1.set(std::mem::take(&mut self.0));
    }
}

/// The rows `(first, rows)` of a product, into `dst`, with the right side packed.
fn multiply(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    (lhs, (first, rows)): (Matrix<'_>, (usize, usize)),
    (rhs, columns): (&[u32], usize),
) {
    let pairs = lhs.columns.div_ceil(2);
    let mut packed = Scratch::take(&LEFT, rows.div_ceil(ROWS) * ROWS * PAIRS.min(pairs));
    // With nothing to sum the result is zero.
    let blocks = if pairs == 0 { 0..1 } else { 0..pairs.div_ceil(PAIRS) };
    for block in blocks {
        let (start, len) = (block * PAIRS, PAIRS.min(pairs - block * PAIRS));
        let left = &mut packed.0[..rows.div_ceil(ROWS) * ROWS * len];
        for (panel, left) in left.chunks_mut((ROWS * len).max(1)).enumerate() {
            // SAFETY: the caller of `product` has checked that the instructions exist.
            unsafe { pack::<ROWS>(lhs, first + panel * ROWS, (start, len), left) };
        }
        for column in (0..columns).step_by(COLUMNS) {
            // A panel of 48 columns begins after those of the columns before it.
            let right = &rhs[column * pairs + start * COLUMNS..][..len * COLUMNS];
            let width = COLUMNS.min(columns - column);
            for row in (0..rows).step_by(ROWS) {
                let left = &left[row * len..][..ROWS * len];
                let dst = &mut dst[row * dst_stride + column..];
                let height = ROWS.min(rows - row);
                // SAFETY: as above.
                unsafe { tile(dst, (dst_stride, accumulate || block > 0), (left, right), (height, width)) };
            }
        }
    }
}

/// Packs the lanes (rows of `m`) `first..first + WIDTH` and the pairs `(start, len)` of its columns: element
/// `[pair][lane]` holds columns `2 pair` and `2 pair + 1` as bf16, the first one in the low half. What lies outside of
/// `m` is zero.
///
/// # Safety
/// The CPU must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack<const WIDTH: usize>(
    m: Matrix<'_>,
    first: usize,
    (start, len): (usize, usize),
    packed: &mut [u32],
) {
    let lanes = WIDTH.min(m.rows - first);
    if lanes < WIDTH {
        packed.fill(0);
    }
    if m.column_stride == 1 {
        for lane in 0..lanes {
            let row = &m.data[(first + lane) * m.row_stride..][..m.columns];
            pack_row::<WIDTH>(&row[2 * start..(2 * (start + len)).min(m.columns)], &mut packed[lane..]);
        }
    } else {
        for (pair, packed) in (start..start + len).zip(packed.chunks_mut(WIDTH)) {
            let column = |k: usize| &m.data[(k * m.column_stride + first * m.row_stride).min(m.data.len())..];
            let even = column(2 * pair);
            let odd = if 2 * pair + 1 < m.columns { column(2 * pair + 1) } else { &[] };
            pack_columns((even, odd), m.row_stride, &mut packed[..lanes]);
        }
    }
}

/// Every second element of `row` and its successor, `WIDTH` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_row<const WIDTH: usize>(row: &[f32], packed: &mut [u32]) {
    let mut pairs = [0u32; 16];
    for (chunk, packed) in row.chunks(32).zip(packed.chunks_mut(16 * WIDTH)) {
        let (low, high) = (chunk.len().min(16), chunk.len().saturating_sub(16));
        // SAFETY: masked loads of what is in the chunk, and a store of 64 bytes to an array of 64.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask(low), chunk.as_ptr());
            let high = _mm512_maskz_loadu_ps(mask(high), chunk.as_ptr().wrapping_add(16));
            let both = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_ps(pairs.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512>(both));
        }
        for (pair, packed) in pairs[..chunk.len().div_ceil(2)].iter().zip(packed.iter_mut().step_by(WIDTH)) {
            *packed = *pair;
        }
    }
}

/// Pairs of elements that are `stride` apart in two columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_columns((even, odd): (&[f32], &[f32]), stride: usize, packed: &mut [u32]) {
    if stride != 1 {
        for (lane, packed) in packed.iter_mut().enumerate() {
            let round =
                |x: Option<&f32>| u32::from(half::bf16::from_f32(x.copied().unwrap_or(0.0)).to_bits());
            *packed = round(even.get(lane * stride)) | round(odd.get(lane * stride)) << 16;
        }
        return;
    }
    // Words of the converted pair of vectors (first `even`, then `odd`), in turn.
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    for (chunk, packed) in packed.chunks_mut(16).enumerate() {
        let load = |column: &[f32]| {
            let column = column.get(16 * chunk..).unwrap_or(&[]);
            // SAFETY: a masked load of what is in the column.
            unsafe { _mm512_maskz_loadu_ps(mask(packed.len().min(column.len())), column.as_ptr()) }
        };
        let both = _mm512_cvtne2ps_pbh(load(odd), load(even));
        // SAFETY: vectors of the same size; a load of 64 bytes from an array of 64; a masked store of what is in the
        // chunk.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(both);
            let pairs = _mm512_permutexvar_epi16(_mm512_loadu_si512(order.as_ptr().cast()), both);
            _mm512_mask_storeu_epi32(packed.as_mut_ptr().cast(), mask(packed.len()), pairs);
        }
    }
}

/// A mask of the first `n` of 16 lanes.
fn mask(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// `dst (+)= left right` for the first `height` rows and `width` columns of a tile.
///
/// # Safety
/// The CPU must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile(
    dst: &mut [f32],
    (dst_stride, accumulate): (usize, bool),
    (left, right): (&[u32], &[u32]),
    (height, width): (usize, usize),
) {
    const VECTORS: usize = COLUMNS / 16;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (left, _) = left.as_chunks::<ROWS>();
    let (right, _) = right.as_chunks::<COLUMNS>();
    for (left, right) in left.iter().zip(right) {
        // SAFETY: 3 loads of 16 lanes from an array of 48; the types differ only in what the bits mean.
        let right: [__m512bh; VECTORS] = std::array::from_fn(|v| unsafe {
            std::mem::transmute(_mm512_loadu_si512(right.as_ptr().add(16 * v).cast()))
        });
        for r in 0..ROWS {
            // SAFETY: as above.
            let left: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(left[r] as i32)) };
            for v in 0..VECTORS {
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate().take(height) {
        let row = &mut dst[r * dst_stride..][..width];
        for (v, sum) in sums.into_iter().enumerate() {
            let Some(lanes) = row.get_mut(16 * v..) else { break };
            let mask = mask(lanes.len());
            // SAFETY: masked accesses of what is in the row.
            unsafe {
                let old = _mm512_maskz_loadu_ps(if accumulate { mask } else { 0 }, lanes.as_ptr());
                _mm512_mask_storeu_ps(lanes.as_mut_ptr(), mask, _mm512_add_ps(old, sum));
            }
        }
    }
}

//! Copies of parts of matrices in the order in which a product reads them.

use super::Matrix;
use super::blocked::DEPTH;
use crate::simd::LINE;

/// Rows of a panel that are written while their sources stay in the cache.
const BLOCK: usize = 4 * LINE;
/// Columns of a transposed matrix that are read side by side.
const SIDE: usize = 8;

/// Copies R rows of `lhs`, `depth` columns of each from `start` on, into a sliver `[R, DEPTH]`. Rows that do not exist are zero.
#[inline(always)]
pub(super) fn pack_sliver<const R: usize>(
    lhs: Matrix<'_>,
    first: usize,
    start: usize,
    depth: usize,
    sliver: &mut [f32],
) {
    let rows = R.min(lhs.rows - first);
    sliver[rows * DEPTH..].fill(0.0);
    let source = |row: usize, column: usize| {
        &lhs.data[(first + row) * lhs.row_stride + (start + column) * lhs.column_stride..]
    };
    if lhs.column_stride == 1 {
        for (row, to) in sliver.chunks_mut(DEPTH).take(rows).enumerate() {
            to[..depth].copy_from_slice(&source(row, 0)[..depth]);
        }
        return;
    }
    for column in (0..depth).step_by(LINE) {
        for (row, to) in sliver.chunks_mut(DEPTH).take(rows).enumerate() {
            let to = &mut to[column..depth.min(column + LINE)];
            let from = source(row, column).iter().step_by(lhs.column_stride);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Copies columns of `rhs` from `first` on, `depth` rows of each from `start` on, into panels `[count, depth, W]`. Columns that do not
/// exist are zero.
#[inline(always)]
pub(super) fn pack_panels<const W: usize>(
    rhs: Matrix<'_>,
    first: usize,
    start: usize,
    depth: usize,
    panels: &mut [f32],
) {
    let columns = (panels.len() / depth).min(rhs.columns - first);
    let (whole, rest) = (columns / W, columns % W);
    if rest > 0 {
        panels[whole * W * depth..].fill(0.0);
    }
    if rhs.column_stride != 1 {
        for (panel, to) in panels.chunks_mut(W * depth).enumerate() {
            pack_transposed::<W>(rhs, first + panel * W, start, to.as_chunks_mut().0);
        }
        return;
    }
    for row in 0..depth {
        let from = &rhs.data[(start + row) * rhs.row_stride + first..][..columns];
        let (from, last) = from.as_chunks::<W>();
        for (panel, from) in from.iter().enumerate() {
            panels[(panel * depth + row) * W..][..W].copy_from_slice(from);
        }
        if rest > 0 {
            panels[(whole * depth + row) * W..][..rest].copy_from_slice(last);
        }
    }
}

/// A panel of a matrix whose columns are not neighbours.
#[inline(always)]
fn pack_transposed<const W: usize>(rhs: Matrix<'_>, first: usize, start: usize, panel: &mut [[f32; W]]) {
    let columns = W.min(rhs.columns - first);
    let source = |column: usize, row: usize| {
        &rhs.data[(first + column) * rhs.column_stride + (start + row) * rhs.row_stride..]
    };
    // Columns of neighbouring numbers are read several at a time, so that a row of the panel is written in whole vectors.
    let together = if rhs.row_stride == 1 { columns / SIDE * SIDE } else { 0 };
    for (block, rows) in panel.chunks_mut(BLOCK).enumerate() {
        for column in (0..together).step_by(SIDE) {
            let from: [&[f32]; SIDE] =
                std::array::from_fn(|c| &source(column + c, block * BLOCK)[..rows.len()]);
            for (i, row) in rows.iter_mut().enumerate() {
                let numbers: [f32; SIDE] = std::array::from_fn(|c| from[c][i]);
                row[column..][..SIDE].copy_from_slice(&numbers);
            }
        }
        for column in together..columns {
            let from = source(column, block * BLOCK).iter().step_by(rhs.row_stride);
            rows.iter_mut().zip(from).for_each(|(row, from)| row[column] = *from);
        }
    }
}

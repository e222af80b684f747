//! Sums of columns, in two stages: shares of chunks of rows, so that all multiprocessors take part, then the sum of the shares.

use candle_core::{Result, Tensor, bail};

use super::matmul::Matrix;
use super::{Array, Element, Gpu, Grid, WARP, launch, name_of, unsigned, with_arrays};

/// Threads of a block as in `cuda/common.cuh` and, for the second stage, `cuda/linear.cu`.
const SUM_ROWS: u32 = 8;
const CHUNKS: u32 = 16;

/// The most blocks of the first stage, unless there are more groups of columns: four for each multiprocessor of an H100, which run at once.
const BLOCKS: usize = 4 * 132;
/// The fewest rows of a chunk.
const MIN_ROWS: usize = 32;

/// How the rows of a matrix are divided; it depends on sizes alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunks {
    groups: usize,
    count: usize,
    rows: usize,
}

impl Chunks {
    /// Chunks of `rows` rows for blocks that take packs of `pack` columns.
    pub(super) fn new(rows: usize, columns: usize, pack: usize) -> Self {
        let groups = columns.div_ceil(WARP as usize * pack).max(1);
        let most = (BLOCKS / groups).max(1);
        let chunk = rows.div_ceil(most).max(MIN_ROWS);
        Self { groups, count: rows.div_ceil(chunk), rows: chunk }
    }

    /// Of the first stage.
    pub(super) fn grid(self) -> Grid {
        Grid { blocks: (self.groups as u32, self.count as u32), threads: (WARP, SUM_ROWS), shared_bytes: 0 }
    }

    /// Rows of a chunk, as kernels take it.
    pub(super) fn rows(self) -> u64 {
        self.rows as u64
    }
}

impl Gpu<'_> {
    /// `sums += sum_rows x`
    pub(super) fn add_column_sums<T: Element>(&self, x: Matrix<'_, T>, sums: Array<'_, f32>) -> Result<()> {
        let (op, n, c) = ("column sums", x.rows(), x.columns());
        let columns = unsigned(op, c)?;
        let (x, stride) = x.address_and_stride();
        self.with_shares((n, c, T::PACK), Some(sums), |chunks, partial| {
            let (name, rows) = (name_of!("mixce_column_sums", T), chunks.rows());
            // SAFETY: the arguments are those of the kernel; x has n rows of c elements, and every chunk has its shares.
            unsafe {
                launch!(self, "linear", name, chunks.grid(), x, stride, partial, n as u64, columns, rows)
            }
        })
    }

    /// Runs a kernel over the chunks of a matrix `[n, c]`, in packs of `pack`; adds to the sums, if there are any, the shares that it writes.
    pub(super) fn with_shares(
        &self,
        (n, c, pack): (usize, usize, usize),
        sums: Option<Array<'_, f32>>,
        kernel: impl FnOnce(Chunks, Option<Array<'_, f32>>) -> Result<()>,
    ) -> Result<()> {
        let chunks = Chunks::new(n, c, pack);
        match sums {
            Some(_) if n > 0 => self.add_shares(chunks, c, [sums], |partial| kernel(chunks, Some(partial))),
            _ => kernel(chunks, None),
        }
    }

    /// Adds to the sums, of `c` columns each, what `shares` writes for each chunk: `[chunks, K, c]`.
    pub(super) fn add_shares<const K: usize>(
        &self,
        chunks: Chunks,
        c: usize,
        sums: [Option<Array<'_, f32>>; K],
        shares: impl FnOnce(Array<'_, f32>) -> Result<()>,
    ) -> Result<()> {
        const { assert!(K == 1 || K == 2, "mixce_add_partial_sums takes one or two") };
        let op = "column sums";
        for sums in sums.iter().flatten() {
            if sums.len != c {
                bail!("{op}: expected {c} sums, got {}", sums.len);
            }
        }
        let partial: Tensor = self.buffer(chunks.count * K * c)?;
        let (count, columns) = (unsigned(op, chunks.count)?, unsigned(op, c)?);
        let blocks = (c.div_ceil(WARP as usize) as u32, K as u32);
        let grid = Grid { blocks, threads: (WARP, CHUNKS), shared_bytes: 0 };
        with_arrays::<f32, _, 0, 1>(op, [], [&partial], |_, [], [partial]| {
            shares(partial)?;
            let (first, second) = (sums.first().copied().flatten(), sums.get(1).copied().flatten());
            // SAFETY: the arguments are those of the kernel; the shares were made for these chunks, and all sums have c elements.
            unsafe {
                launch!(
                    self,
                    "linear",
                    "mixce_add_partial_sums",
                    grid,
                    partial,
                    first,
                    second,
                    count,
                    columns
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCKS, Chunks, MIN_ROWS};

    #[test]
    fn chunks_cover_the_rows_and_fill_the_device() {
        for (rows, columns, pack) in
            [(1, 1, 4), (64, 768, 8), (65, 768, 8), (32_768, 768, 8), (32_768, 5120, 4), (100_000, 3, 4)]
        {
            let Chunks { groups, count, rows: chunk } = Chunks::new(rows, columns, pack);
            assert!(
                chunk * count >= rows && chunk * (count - 1) < rows,
                "{rows} rows: {count} chunks of {chunk}"
            );
            assert!(groups * 32 * pack >= columns);
            assert!(
                chunk == MIN_ROWS || groups * count >= BLOCKS / 2,
                "{rows} x {columns}: {groups} x {count} blocks"
            );
            assert!(groups * count <= BLOCKS, "{rows} x {columns}: {groups} x {count} blocks");
        }
    }
}

//! The blocks and threads of a launch.

/// Threads of a block that handles rows or elements.
pub(super) const THREADS: u32 = 256;
/// Maximum blocks of such a kernel; its loops cover the rest.
pub(super) const MAX_BLOCKS: usize = 65_536;
/// Threads of a warp.
pub(super) const WARP: u32 = 32;

/// Threads of a block of the first stage of a sum of columns, beside a warp, as in `cuda/common.cuh`.
const SUM_ROWS: u32 = 8;
/// The most blocks of the first stage of a sum of columns, unless there are more groups of columns: four for each multiprocessor of an H100,
/// which run at once.
const BLOCKS: usize = 4 * 132;
/// The fewest rows of a chunk.
const MIN_ROWS: usize = 32;

/// How many blocks of how many threads, and bytes of shared memory a block.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: (u32, u32),
    pub(super) threads: (u32, u32),
    pub(super) shared_bytes: usize,
}

impl Grid {
    /// One block per row, up to the maximum.
    pub(super) fn rows(rows: usize) -> Self {
        Self { blocks: (rows.min(MAX_BLOCKS) as u32, 1), threads: (THREADS, 1), shared_bytes: 0 }
    }

    /// One thread for four elements, up to the maximum.
    pub(super) fn fours(n: usize) -> Self {
        Self::rows(n.div_ceil(4 * THREADS as usize))
    }

    /// Threads for packs of `pack` elements of rows of `columns` (see `for_packs` in `cuda/common.cuh`): whole warps a row, as many rows
    /// a block as its threads suffice for.
    pub(super) fn packs(rows: usize, columns: usize, pack: usize) -> Self {
        let packs = columns.div_ceil(pack).max(1);
        let of_a_row = packs.div_ceil(packs.div_ceil(THREADS as usize)).next_multiple_of(WARP as usize);
        let rows_of_a_block = THREADS as usize / of_a_row;
        let blocks = rows.div_ceil(rows_of_a_block).min(MAX_BLOCKS);
        Self {
            blocks: (blocks as u32, 1),
            threads: (of_a_row as u32, rows_of_a_block as u32),
            shared_bytes: 0,
        }
    }
}

/// Rows and columns that `n` elements are split into where a tensor's own rows do not matter: a power of two from 32 to 1024 if it divides
/// `n`, else one row.
pub(super) fn any_rows(n: usize) -> (usize, usize) {
    match (n & n.wrapping_neg()).min(1024) {
        columns @ 32.. => (n / columns, columns),
        _ => (1, n),
    }
}

/// How the rows of a matrix are divided; it depends on sizes alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunks {
    groups: usize,
    pub(super) count: usize,
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

/// Blocks of a norm's backward pass and the rows of each, of which its `warps` take one after another: as many blocks as run at once, so that there
/// are few shares.
pub(super) fn chunks(rows: usize, warps: usize) -> (usize, usize) {
    let chunk = rows.div_ceil(BLOCKS).next_multiple_of(warps);
    (rows.div_ceil(chunk), chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_cover_the_packs_of_a_row() {
        for (columns, pack) in [(1, 4), (768, 8), (768, 4), (1280, 4), (1600, 4), (50_257, 8)] {
            let Grid { blocks, threads: (x, y), .. } = Grid::packs(1000, columns, pack);
            let packs = columns.div_ceil(pack) as u32;
            assert!(x % 32 == 0 && x * y <= THREADS && blocks.0 * y >= 1000, "{columns}: {x} x {y}");
            // No warp of a row is idle in all of its steps.
            assert!(x < packs.div_ceil(packs.div_ceil(x)) + 32, "{columns}: {x} threads for {packs} packs");
        }
    }

    #[test]
    fn rows_are_all_of_the_elements() {
        for (n, want) in
            [(0, (1, 0)), (7, (1, 7)), (96, (3, 32)), (6400 * 3, (75, 256)), (1 << 20, (1024, 1024))]
        {
            assert_eq!(any_rows(n), want);
        }
    }

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

    #[test]
    fn blocks_cover_the_rows() {
        for (rows, warps) in [(1, 1), (7, 8), (4096, 8), (4097, 8), (32_768, 3), (100_001, 5)] {
            let (blocks, chunk) = chunks(rows, warps);
            assert!(chunk * blocks >= rows && chunk * (blocks - 1) < rows, "{rows}: {blocks} of {chunk}");
            assert!(chunk % warps == 0 && blocks <= BLOCKS, "{rows}: {blocks} of {chunk}");
        }
    }
}

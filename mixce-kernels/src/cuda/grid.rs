//! The blocks and threads of a launch.

use super::{MAX_BLOCKS, THREADS, WARP};

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

#[cfg(test)]
mod tests {
    use super::{Grid, THREADS, any_rows};

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
}

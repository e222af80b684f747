//! Token and position embeddings.

use candle_core::{Result, Tensor};

use super::dropout::arguments;
use super::{Array, Gpu, Grid, MAX_BLOCKS, THREADS, expect_len, launch, rows, unsigned, with_arrays};
use crate::dropout::Dropout;

/// Rows of a batch grouped by table row: see `RowGroups` in `crate::embedding`.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    ids: Array<'a, u32>,
    order: Array<'a, u32>,
    offsets: Array<'a, u32>,
}

impl Gpu<'_> {
    /// `x = dropout(tokens[ids] + positions[position_ids])`, `c` channels. Ids must be inside the tables.
    pub(crate) fn embedding(
        &self,
        [tokens, positions]: [Array<'_, f32>; 2],
        ids: [&Tensor; 2],
        c: usize,
        dropout: Option<Dropout>,
        x: Array<'_, f32>,
    ) -> Result<()> {
        with_arrays("embedding", ids, [], |_, ids, []| self.gather(([tokens, positions], ids), c, dropout, x))
    }

    fn gather(
        &self,
        ([tokens, positions], [ids, position_ids]): ([Array<'_, f32>; 2], [Array<'_, u32>; 2]),
        c: usize,
        dropout: Option<Dropout>,
        x: Array<'_, f32>,
    ) -> Result<()> {
        let op = "embedding";
        let (vocabulary, table) = (rows(op, tokens, c)?, rows(op, positions, c)?);
        expect_len(op, "the positions", position_ids, ids.len)?;
        expect_len(op, "the result", x, ids.len * c)?;
        let [key, label, threshold, scale] = arguments(dropout);
        let (n, c, grid) = (ids.len as u64, unsigned(op, c)?, Grid::rows(ids.len));
        let (vocabulary, table) = (unsigned(op, vocabulary)?, unsigned(op, table)?);
        // SAFETY: the arguments are those of the kernel, which takes no row outside the tables; x has a row for each id.
        unsafe {
            launch!(
                self,
                "embedding",
                "mixce_embedding",
                grid,
                tokens,
                positions,
                ids,
                position_ids,
                x,
                n,
                c,
                vocabulary,
                table,
                key,
                label,
                threshold,
                scale
            )
        }
    }

    /// Adds the rows of `dropout(dx)` to the rows of the tables that they came from. Ids must be inside the tables; `groups` are ids,
    /// order and offsets for the tokens, then for the positions.
    pub(crate) fn embedding_backward(
        &self,
        dx: &Tensor,
        groups: [&Tensor; 6],
        dropout: Option<Dropout>,
        sums: [&Tensor; 2],
    ) -> Result<()> {
        let (op, c) = ("embedding backward", dx.dim(1)?);
        with_arrays(
            op,
            groups,
            [],
            |_, [ids, order, offsets, position_ids, position_order, position_offsets], []| {
                let tokens = Grouped { ids, order, offsets };
                let positions =
                    Grouped { ids: position_ids, order: position_order, offsets: position_offsets };
                with_arrays(op, [dx], sums, |gpu, [dx], sums| {
                    gpu.add_embedding_gradients(dx, [tokens, positions], c, dropout, sums)
                })
            },
        )
    }

    fn add_embedding_gradients(
        &self,
        dx: Array<'_, f32>,
        [tokens, positions]: [Grouped<'_>; 2],
        c: usize,
        dropout: Option<Dropout>,
        [dtokens, dpositions]: [Array<'_, f32>; 2],
    ) -> Result<()> {
        let op = "embedding backward";
        for side in [tokens, positions] {
            expect_len(op, "the gradient", dx, side.ids.len * c)?;
            expect_len(op, "the order", side.order, side.ids.len)?;
        }
        let groups = |side: Grouped<'_>| unsigned(op, side.offsets.len - 1);
        let (of_tokens, of_positions) = (groups(tokens)?, groups(positions)?);
        let blocks = ((of_tokens + of_positions) as usize).min(MAX_BLOCKS) as u32;
        let grid = Grid { blocks: (blocks, 1), threads: (THREADS, 1), shared_bytes: 0 };
        let ([key, label, threshold, scale], c) = (arguments(dropout), unsigned(op, c)?);
        // SAFETY: the arguments are those of the kernel; the order holds rows of dx and the callers checked the ids.
        unsafe {
            launch!(
                self,
                "embedding",
                "mixce_embedding_backward",
                grid,
                dx,
                tokens.ids,
                tokens.order,
                tokens.offsets,
                of_tokens,
                dtokens,
                positions.ids,
                positions.order,
                positions.offsets,
                of_positions,
                dpositions,
                c,
                key,
                label,
                threshold,
                scale
            )
        }
    }
}

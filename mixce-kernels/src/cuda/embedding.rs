//! Token embeddings, with or without those of positions.

use candle_core::{Result, Tensor};

use super::dropout::arguments;
use super::{Array, Gpu, Grid, MAX_BLOCKS, expect_len, launch, rows, unsigned, with_arrays};
use crate::dropout::Dropout;
use crate::embedding::Embedded;

/// Rows of a batch grouped by table row (see `RowGroups` in `crate::embedding`), and the sums for that table.
#[derive(Clone, Copy)]
struct Grouped<'a> {
    ids: Array<'a, u32>,
    order: Array<'a, u32>,
    offsets: Array<'a, u32>,
    dtable: Array<'a, f32>,
}

impl Gpu<'_> {
    /// `x = dropout(tokens[ids] + positions[position_ids])`, `c` channels. Ids must be inside the tables.
    pub(crate) fn embedding(
        &self,
        tokens: Array<'_, f32>,
        positions: Option<Array<'_, f32>>,
        at: &Embedded,
        (c, dropout): (usize, Option<Dropout>),
        x: Array<'_, f32>,
    ) -> Result<()> {
        with_arrays("embedding", [&at.input_ids, &at.position_ids], [], |_, ids, []| {
            self.gather((tokens, positions), ids, (c, dropout), x)
        })
    }

    fn gather(
        &self,
        (tokens, positions): (Array<'_, f32>, Option<Array<'_, f32>>),
        [ids, position_ids]: [Array<'_, u32>; 2],
        (c, dropout): (usize, Option<Dropout>),
        x: Array<'_, f32>,
    ) -> Result<()> {
        let op = "embedding";
        let vocabulary = rows(op, tokens, c)?;
        let table = positions.map_or(Ok(0), |positions| rows(op, positions, c))?;
        expect_len(op, "the positions", position_ids, ids.len)?;
        expect_len(op, "the result", x, ids.len * c)?;
        let [key, label, first, threshold, scale] = arguments(dropout, c as u64);
        let (n, c, grid) = (ids.len as u64, unsigned(op, c)?, Grid::packs(ids.len, c, 4));
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
                first,
                threshold,
                scale
            )
        }
    }

    /// Adds the rows of `dropout(dx)` to the rows of the tables' sums that they came from. Ids must be inside the tables; each table comes
    /// with ids, order and offsets of its groups.
    pub(crate) fn embedding_backward(
        &self,
        dx: &Tensor,
        (tokens, dtokens): ([&Tensor; 3], &Tensor),
        positions: Option<([&Tensor; 3], &Tensor)>,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        with_grouped(tokens, dtokens, |tokens| match positions {
            None => self.add_embedding_gradients(dx, tokens, None, dropout),
            Some((positions, dpositions)) => with_grouped(positions, dpositions, |positions| {
                self.add_embedding_gradients(dx, tokens, Some(positions), dropout)
            }),
        })
    }

    fn add_embedding_gradients(
        &self,
        dx: &Tensor,
        tokens: Grouped<'_>,
        positions: Option<Grouped<'_>>,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        let (op, c) = ("embedding backward", dx.dim(1)?);
        for side in [Some(tokens), positions].into_iter().flatten() {
            expect_len(op, "the order", side.order, dx.dim(0)?)?;
            rows(op, side.dtable, c)?;
        }
        let groups = |side: Grouped<'_>| unsigned(op, side.offsets.len - 1);
        let (of_tokens, of_positions) = (groups(tokens)?, positions.map_or(Ok(0), groups)?);
        let blocks = ((of_tokens + of_positions) as usize).min(MAX_BLOCKS) as u32;
        let (threads, _) = Grid::packs(1, c, 4).threads;
        let grid = Grid { blocks: (blocks, 1), threads: (threads, 1), shared_bytes: 0 };
        let ([key, label, first, threshold, scale], c) = (arguments(dropout, c as u64), unsigned(op, c)?);
        with_arrays::<f32, _, 1, 0>(op, [dx], [], |gpu, [dx], []| {
            // SAFETY: the arguments are those of the kernel; the order holds rows of dx and the callers checked the ids.
            unsafe {
                launch!(
                    gpu,
                    "embedding",
                    "mixce_embedding_backward",
                    grid,
                    dx,
                    tokens.ids,
                    tokens.order,
                    tokens.offsets,
                    of_tokens,
                    tokens.dtable,
                    positions.map(|side| side.ids),
                    positions.map(|side| side.order),
                    positions.map(|side| side.offsets),
                    of_positions,
                    positions.map(|side| side.dtable),
                    c,
                    key,
                    label,
                    first,
                    threshold,
                    scale
                )
            }
        })
    }
}

/// Runs `f` on the groups of a table and its sums.
fn with_grouped<R>(
    groups: [&Tensor; 3],
    dtable: &Tensor,
    f: impl FnOnce(Grouped<'_>) -> Result<R>,
) -> Result<R> {
    let op = "embedding backward";
    with_arrays(op, groups, [], |_, [ids, order, offsets], []| {
        with_arrays(op, [], [dtable], |_, [], [dtable]| f(Grouped { ids, order, offsets, dtable }))
    })
}

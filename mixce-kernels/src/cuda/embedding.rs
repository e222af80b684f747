//! Token and position embeddings.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor};

use super::dropout::arguments;
use super::{Array, Gpu, Grid, MAX_BLOCKS, THREADS, expect_len, launch, rows, unsigned};
use crate::residual::Dropout;

/// The rows of a batch in the order of the table's rows that they take, so that one block adds up all gradients of one row of the
/// table: group `g` is `order[offsets[g]..offsets[g + 1]]`, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    pub(crate) order: Tensor,
    pub(crate) offsets: Tensor,
}

impl Groups {
    /// Groups the rows `0..` by their id.
    pub(crate) fn new(ids: impl Iterator<Item = u32>, device: &Device) -> Result<Self> {
        let mut group_of = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (row, id) in (0u32..).zip(ids) {
            let group = *group_of.entry(id).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(row);
        }
        let mut offsets = vec![0u32];
        for group in &groups {
            offsets.push(offsets[offsets.len() - 1] + group.len() as u32);
        }
        let order = groups.concat();
        Ok(Self {
            order: Tensor::from_slice(&order, order.len(), device)?,
            offsets: Tensor::from_slice(&offsets, offsets.len(), device)?,
        })
    }
}

/// [`Groups`] on the device, with the ids of the rows.
#[derive(Clone, Copy)]
pub(crate) struct Grouped<'a> {
    pub(crate) ids: Array<'a, u32>,
    pub(crate) order: Array<'a, u32>,
    pub(crate) offsets: Array<'a, u32>,
}

impl Gpu<'_> {
    /// `x = dropout(tokens[ids] + positions[position_ids])`, `c` channels. Ids must be inside the tables.
    pub(crate) fn embedding(
        &self,
        [tokens, positions]: [Array<'_, f32>; 2],
        [ids, position_ids]: [Array<'_, u32>; 2],
        c: usize,
        dropout: Dropout,
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

    /// Adds the rows of `dropout(dx)` to the rows of the tables that they came from. Ids must be inside the tables.
    pub(crate) fn embedding_backward(
        &self,
        dx: Array<'_, f32>,
        [tokens, positions]: [Grouped<'_>; 2],
        c: usize,
        dropout: Dropout,
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

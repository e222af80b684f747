//! Dropout by itself and with the residual sum.

use candle_core::Result;

use super::{Arg, Array, Element, Gpu, Grid, any_rows, expect_len, launch, name_of, rows, unsigned};
use crate::dropout::Dropout;
use crate::dropout::Keep;

/// The five parameters of a kernel's dropout; a row of the tensor has `width` random words.
pub(super) fn arguments(dropout: Option<Dropout>, width: u64) -> [Arg; 5] {
    match dropout {
        Some(Dropout { p, stream, first_row }) => {
            let (key, label) = stream.key_and_label();
            let (threshold, scale) = Keep::new(p).threshold_and_scale();
            let first = first_row as u64 * width;
            [Arg::Size(key), Arg::Size(label), Arg::Size(first), Arg::Unsigned(threshold), Arg::Float(scale)]
        }
        None => [Arg::Size(0), Arg::Size(0), Arg::Size(0), Arg::Unsigned(0), Arg::Float(1.0)],
    }
}

impl Gpu<'_> {
    /// `y = dropout(x)` of rows of `width` elements; `y` may be `x`.
    pub(crate) fn dropout<T: Element>(
        &self,
        x: Array<'_, f32>,
        dropout: Dropout,
        width: usize,
        y: Array<'_, T>,
    ) -> Result<()> {
        self.drop_and_sum(x, arguments(Some(dropout), width as u64), y, (any_rows(x.len).1, None))
    }

    /// [`Gpu::dropout`] of rows of `c` elements; the sum of the rows of `y` is added to that of the bias, if there is one.
    pub(super) fn dropped_branch<T: Element>(
        &self,
        x: Array<'_, f32>,
        dropout: Option<Dropout>,
        y: Array<'_, T>,
        (c, bias): (usize, Option<Array<'_, f32>>),
    ) -> Result<()> {
        self.drop_and_sum(x, arguments(dropout, c as u64), y, (c, bias))
    }

    fn drop_and_sum<T: Element>(
        &self,
        x: Array<'_, f32>,
        [key, label, first, threshold, scale]: [Arg; 5],
        y: Array<'_, T>,
        (c, bias): (usize, Option<Array<'_, f32>>),
    ) -> Result<()> {
        let op = "dropout";
        expect_len(op, "the result", y, x.len)?;
        let (n, columns, name) = (rows(op, x, c)?, unsigned(op, c)?, name_of!("mixce_dropout", T));
        self.with_shares((n, c, 4), bias, |chunks, partial| {
            let (grid, chunk_rows, n) = (chunks.grid(), chunks.rows(), n as u64);
            // SAFETY: the arguments are those of the kernel; n rows of c elements are in both arrays, and every chunk has its shares.
            unsafe {
                launch!(
                    self, "dropout", name, grid, x, y, partial, n, columns, chunk_rows, key, label, first,
                    threshold, scale
                )
            }
        })
    }

    /// `y = residual + dropout(branch + bias)`, rows of `c` elements; `y` may be `branch`.
    pub(crate) fn residual(
        &self,
        residual: Array<'_, f32>,
        (branch, bias): (Array<'_, f32>, Option<Array<'_, f32>>),
        c: usize,
        dropout: Option<Dropout>,
        y: Array<'_, f32>,
    ) -> Result<()> {
        let op = "residual_dropout";
        let n = rows(op, y, c)?;
        expect_len(op, "the residual", residual, y.len)?;
        expect_len(op, "the branch", branch, y.len)?;
        if let Some(bias) = bias {
            expect_len(op, "the bias", bias, c)?;
        }
        let ([key, label, first, threshold, scale], grid) =
            (arguments(dropout, c as u64), Grid::packs(n, c, 4));
        let (n, c) = (n as u64, unsigned(op, c)?);
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside the arrays, c inside the bias.
        unsafe {
            let name = "mixce_residual";
            launch!(
                self, "dropout", name, grid, residual, branch, bias, y, n, c, key, label, first, threshold,
                scale
            )
        }
    }
}

//! Dropout by itself and with the residual sum.

use candle_core::{Result, bail};

use super::{Arg, Array, Element, Gpu, Grid, any_rows, expect_len, launch, name_of, rows, unsigned};
use crate::dropout::Dropout;
use crate::dropout::Keep;

/// The four parameters of a kernel's dropout.
///
/// # Errors
/// For the mask of a part of a tensor, which the kernels do not draw.
pub(super) fn arguments(dropout: Option<Dropout>) -> Result<[Arg; 4]> {
    Ok(match dropout {
        Some(Dropout { first_row, .. }) if first_row > 0 => {
            bail!("dropout: expected a whole tensor on CUDA, got the rows of another from {first_row} on")
        }
        Some(Dropout { p, stream, .. }) => {
            let (key, label) = stream.key_and_label();
            let (threshold, scale) = Keep::new(p).threshold_and_scale();
            [Arg::Size(key), Arg::Size(label), Arg::Unsigned(threshold), Arg::Float(scale)]
        }
        None => [Arg::Size(0), Arg::Size(0), Arg::Unsigned(0), Arg::Float(1.0)],
    })
}

impl Gpu<'_> {
    /// `y = dropout(x)`; `y` may be `x`.
    pub(crate) fn dropout<T: Element>(
        &self,
        x: Array<'_, f32>,
        dropout: Option<Dropout>,
        y: Array<'_, T>,
    ) -> Result<()> {
        self.dropped_branch(x, dropout, y, (any_rows(x.len).1, None))
    }

    /// [`Gpu::dropout`] of rows of `c` elements; the sum of the rows of `y` is added to that of the bias, if there is one.
    pub(super) fn dropped_branch<T: Element>(
        &self,
        x: Array<'_, f32>,
        dropout: Option<Dropout>,
        y: Array<'_, T>,
        (c, bias): (usize, Option<Array<'_, f32>>),
    ) -> Result<()> {
        let op = "dropout";
        expect_len(op, "the result", y, x.len)?;
        let [key, label, threshold, scale] = arguments(dropout)?;
        let (n, columns, name) = (rows(op, x, c)?, unsigned(op, c)?, name_of!("mixce_dropout", T));
        self.with_shares((n, c, 4), bias, |chunks, partial| {
            let (grid, chunk_rows, n) = (chunks.grid(), chunks.rows(), n as u64);
            // SAFETY: the arguments are those of the kernel; n rows of c elements are in both arrays, and every chunk has its shares.
            unsafe {
                launch!(
                    self, "dropout", name, grid, x, y, partial, n, columns, chunk_rows, key, label,
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
        let ([key, label, threshold, scale], grid) = (arguments(dropout)?, Grid::packs(n, c, 4));
        let (n, c) = (n as u64, unsigned(op, c)?);
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside the arrays, c inside the bias.
        unsafe {
            let name = "mixce_residual";
            launch!(
                self, "dropout", name, grid, residual, branch, bias, y, n, c, key, label, threshold, scale
            )
        }
    }
}

//! Activation functions, with the bias before them.

use candle_core::Result;

use super::{Array, Gpu, Grid, expect_len, launch, rows, unsigned};
use crate::Activation;

/// The number of an activation in `cuda/activation.cu`.
fn kind(activation: Activation) -> i32 {
    match activation {
        Activation::GeluNew => 0,
        Activation::Gelu => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    }
}

/// Rows and columns to cut `n` elements into where the rows of a tensor do not matter.
fn any_rows(n: usize) -> (usize, usize) {
    const COLUMNS: usize = 1024;
    if n.is_multiple_of(COLUMNS) { (n / COLUMNS, COLUMNS) } else { (1, n) }
}

impl Gpu<'_> {
    /// `y = f(x)`.
    pub(crate) fn activation(&self, f: Activation, x: Array<'_, f32>, y: Array<'_, f32>) -> Result<()> {
        expect_len("activation", "the result", y, x.len)?;
        self.launch_activation(f, x, (None, None), y, any_rows(x.len))
    }

    /// `x = f(x + bias)` in place, rows of the bias's length; `x + bias` goes to `before` unless there is none.
    pub(super) fn bias_activation(
        &self,
        f: Activation,
        x: Array<'_, f32>,
        bias: Array<'_, f32>,
        before: Option<Array<'_, f32>>,
    ) -> Result<()> {
        let n = rows("activation", x, bias.len)?;
        if let Some(before) = before {
            expect_len("activation", "its input", before, x.len)?;
        }
        self.launch_activation(f, x, (Some(bias), before), x, (n, bias.len))
    }

    /// Sizes are checked by the callers.
    fn launch_activation(
        &self,
        f: Activation,
        x: Array<'_, f32>,
        (bias, before): (Option<Array<'_, f32>>, Option<Array<'_, f32>>),
        y: Array<'_, f32>,
        (rows, columns): (usize, usize),
    ) -> Result<()> {
        let (n, c, grid) = (rows as u64, unsigned("activation", columns)?, Grid::rows(rows));
        // SAFETY: the arguments are those of the kernel; rows * columns elements lie inside x, before and y, columns inside bias.
        unsafe { launch!(self, "activation", "mixce_activation", grid, x, bias, before, y, n, c, kind(f)) }
    }

    /// `dx = dy f'(x)`, and `y = f(x)` where it is wanted. `dx` may be `dy`.
    pub(crate) fn activation_backward(
        &self,
        f: Activation,
        (x, dy): (Array<'_, f32>, Array<'_, f32>),
        y: Option<Array<'_, f32>>,
        dx: Array<'_, f32>,
    ) -> Result<()> {
        let op = "activation backward";
        expect_len(op, "the result's gradient", dy, x.len)?;
        expect_len(op, "the input's gradient", dx, x.len)?;
        if let Some(y) = y {
            expect_len(op, "the result", y, x.len)?;
        }
        let (rows, columns) = any_rows(x.len);
        let (n, c, grid) = (rows as u64, unsigned(op, columns)?, Grid::rows(rows));
        // SAFETY: the arguments are those of the kernel; all arrays have rows * columns elements.
        unsafe { launch!(self, "activation", "mixce_activation_backward", grid, x, dy, y, dx, n, c, kind(f)) }
    }
}

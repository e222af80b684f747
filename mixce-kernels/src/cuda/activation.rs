//! Activation functions, with the bias before them, and as gates.

use candle_core::Result;

use super::{Array, Element, Gpu, Grid, any_rows, expect_len, launch, name_of, rows, unsigned};
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

impl Gpu<'_> {
    /// `y = f(x)`.
    pub(crate) fn activation(&self, f: Activation, x: Array<'_, f32>, y: Array<'_, f32>) -> Result<()> {
        expect_len("activation", "the result", y, x.len)?;
        self.launch_activation(f, x, (None, None), y, any_rows(x.len))
    }

    /// `x = f(x + bias)` in place, rows of `c` elements; `x + bias` goes to `pre_activation` if it is wanted.
    pub(super) fn bias_activation<T: Element>(
        &self,
        f: Activation,
        x: Array<'_, T>,
        (c, bias): (usize, Option<Array<'_, f32>>),
        pre_activation: Option<Array<'_, T>>,
    ) -> Result<()> {
        let n = rows("activation", x, c)?;
        if let Some(bias) = bias {
            expect_len("activation", "the bias", bias, c)?;
        }
        if let Some(pre_activation) = pre_activation {
            expect_len("activation", "its input", pre_activation, x.len)?;
        }
        self.launch_activation(f, x, (bias, pre_activation), x, (n, c))
    }

    /// Sizes are checked by the callers.
    fn launch_activation<T: Element>(
        &self,
        f: Activation,
        x: Array<'_, T>,
        (bias, pre_activation): (Option<Array<'_, f32>>, Option<Array<'_, T>>),
        y: Array<'_, T>,
        (rows, columns): (usize, usize),
    ) -> Result<()> {
        let grid = Grid::packs(rows, columns, T::PACK);
        let (n, c) = (rows as u64, unsigned("activation", columns)?);
        let name = name_of!("mixce_activation", T);
        // SAFETY: the arguments are those of the kernel; rows * columns elements lie inside x, pre_activation and y, columns inside bias.
        unsafe { launch!(self, "activation", name, grid, x, bias, pre_activation, y, n, c, kind(f)) }
    }

    /// `dx = dy f'(x)`, and `y = f(x)` where it is wanted. `dx` may be `dy`.
    pub(crate) fn activation_backward<T: Element>(
        &self,
        f: Activation,
        (x, dy): (Array<'_, T>, Array<'_, T>),
        y: Option<Array<'_, T>>,
        dx: Array<'_, T>,
    ) -> Result<()> {
        self.bias_activation_backward(f, (x, dy), y, dx, (any_rows(x.len).1, None))
    }

    /// [`Gpu::activation_backward`] of rows of `c` elements; the sum of the rows of `dx` is added to that of the bias, if there is one.
    pub(super) fn bias_activation_backward<T: Element>(
        &self,
        f: Activation,
        (x, dy): (Array<'_, T>, Array<'_, T>),
        y: Option<Array<'_, T>>,
        dx: Array<'_, T>,
        (c, bias): (usize, Option<Array<'_, f32>>),
    ) -> Result<()> {
        let op = "activation backward";
        expect_len(op, "the result's gradient", dy, x.len)?;
        expect_len(op, "the input's gradient", dx, x.len)?;
        if let Some(y) = y {
            expect_len(op, "the result", y, x.len)?;
        }
        let (n, columns, name) =
            (rows(op, x, c)?, unsigned(op, c)?, name_of!("mixce_activation_backward", T));
        self.with_shares((n, c, T::PACK), bias, |chunks, partial| {
            let (grid, chunk_rows, n) = (chunks.grid(), chunks.rows(), n as u64);
            // SAFETY: the arguments are those of the kernel; n rows of c elements are in all arrays, and every chunk has its shares.
            unsafe {
                launch!(
                    self,
                    "activation",
                    name,
                    grid,
                    x,
                    dy,
                    y,
                    dx,
                    partial,
                    n,
                    columns,
                    chunk_rows,
                    kind(f)
                )
            }
        })
    }

    /// `hidden = f(gate) up`, for rows `[gate | up]` of `2 c` elements.
    pub(super) fn gated<T: Element>(
        &self,
        f: Activation,
        gate_up: Array<'_, T>,
        c: usize,
        hidden: Array<'_, T>,
    ) -> Result<()> {
        let op = "gate";
        let n = rows(op, hidden, c)?;
        expect_len(op, "gate and factor", gate_up, 2 * hidden.len)?;
        let (name, c, grid) = (name_of!("mixce_gated", T), unsigned(op, c)?, Grid::packs(n, c, T::PACK));
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside hidden, of twice as many inside gate_up.
        unsafe { launch!(self, "activation", name, grid, gate_up, hidden, n as u64, c, kind(f)) }
    }

    /// Given the gradient of `f(gate) up` in `hidden`: that of rows `[gate | up]`, and `hidden = f(gate) up` in place.
    pub(super) fn gated_backward<T: Element>(
        &self,
        f: Activation,
        gate_up: Array<'_, T>,
        c: usize,
        hidden: Array<'_, T>,
        dgate_up: Array<'_, T>,
    ) -> Result<()> {
        let op = "gate backward";
        let n = rows(op, hidden, c)?;
        for array in [gate_up, dgate_up] {
            expect_len(op, "gate and factor", array, 2 * hidden.len)?;
        }
        let (name, c, grid) =
            (name_of!("mixce_gated_backward", T), unsigned(op, c)?, Grid::packs(n, c, T::PACK));
        // SAFETY: the arguments are those of the kernel; n rows of c elements lie inside hidden, of twice as many inside the others.
        unsafe { launch!(self, "activation", name, grid, gate_up, hidden, dgate_up, n as u64, c, kind(f)) }
    }
}

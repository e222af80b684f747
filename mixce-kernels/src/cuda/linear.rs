//! Affine maps: matrix products and what goes with them.

use candle_core::Result;

use super::matmul::Matrix;
use super::{Array, Gpu, Grid, launch, rows, unsigned};

impl Gpu<'_> {
    /// `y = x W + b`, with `W` `[in, out]`.
    pub(crate) fn linear(
        &self,
        x: Array<'_, f32>,
        (weight, bias): (Array<'_, f32>, Array<'_, f32>),
        y: Array<'_, f32>,
    ) -> Result<()> {
        self.product(x, weight, bias.len, y)?;
        let n = rows("linear", y, bias.len)?;
        let (op, grid) = ("linear", Grid::rows(n));
        // SAFETY: the arguments are those of the kernel; y has n rows of the bias's length.
        unsafe { launch!(self, "linear", "mixce_add_bias", grid, y, bias, n as u64, unsigned(op, bias.len)?) }
    }

    /// `y = x W`, with `W` `[in, out]`.
    pub(super) fn product(
        &self,
        x: Array<'_, f32>,
        weight: Array<'_, f32>,
        n_out: usize,
        y: Array<'_, f32>,
    ) -> Result<()> {
        let n_in = weight.len / n_out.max(1);
        self.matmul(y, false, Matrix::new(x, n_in), Matrix::new(weight, n_out))
    }

    /// Gradients of `y = x W + b`: `dx = dy W^T`, and `dW += x^T dy`, `db += sum_rows dy`.
    pub(crate) fn linear_backward(
        &self,
        (x, weight): (Array<'_, f32>, Array<'_, f32>),
        dy: Array<'_, f32>,
        dx: Array<'_, f32>,
        (dweight, dbias): (Array<'_, f32>, Array<'_, f32>),
    ) -> Result<()> {
        self.input_gradient(weight, dy, dbias.len, dx)?;
        self.parameter_gradients(x, dy, (dweight, dbias))
    }

    /// `dx = dy W^T`, with `W` `[in, out]`.
    pub(super) fn input_gradient(
        &self,
        weight: Array<'_, f32>,
        dy: Array<'_, f32>,
        n_out: usize,
        dx: Array<'_, f32>,
    ) -> Result<()> {
        let n_in = weight.len / n_out.max(1);
        debug_assert_eq!(dx.len * n_out, dy.len * n_in);
        self.matmul(dx, false, Matrix::new(dy, n_out), Matrix::new(weight, n_out).t())
    }

    /// `dW += x^T dy`, `db += sum_rows dy`.
    pub(super) fn parameter_gradients(
        &self,
        x: Array<'_, f32>,
        dy: Array<'_, f32>,
        (dweight, dbias): (Array<'_, f32>, Array<'_, f32>),
    ) -> Result<()> {
        let n_out = dbias.len;
        let n_in = dweight.len / n_out.max(1);
        let n = rows("linear backward", dy, n_out)?;
        if n == 0 {
            return Ok(());
        }
        self.matmul(dweight, true, Matrix::new(x, n_in).t(), Matrix::new(dy, n_out))?;
        let (columns, grid) = (unsigned("linear backward", n_out)?, Grid::columns(n_out));
        // SAFETY: the arguments are those of the kernel; dy has n rows of dbias's length.
        unsafe { launch!(self, "linear", "mixce_column_sums", grid, dy, dbias, n as u64, columns) }
    }
}

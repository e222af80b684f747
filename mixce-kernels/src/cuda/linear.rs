//! Affine maps: matrix products, biases and the sums of their gradients.

use candle_core::Result;

use super::matmul::Matrix;
use super::{Array, Element, Gpu, Grid, launch, name_of, rows, unsigned};

impl Gpu<'_> {
    /// `y = x W + b`, with `W` `[in, out]`.
    pub(crate) fn linear<T: Element>(
        &self,
        x: Array<'_, T>,
        (weight, bias): (Array<'_, T>, Array<'_, f32>),
        y: Array<'_, T>,
    ) -> Result<()> {
        self.product(x, weight, bias.len, y)?;
        let n = rows("linear", y, bias.len)?;
        let (name, grid, c) = (name_of!("mixce_add_bias", T), Grid::rows(n), unsigned("linear", bias.len)?);
        // SAFETY: the arguments are those of the kernel; y has n rows of the bias's length.
        unsafe { launch!(self, "linear", name, grid, y, bias, n as u64, c) }
    }

    /// `y = x W`, with `W` `[in, out]`.
    pub(super) fn product<T: Element, Out: Element>(
        &self,
        x: Array<'_, T>,
        weight: Array<'_, T>,
        n_out: usize,
        y: Array<'_, Out>,
    ) -> Result<()> {
        let n_in = weight.len / n_out.max(1);
        self.matmul(y, false, Matrix::new(x, n_in), Matrix::new(weight, n_out))
    }

    /// Gradients of `y = x W + b`: `dx = dy W^T`, and `dW += x^T dy`, `db += sum_rows dy`.
    pub(super) fn add_linear_gradients<T: Element>(
        &self,
        (x, weight): (Array<'_, T>, Array<'_, T>),
        dy: Array<'_, T>,
        dx: Array<'_, T>,
        (dweight, dbias): (Array<'_, f32>, Array<'_, f32>),
    ) -> Result<()> {
        self.input_gradient(weight, dy, dbias.len, dx)?;
        self.parameter_gradients(x, dy, (dweight, dbias))
    }

    /// `dx = dy W^T`, with `W` `[in, out]`.
    pub(super) fn input_gradient<T: Element>(
        &self,
        weight: Array<'_, T>,
        dy: Array<'_, T>,
        n_out: usize,
        dx: Array<'_, T>,
    ) -> Result<()> {
        let n_in = weight.len / n_out.max(1);
        debug_assert_eq!(dx.len * n_out, dy.len * n_in);
        self.matmul(dx, false, Matrix::new(dy, n_out), Matrix::new(weight, n_out).t())
    }

    /// `dW += x^T dy`, `db += sum_rows dy`.
    pub(super) fn parameter_gradients<T: Element>(
        &self,
        x: Array<'_, T>,
        dy: Array<'_, T>,
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
        let name = name_of!("mixce_column_sums", T);
        // SAFETY: the arguments are those of the kernel; dy has n rows of dbias's length.
        unsafe { launch!(self, "linear", name, grid, dy, dbias, n as u64, columns) }
    }
}

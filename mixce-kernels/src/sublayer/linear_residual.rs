//! An affine map, dropout and the residual sum: the way out of attention.

use candle_core::{Result, Tensor};

use super::{block_buffer, blocks, check, check_gradients};
use crate::cpu::{with_slices, with_slices_mut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::packed::with_weight;
use crate::residual::{self, Dropout, active};
use crate::{Affine, Precision, linear};

/// `y = residual + dropout(x W + b)`: `x` `[N, in]`, `residual` and the result `[N, C]`; the mask is that of
/// [`crate::dropout`].
///
/// # Errors
/// When shapes do not fit, the dropout probability is outside `[0, 1)`, or a tensor is not fused ([`super::is_fused`]).
pub fn linear_residual(
    x: &Tensor,
    affine: &Affine,
    residual: &Tensor,
    dropout: Dropout,
    precision: Precision,
) -> Result<Tensor> {
    let (n, n_in) = x.dims2()?;
    linear::check(x, &affine.weight, &affine.bias)?;
    let (c, dropout) = (affine.bias.elem_count(), active(dropout)?);
    check("residual of linear_residual", residual, &[n, c])?;
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(residual) {
        return cuda::in_precision!(precision, cuda::sublayer::linear_residual(x, affine, residual, dropout));
    }
    let mut y = vec![0f32; n * c];
    let op = "linear_residual";
    with_slices(op, [x, &affine.bias, residual], |[x, bias, residual]| {
        with_weight(op, &affine.weight, |weight| {
            for (start, rows) in blocks(n) {
                let y = &mut y[start * c..][..rows * c];
                linear::product(precision, &x[start * n_in..][..rows * n_in], weight, c, y);
                residual::forward(y, &residual[start * c..][..rows * c], bias, dropout, start);
            }
        })
    })??;
    Tensor::from_vec(y, (n, c), x.device())
}

/// The backward pass of [`linear_residual`]: returns the gradient of `x`, and adds those of the parameters to `daffine`. The
/// gradient of the residual is `dy` itself.
///
/// # Errors
/// When shapes do not fit or a tensor is not fused ([`super::is_fused`]).
pub fn linear_residual_backward(
    x: &Tensor,
    affine: &Affine,
    dropout: Dropout,
    dy: &Tensor,
    daffine: &Affine,
    precision: Precision,
) -> Result<Tensor> {
    let op = "linear_residual backward";
    let (n, n_in) = x.dims2()?;
    let (c, dropout) = (affine.bias.elem_count(), active(dropout)?);
    linear::check(x, &affine.weight, &affine.bias)?;
    check("gradient of linear_residual", dy, &[n, c])?;
    check_gradients("gradient of linear_residual's map", affine, daffine)?;
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(dy) {
        return cuda::in_precision!(
            precision,
            cuda::sublayer::linear_residual_backward(x, affine, dropout, dy, daffine)
        );
    }
    let mut dx = vec![0f32; n * n_in];
    with_slices(op, [x, &affine.weight, dy], |[x, weight, dy]| {
        with_slices_mut(op, [&daffine.weight, &daffine.bias], |[dweight, dbias]| {
            let mut dbranch = block_buffer(n, c);
            for (start, rows) in blocks(n) {
                let dbranch = &mut dbranch[..rows * c];
                residual::backward(&dy[start * c..][..rows * c], dropout, c, start, dbranch);
                let (x, dx) = (&x[start * n_in..][..rows * n_in], &mut dx[start * n_in..][..rows * n_in]);
                linear::backward(precision, (x, weight), dbranch, dx, dweight, dbias);
            }
        })
    })??;
    Tensor::from_vec(dx, (n, n_in), x.device())
}

//! Layer norm and an affine map: the way into attention.

use candle_core::{Result, Tensor};

use super::{block_buffer, blocks, check, check_gradients};
use crate::cpu::{with_slices, with_slices_mut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::packed::with_weight;
use crate::{Affine, Precision, layer_norm, linear};

/// `y = layer_norm(x) W + b`: `x` `[N, C]`, result `[N, out]`.
///
/// # Errors
/// When shapes do not fit or a tensor is not fused ([`super::is_fused`]).
pub fn norm_linear(
    x: &Tensor,
    norm: &Affine,
    eps: f64,
    affine: &Affine,
    precision: Precision,
) -> Result<Tensor> {
    let (n, c) = x.dims2()?;
    layer_norm::check(x, &norm.weight, &norm.bias)?;
    linear::check(x, &affine.weight, &affine.bias)?;
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        return cuda::in_precision!(precision, cuda::sublayer::norm_linear(x, norm, eps, affine));
    }
    let n_out = affine.bias.elem_count();
    let mut y = vec![0f32; n * n_out];
    let op = "norm_linear";
    with_slices(op, [x, &norm.weight, &norm.bias, &affine.bias], |[x, gain, shift, bias]| {
        with_weight(op, &affine.weight, |weight| {
            let mut normed = block_buffer(n, c);
            for (start, rows) in blocks(n) {
                let normed = &mut normed[..rows * c];
                layer_norm::forward(&x[start * c..][..rows * c], gain, shift, eps as f32, normed);
                linear::forward(precision, normed, weight, bias, &mut y[start * n_out..][..rows * n_out]);
            }
        })
    })??;
    Tensor::from_vec(y, (n, n_out), x.device())
}

/// The backward pass of [`norm_linear`]: adds the gradient of `x` to `dx` in place, and those of the parameters to `dnorm`
/// and `daffine`.
///
/// # Errors
/// When shapes do not fit or a tensor is not fused ([`super::is_fused`]).
pub fn norm_linear_backward(
    x: &Tensor,
    (norm, eps): (&Affine, f64),
    affine: &Affine,
    dy: &Tensor,
    dx: &Tensor,
    (dnorm, daffine): (&Affine, &Affine),
    precision: Precision,
) -> Result<()> {
    let op = "norm_linear backward";
    let (n, c) = x.dims2()?;
    let n_out = affine.bias.elem_count();
    layer_norm::check(x, &norm.weight, &norm.bias)?;
    linear::check(x, &affine.weight, &affine.bias)?;
    check("gradient of norm_linear", dy, &[n, n_out])?;
    check("gradient of norm_linear's input", dx, &[n, c])?;
    check_gradients("gradient of norm_linear's norm", norm, dnorm)?;
    check_gradients("gradient of norm_linear's map", affine, daffine)?;
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        return cuda::in_precision!(
            precision,
            cuda::sublayer::norm_linear_backward(x, (norm, eps), affine, dy, dx, (dnorm, daffine))
        );
    }
    let inputs = [x, &norm.weight, &norm.bias, &affine.weight, dy];
    let gradients = [dx, &dnorm.weight, &dnorm.bias, &daffine.weight, &daffine.bias];
    with_slices(op, inputs, |[x, gain, shift, weight, dy]| {
        with_slices_mut(op, gradients, |[dx, dgain, dshift, dweight, dbias]| {
            let (mut normed, mut dnormed) = (block_buffer(n, c), block_buffer(n, c));
            for (start, rows) in blocks(n) {
                let (normed, dnormed) = (&mut normed[..rows * c], &mut dnormed[..rows * c]);
                let (x, dy) = (&x[start * c..][..rows * c], &dy[start * n_out..][..rows * n_out]);
                layer_norm::forward(x, gain, shift, eps as f32, normed);
                linear::backward(precision, (normed, weight), dy, dnormed, dweight, dbias);
                let dx = &mut dx[start * c..][..rows * c];
                layer_norm::backward((x, gain, eps as f32), dnormed, dx, dgain, dshift);
            }
        })
    })?
}

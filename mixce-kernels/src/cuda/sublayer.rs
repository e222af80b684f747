//! The sublayers of `crate::sublayer` on CUDA: all rows at once, what lies between two matrix products computed again in the
//! backward pass. Shapes are checked by the callers.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

use candle_core::{DType, Result, Tensor};

use super::{uninitialised, with_arrays};
use crate::Affine;
use crate::activation::Activation;
use crate::residual::Dropout;
use crate::sublayer::Mlp;

/// A buffer of rows for a result.
fn buffer(like: &Tensor, n: usize, c: usize) -> Result<Tensor> {
    uninitialised((n, c), DType::F32, like)
}

pub(crate) fn norm_linear(x: &Tensor, norm: &Affine, eps: f64, affine: &Affine) -> Result<Tensor> {
    let ((n, c), n_out) = (x.dims2()?, affine.bias.elem_count());
    let (normed, y) = (buffer(x, n, c)?, buffer(x, n, n_out)?);
    let inputs = [x, &norm.weight, &norm.bias, &affine.weight, &affine.bias];
    with_arrays("norm_linear", inputs, [&normed, &y], |gpu, [x, gain, shift, weight, bias], [normed, y]| {
        gpu.layer_norm(x, (gain, shift), eps as f32, normed)?;
        gpu.linear(normed, (weight, bias), y)
    })?;
    Ok(y)
}

pub(crate) fn norm_linear_backward(
    x: &Tensor,
    (norm, eps): (&Affine, f64),
    affine: &Affine,
    dy: &Tensor,
    dx: &Tensor,
    (dnorm, daffine): (&Affine, &Affine),
) -> Result<()> {
    let (op, (n, c), eps) = ("norm_linear backward", x.dims2()?, eps as f32);
    let (normed, moments) = (buffer(x, n, c)?, buffer(x, n, 2)?);
    let inputs = [x, &norm.weight, &norm.bias, &affine.weight, dy];
    let changed = [&normed, &moments, dx, &dnorm.weight, &dnorm.bias, &daffine.weight, &daffine.bias];
    with_arrays(op, inputs, changed, |gpu, [x, gain, shift, weight, dy], changed| {
        let [normed, moments, dx, dgain, dshift, dweight, dbias] = changed;
        gpu.layer_norm(x, (gain, shift), eps, normed)?;
        gpu.parameter_gradients(normed, dy, (dweight, dbias))?;
        // The normalised rows are done with: their memory takes their gradient.
        gpu.input_gradient(weight, dy, dbias.len, normed)?;
        gpu.layer_norm_backward((x, gain, eps), normed, dx, (dgain, dshift), moments)
    })
}

pub(crate) fn layer_norm_backward(
    x: &Tensor,
    (norm, eps): (&Affine, f64),
    dy: &Tensor,
    dx: &Tensor,
    dnorm: &Affine,
) -> Result<()> {
    let (op, rows) = ("layer_norm backward", x.elem_count() / norm.weight.elem_count().max(1));
    let moments = buffer(x, rows, 2)?;
    let changed = [&moments, dx, &dnorm.weight, &dnorm.bias];
    with_arrays(op, [x, &norm.weight, dy], changed, |gpu, [x, gain, dy], [moments, dx, dgain, dshift]| {
        gpu.layer_norm_backward((x, gain, eps as f32), dy, dx, (dgain, dshift), moments)
    })
}

pub(crate) fn linear_backward(x: &Tensor, affine: &Affine, dy: &Tensor, daffine: &Affine) -> Result<Tensor> {
    let (n, n_in) = x.dims2()?;
    let dx = buffer(x, n, n_in)?;
    let changed = [&dx, &daffine.weight, &daffine.bias];
    with_arrays("linear backward", [x, &affine.weight, dy], changed, |gpu, [x, weight, dy], changed| {
        let [dx, dweight, dbias] = changed;
        gpu.linear_backward((x, weight), dy, dx, (dweight, dbias))
    })?;
    Ok(dx)
}

pub(crate) fn linear_residual(
    x: &Tensor,
    affine: &Affine,
    residual: &Tensor,
    dropout: Dropout,
) -> Result<Tensor> {
    let (n, c) = residual.dims2()?;
    let y = buffer(x, n, c)?;
    let inputs = [x, &affine.weight, &affine.bias, residual];
    with_arrays("linear_residual", inputs, [&y], |gpu, [x, weight, bias, residual], [y]| {
        gpu.product(x, weight, c, y)?;
        gpu.residual(residual, (y, Some(bias)), c, dropout, y)
    })?;
    Ok(y)
}

pub(crate) fn linear_residual_backward(
    x: &Tensor,
    affine: &Affine,
    dropout: Dropout,
    dy: &Tensor,
    daffine: &Affine,
) -> Result<Tensor> {
    linear_backward(x, affine, &dropped(dy, dropout)?, daffine)
}

/// `dropout(dy)`: the gradient of a dropped branch.
fn dropped(dy: &Tensor, dropout: Dropout) -> Result<Tensor> {
    if dropout.is_none() {
        return Ok(dy.clone());
    }
    let dbranch = uninitialised(dy.shape(), DType::F32, dy)?;
    with_arrays("dropout", [dy], [&dbranch], |gpu, [dy], [dbranch]| gpu.dropout(dy, dropout, dbranch))?;
    Ok(dbranch)
}

pub(crate) fn mlp_residual(
    x: &Tensor,
    mlp: &Mlp,
    eps: f64,
    activation: Activation,
    dropout: Dropout,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let ((n, c), inner) = (x.dims2()?, mlp.c_fc.bias.elem_count());
    let (normed, active, y) = (buffer(x, n, c)?, buffer(x, n, inner)?, buffer(x, n, c)?);
    let before = buffer(x, if keep { n } else { 0 }, inner)?;
    let (norm, fc, proj) = (&mlp.norm, &mlp.c_fc, &mlp.c_proj);
    let inputs = [x, &norm.weight, &norm.bias, &fc.weight, &fc.bias, &proj.weight, &proj.bias];
    with_arrays(
        "mlp",
        inputs,
        [&normed, &active, &before, &y],
        |gpu, inputs, [normed, active, before, y]| {
            let [x, gain, shift, w_fc, b_fc, w_proj, b_proj] = inputs;
            gpu.layer_norm(x, (gain, shift), eps as f32, normed)?;
            gpu.product(normed, w_fc, inner, active)?;
            gpu.bias_activation(activation, active, b_fc, keep.then_some(before))?;
            gpu.product(active, w_proj, c, y)?;
            gpu.residual(x, (y, Some(b_proj)), c, dropout, y)
        },
    )?;
    Ok((y, keep.then_some(before)))
}

pub(crate) fn mlp_residual_backward(
    (x, before): (&Tensor, &Tensor),
    (mlp, eps): (&Mlp, f64),
    activation: Activation,
    dropout: Dropout,
    dx: &Tensor,
    gradients: &Mlp,
) -> Result<()> {
    let ((n, c), inner, eps) = (x.dims2()?, mlp.c_fc.bias.elem_count(), eps as f32);
    let dbranch = dropped(dx, dropout)?;
    let (normed, moments) = (buffer(x, n, c)?, buffer(x, n, 2)?);
    let (active, dactive) = (buffer(x, n, inner)?, buffer(x, n, inner)?);
    let (norm, w_fc, w_proj) = (&mlp.norm, &mlp.c_fc.weight, &mlp.c_proj.weight);
    let Mlp { norm: dnorm, c_fc, c_proj } = gradients;
    let op = "mlp backward";
    let inputs = [x, before, &norm.weight, &norm.bias, w_fc, w_proj, &dbranch];
    let buffers = [&normed, &moments, &active, &dactive];
    let sums = [dx, &dnorm.weight, &dnorm.bias, &c_fc.weight, &c_fc.bias, &c_proj.weight, &c_proj.bias];
    with_arrays(op, inputs, buffers, |gpu, inputs, [normed, moments, active, dactive]| {
        let [x, before, gain, shift, w_fc, w_proj, dbranch] = inputs;
        with_arrays(op, [], sums, |_, [], [dx, dgain, dshift, dw_fc, db_fc, dw_proj, db_proj]| {
            gpu.input_gradient(w_proj, dbranch, c, dactive)?;
            gpu.activation_backward(activation, (before, dactive), Some(active), dactive)?;
            gpu.parameter_gradients(active, dbranch, (dw_proj, db_proj))?;
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.parameter_gradients(normed, dactive, (dw_fc, db_fc))?;
            // The normalised rows are done with: their memory takes their gradient.
            gpu.input_gradient(w_fc, dactive, inner, normed)?;
            gpu.layer_norm_backward((x, gain, eps), normed, dx, (dgain, dshift), moments)
        })
    })
}

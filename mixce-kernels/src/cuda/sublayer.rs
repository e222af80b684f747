//! The sublayers of `crate::sublayer` on CUDA: all rows at once, what lies between two matrix products computed again in the
//! backward pass. Shapes are checked by the callers.
//!
//! T is the type of the operands of matrix products, and of what stays inside a branch: normalised rows, queries, keys and
//! values, attended values, the inside of the MLP, and their gradients. Kernels write it as they go; only weights, and no
//! activations, have to be converted for it. The residual stream and its gradient, parameters and their gradients are f32.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

use candle_core::{DType, Result, Tensor};

use super::cast::{operand, operands};
use super::{Element, uninitialised, with_arrays};
use crate::Affine;
use crate::activation::Activation;
use crate::residual::Dropout;
use crate::sublayer::Mlp;

/// A buffer of rows for a result.
fn buffer<T: Element>(like: &Tensor, n: usize, c: usize) -> Result<Tensor> {
    uninitialised((n, c), T::DTYPE, like)
}

pub(crate) fn norm_linear<T: Element>(
    x: &Tensor,
    norm: &Affine,
    eps: f64,
    affine: &Affine,
) -> Result<Tensor> {
    let ((n, c), n_out, op) = (x.dims2()?, affine.bias.elem_count(), "norm_linear");
    let (normed, y) = (buffer::<T>(x, n, c)?, buffer::<T>(x, n, n_out)?);
    let weight = operand::<T>(&affine.weight)?;
    let inputs = [x, &norm.weight, &norm.bias, &affine.bias];
    with_arrays(op, inputs, [], |_, [x, gain, shift, bias], []| {
        with_arrays::<T, _, 1, 2>(op, [&weight], [&normed, &y], |gpu, [weight], [normed, y]| {
            gpu.layer_norm(x, (gain, shift), eps as f32, normed)?;
            gpu.linear(normed, (weight, bias), y)
        })
    })?;
    Ok(y)
}

pub(crate) fn norm_linear_backward<T: Element>(
    x: &Tensor,
    (norm, eps): (&Affine, f64),
    affine: &Affine,
    dy: &Tensor,
    dx: &Tensor,
    (dnorm, daffine): (&Affine, &Affine),
) -> Result<()> {
    let (op, (n, c), eps) = ("norm_linear backward", x.dims2()?, eps as f32);
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let weight = operand::<T>(&affine.weight)?;
    let inputs = [x, &norm.weight, &norm.bias];
    let changed = [&moments, dx, &dnorm.weight, &dnorm.bias, &daffine.weight, &daffine.bias];
    with_arrays(op, inputs, changed, |_, [x, gain, shift], changed| {
        let [moments, dx, dgain, dshift, dweight, dbias] = changed;
        with_arrays::<T, _, 2, 1>(op, [&weight, dy], [&normed], |gpu, [weight, dy], [normed]| {
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.parameter_gradients(normed, dy, (dweight, dbias))?;
            // The normalised rows are done with: their memory takes their gradient.
            gpu.input_gradient(weight, dy, dbias.len, normed)?;
            gpu.layer_norm_backward((x, gain, eps), normed, dx, (dgain, dshift), moments)
        })
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
    let moments = buffer::<f32>(x, rows, 2)?;
    let changed = [&moments, dx, &dnorm.weight, &dnorm.bias];
    with_arrays(op, [x, &norm.weight, dy], changed, |gpu, [x, gain, dy], [moments, dx, dgain, dshift]| {
        gpu.layer_norm_backward::<f32>((x, gain, eps as f32), dy, dx, (dgain, dshift), moments)
    })
}

/// `dy` and the result are T.
pub(crate) fn linear_backward<T: Element>(
    x: &Tensor,
    affine: &Affine,
    dy: &Tensor,
    daffine: &Affine,
) -> Result<Tensor> {
    let ((n, n_in), op) = (x.dims2()?, "linear backward");
    let (weight, dx) = (operand::<T>(&affine.weight)?, buffer::<T>(x, n, n_in)?);
    with_arrays(op, [], [&daffine.weight, &daffine.bias], |_, [], [dweight, dbias]| {
        with_arrays::<T, _, 3, 1>(op, [x, &weight, dy], [&dx], |gpu, [x, weight, dy], [dx]| {
            gpu.linear_backward((x, weight), dy, dx, (dweight, dbias))
        })
    })?;
    Ok(dx)
}

pub(crate) fn linear_residual<T: Element>(
    x: &Tensor,
    affine: &Affine,
    residual: &Tensor,
    dropout: Dropout,
) -> Result<Tensor> {
    let ((n, c), op) = (residual.dims2()?, "linear_residual");
    let (weight, y) = (operand::<T>(&affine.weight)?, buffer::<f32>(x, n, c)?);
    with_arrays(op, [&affine.bias, residual], [&y], |_, [bias, residual], [y]| {
        with_arrays::<T, _, 2, 0>(op, [x, &weight], [], |gpu, [x, weight], []| {
            gpu.product(x, weight, c, y)?;
            gpu.residual(residual, (y, Some(bias)), c, dropout, y)
        })
    })?;
    Ok(y)
}

pub(crate) fn linear_residual_backward<T: Element>(
    x: &Tensor,
    affine: &Affine,
    dropout: Dropout,
    dy: &Tensor,
    daffine: &Affine,
) -> Result<Tensor> {
    linear_backward::<T>(x, affine, &dropped::<T>(dy, dropout)?, daffine)
}

/// `dropout(dy)` as T: the gradient of a dropped branch.
fn dropped<T: Element>(dy: &Tensor, dropout: Dropout) -> Result<Tensor> {
    if dropout.is_none() && T::DTYPE == DType::F32 {
        return Ok(dy.clone());
    }
    let dbranch = uninitialised(dy.shape(), T::DTYPE, dy)?;
    with_arrays("dropout", [dy], [], |gpu, [dy], []| {
        with_arrays::<T, _, 0, 1>("dropout", [], [&dbranch], |_, [], [dbranch]| {
            gpu.dropout(dy, dropout, dbranch)
        })
    })?;
    Ok(dbranch)
}

pub(crate) fn mlp_residual<T: Element>(
    x: &Tensor,
    mlp: &Mlp,
    eps: f64,
    activation: Activation,
    dropout: Dropout,
    keep: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let ((n, c), inner, op) = (x.dims2()?, mlp.c_fc.bias.elem_count(), "mlp");
    let (normed, active) = (buffer::<T>(x, n, c)?, buffer::<T>(x, n, inner)?);
    let (before, y) = (buffer::<T>(x, if keep { n } else { 0 }, inner)?, buffer::<f32>(x, n, c)?);
    let (norm, fc, proj) = (&mlp.norm, &mlp.c_fc, &mlp.c_proj);
    let [w_fc, w_proj] = operands::<T>(&fc.weight, &proj.weight)?;
    let inputs = [x, &norm.weight, &norm.bias, &fc.bias, &proj.bias];
    with_arrays(op, inputs, [&y], |_, [x, gain, shift, b_fc, b_proj], [y]| {
        let buffers = [&normed, &active, &before];
        with_arrays::<T, _, 2, 3>(op, [&w_fc, &w_proj], buffers, |gpu, [w_fc, w_proj], buffers| {
            let [normed, active, before] = buffers;
            gpu.layer_norm(x, (gain, shift), eps as f32, normed)?;
            gpu.product(normed, w_fc, inner, active)?;
            gpu.bias_activation(activation, active, b_fc, keep.then_some(before))?;
            gpu.product(active, w_proj, c, y)?;
            gpu.residual(x, (y, Some(b_proj)), c, dropout, y)
        })
    })?;
    Ok((y, keep.then_some(before)))
}

pub(crate) fn mlp_residual_backward<T: Element>(
    (x, before): (&Tensor, &Tensor),
    (mlp, eps): (&Mlp, f64),
    activation: Activation,
    dropout: Dropout,
    dx: &Tensor,
    gradients: &Mlp,
) -> Result<()> {
    let ((n, c), inner, eps) = (x.dims2()?, mlp.c_fc.bias.elem_count(), eps as f32);
    let dbranch = dropped::<T>(dx, dropout)?;
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let (active, dactive) = (buffer::<T>(x, n, inner)?, buffer::<T>(x, n, inner)?);
    let [w_fc, w_proj] = operands::<T>(&mlp.c_fc.weight, &mlp.c_proj.weight)?;
    let Mlp { norm: dnorm, c_fc, c_proj } = gradients;
    let (op, norm) = ("mlp backward", &mlp.norm);
    let changed =
        [&moments, dx, &dnorm.weight, &dnorm.bias, &c_fc.weight, &c_fc.bias, &c_proj.weight, &c_proj.bias];
    with_arrays(op, [x, &norm.weight, &norm.bias], changed, |_, [x, gain, shift], changed| {
        let [moments, dx, dgain, dshift, dw_fc, db_fc, dw_proj, db_proj] = changed;
        let (inputs, buffers) = ([before, &w_fc, &w_proj, &dbranch], [&normed, &active, &dactive]);
        with_arrays::<T, _, 4, 3>(op, inputs, buffers, |gpu, inputs, [normed, active, dactive]| {
            let [before, w_fc, w_proj, dbranch] = inputs;
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

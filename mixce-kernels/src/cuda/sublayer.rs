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
use super::{Element, Gpu, in_precision, uninitialised, with_arrays};
use crate::dropout::Dropout;
use crate::sublayer::{LinearResidual, Mlp, MlpGradients, NormLinear, NormLinearGradients};
use crate::{AffineGradients, Norm, Precision};

impl Gpu<'_> {
    pub(crate) fn norm_linear(
        &self,
        sublayer: &NormLinear,
        x: &Tensor,
        precision: Precision,
    ) -> Result<Tensor> {
        in_precision!(precision, norm_linear(sublayer, x))
    }

    pub(crate) fn norm_linear_backward(
        &self,
        sublayer: &NormLinear,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &NormLinearGradients,
        precision: Precision,
    ) -> Result<()> {
        in_precision!(precision, norm_linear_backward(sublayer, x, dy, dx, gradients))
    }

    pub(crate) fn linear_residual(
        &self,
        sublayer: &LinearResidual,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
    ) -> Result<Tensor> {
        in_precision!(precision, linear_residual(sublayer, x, residual, dropout))
    }

    pub(crate) fn linear_residual_backward(
        &self,
        sublayer: &LinearResidual,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
        gradients: &AffineGradients,
        precision: Precision,
    ) -> Result<Tensor> {
        in_precision!(precision, linear_residual_backward(sublayer, x, dy, dropout, gradients))
    }

    pub(crate) fn mlp(
        &self,
        mlp: &Mlp,
        x: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
    ) -> Result<(Tensor, Tensor)> {
        in_precision!(precision, mlp_forward(mlp, x, dropout, save))
    }

    pub(crate) fn mlp_backward(
        &self,
        mlp: &Mlp,
        saved: [&Tensor; 2],
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &MlpGradients,
        precision: Precision,
    ) -> Result<()> {
        in_precision!(precision, mlp_backward(mlp, saved, dropout, dx, gradients))
    }

    pub(crate) fn norm_backward(
        &self,
        norm: &Norm,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &AffineGradients,
    ) -> Result<()> {
        let (op, eps) = ("norm backward", norm.epsilon as f32);
        let (norm, gradients) = (norm.plain()?, gradients.plain()?);
        let rows = x.elem_count() / norm.weight.elem_count().max(1);
        let moments = buffer::<f32>(x, rows, 2)?;
        let changed = [&moments, dx, gradients.weight, gradients.bias];
        with_arrays(op, [x, norm.weight, dy], changed, |gpu, [x, gain, dy], [moments, dx, dgain, dshift]| {
            gpu.add_layer_norm_gradients::<f32>((x, gain, eps), dy, dx, (dgain, dshift), moments)
        })
    }

    /// The gradient of `x` in f32; those of the parameters are added to `gradients`.
    pub(crate) fn linear_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        gradients: &AffineGradients,
    ) -> Result<Tensor> {
        linear_backward::<f32>(x, weight, dy, gradients)
    }
}

/// A buffer of rows for a result.
fn buffer<T: Element>(like: &Tensor, n: usize, c: usize) -> Result<Tensor> {
    uninitialised((n, c), T::DTYPE, like)
}

fn norm_linear<T: Element>(sublayer: &NormLinear, x: &Tensor) -> Result<Tensor> {
    let ([norm, map], eps) = (sublayer.plain()?, sublayer.norm.epsilon as f32);
    let ((n, c), n_out, op) = (x.dims2()?, map.bias.elem_count(), "norm_linear");
    let (normed, y) = (buffer::<T>(x, n, c)?, buffer::<T>(x, n, n_out)?);
    let weight = operand::<T>(map.weight)?;
    let inputs = [x, norm.weight, norm.bias, map.bias];
    with_arrays(op, inputs, [], |_, [x, gain, shift, bias], []| {
        with_arrays::<T, _, 1, 2>(op, [&weight], [&normed, &y], |gpu, [weight], [normed, y]| {
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.linear(normed, (weight, bias), y)
        })
    })?;
    Ok(y)
}

fn norm_linear_backward<T: Element>(
    sublayer: &NormLinear,
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    gradients: &NormLinearGradients,
) -> Result<()> {
    let ([norm, map], [dnorm, dmap]) = (sublayer.plain()?, gradients.plain()?);
    let (op, (n, c), eps) = ("norm_linear backward", x.dims2()?, sublayer.norm.epsilon as f32);
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let weight = operand::<T>(map.weight)?;
    let inputs = [x, norm.weight, norm.bias];
    let changed = [&moments, dx, dnorm.weight, dnorm.bias, dmap.weight, dmap.bias];
    with_arrays(op, inputs, changed, |_, [x, gain, shift], changed| {
        let [moments, dx, dgain, dshift, dweight, dbias] = changed;
        with_arrays::<T, _, 2, 1>(op, [&weight, dy], [&normed], |gpu, [weight, dy], [normed]| {
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.parameter_gradients(normed, dy, (dweight, dbias))?;
            // The normalised rows have served: their memory takes their gradient.
            gpu.input_gradient(weight, dy, dbias.len, normed)?;
            gpu.add_layer_norm_gradients((x, gain, eps), normed, dx, (dgain, dshift), moments)
        })
    })
}

/// `dy` and the result are T.
fn linear_backward<T: Element>(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    gradients: &AffineGradients,
) -> Result<Tensor> {
    let ((n, n_in), op, gradients) = (x.dims2()?, "linear backward", gradients.plain()?);
    let (weight, dx) = (operand::<T>(weight)?, buffer::<T>(x, n, n_in)?);
    with_arrays(op, [], [gradients.weight, gradients.bias], |_, [], [dweight, dbias]| {
        with_arrays::<T, _, 3, 1>(op, [x, &weight, dy], [&dx], |gpu, [x, weight, dy], [dx]| {
            gpu.add_linear_gradients((x, weight), dy, dx, (dweight, dbias))
        })
    })?;
    Ok(dx)
}

fn linear_residual<T: Element>(
    LinearResidual { map }: &LinearResidual,
    x: &Tensor,
    residual: &Tensor,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let ((n, c), op, map) = (residual.dims2()?, "linear_residual", map.plain()?);
    let (weight, y) = (operand::<T>(map.weight)?, buffer::<f32>(x, n, c)?);
    with_arrays(op, [map.bias, residual], [&y], |_, [bias, residual], [y]| {
        with_arrays::<T, _, 2, 0>(op, [x, &weight], [], |gpu, [x, weight], []| {
            gpu.product(x, weight, c, y)?;
            gpu.residual(residual, (y, Some(bias)), c, dropout, y)
        })
    })?;
    Ok(y)
}

fn linear_residual_backward<T: Element>(
    LinearResidual { map }: &LinearResidual,
    x: &Tensor,
    dy: &Tensor,
    dropout: Option<Dropout>,
    gradients: &AffineGradients,
) -> Result<Tensor> {
    linear_backward::<T>(x, map.plain()?.weight, &dropped::<T>(dy, dropout)?, gradients)
}

/// `dropout(dy)` as T: the gradient of a dropped branch.
fn dropped<T: Element>(dy: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
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

fn mlp_forward<T: Element>(
    mlp: &Mlp,
    x: &Tensor,
    dropout: Option<Dropout>,
    save: bool,
) -> Result<(Tensor, Tensor)> {
    let (norm, up, down) = (mlp.norm.plain()?, mlp.up.plain()?, mlp.down.plain()?);
    let ((n, c), inner, op) = (x.dims2()?, up.bias.elem_count(), "mlp");
    let (normed, active) = (buffer::<T>(x, n, c)?, buffer::<T>(x, n, inner)?);
    let (saved, y) = (buffer::<T>(x, if save { n } else { 0 }, inner)?, buffer::<f32>(x, n, c)?);
    let (inputs, eps) = ([x, norm.weight, norm.bias, up.bias, down.bias], mlp.norm.epsilon as f32);
    let [up, down] = operands::<T>(up.weight, down.weight)?;
    with_arrays(op, inputs, [&y], |_, [x, gain, shift, b_up, b_down], [y]| {
        let buffers = [&normed, &active, &saved];
        with_arrays::<T, _, 2, 3>(op, [&up, &down], buffers, |gpu, [up, down], [normed, active, saved]| {
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.product(normed, up, inner, active)?;
            gpu.bias_activation(mlp.activation, active, b_up, save.then_some(saved))?;
            gpu.product(active, down, c, y)?;
            gpu.residual(x, (y, Some(b_down)), c, dropout, y)
        })
    })?;
    Ok((y, saved))
}

fn mlp_backward<T: Element>(
    mlp: &Mlp,
    [x, pre_activation]: [&Tensor; 2],
    dropout: Option<Dropout>,
    dx: &Tensor,
    gradients: &MlpGradients,
) -> Result<()> {
    let (norm, up, down) = (mlp.norm.plain()?, mlp.up.plain()?, mlp.down.plain()?);
    let (dnorm, dup, ddown) = (gradients.norm.plain()?, gradients.up.plain()?, gradients.down.plain()?);
    let ((n, c), inner) = (x.dims2()?, up.bias.elem_count());
    let dbranch = dropped::<T>(dx, dropout)?;
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let (active, dactive) = (buffer::<T>(x, n, inner)?, buffer::<T>(x, n, inner)?);
    let [up, down] = operands::<T>(up.weight, down.weight)?;
    let (op, eps) = ("mlp backward", mlp.norm.epsilon as f32);
    let changed = [&moments, dx, dnorm.weight, dnorm.bias, dup.weight, dup.bias, ddown.weight, ddown.bias];
    with_arrays(op, [x, norm.weight, norm.bias], changed, |_, [x, gain, shift], changed| {
        let [moments, dx, dgain, dshift, dup, db_up, ddown, db_down] = changed;
        let (inputs, buffers) = ([pre_activation, &up, &down, &dbranch], [&normed, &active, &dactive]);
        with_arrays::<T, _, 4, 3>(op, inputs, buffers, |gpu, inputs, [normed, active, dactive]| {
            let [pre_activation, up, down, dbranch] = inputs;
            gpu.input_gradient(down, dbranch, c, dactive)?;
            gpu.activation_backward(mlp.activation, (pre_activation, dactive), Some(active), dactive)?;
            gpu.parameter_gradients(active, dbranch, (ddown, db_down))?;
            gpu.layer_norm(x, (gain, shift), eps, normed)?;
            gpu.parameter_gradients(normed, dactive, (dup, db_up))?;
            // The normalised rows have served: their memory takes their gradient.
            gpu.input_gradient(up, dactive, inner, normed)?;
            gpu.add_layer_norm_gradients((x, gain, eps), normed, dx, (dgain, dshift), moments)
        })
    })
}

//! The sublayers of `crate::sublayer` on CUDA: all rows at once, what lies between two matrix products computed again in the
//! backward pass. Shapes are checked by the callers.
//!
//! T is the type of the operands of matrix products, and of what stays inside a branch: normalised rows, queries, keys and
//! values, attended values, the inside of the MLP, and their gradients. Kernels write it as they go; only weights, and no
//! activations, have to be converted for it. The residual stream and its gradient, parameters and their gradients are f32.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

use candle_core::{Result, Tensor};

use super::branch::{Below, dropped};
use super::cast::{operands, operands_and_biases};
use super::linear::Map;
use super::matmul::Matrix;
use super::{Element, Gpu, in_precision, uninitialised, with_parts};
use crate::dropout::Dropout;
use crate::sublayer::{
    Branch, BranchGradient, GatedMlp, GatedMlpGradients, LinearResidual, Mlp, MlpGradients, MlpOutput,
    Neighbours, NormLinear, NormLinearGradients, Normed,
};
use crate::{Activation, Affine, AffineGradients, Norm, Precision, StoredTensor};

impl Gpu<'_> {
    pub(crate) fn norm_linear(
        &self,
        sublayer: &NormLinear,
        (x, normed): (&Tensor, Option<Normed>),
        precision: Precision,
    ) -> Result<Tensor> {
        in_precision!(precision, norm_linear(sublayer, x, normed))
    }

    pub(crate) fn norm_linear_backward(
        &self,
        sublayer: &NormLinear,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &NormLinearGradients,
        (precision, below): (Precision, Option<Branch<'_>>),
    ) -> Result<Option<BranchGradient>> {
        in_precision!(precision, norm_linear_backward(sublayer, x, dy, dx, gradients, below))
    }

    pub(crate) fn linear_residual(
        &self,
        sublayer: &LinearResidual,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
        next: Option<&Norm>,
        precision: Precision,
    ) -> Result<(Tensor, Option<Tensor>)> {
        in_precision!(precision, linear_residual(sublayer, x, residual, dropout, next))
    }

    pub(crate) fn linear_residual_backward(
        &self,
        sublayer: &LinearResidual,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
        gradients: &AffineGradients,
        (precision, above): (Precision, Option<BranchGradient>),
    ) -> Result<Tensor> {
        in_precision!(precision, linear_residual_backward(sublayer, x, dy, dropout, gradients, above))
    }

    pub(crate) fn mlp(
        &self,
        mlp: &Mlp,
        (x, normed): (&Tensor, Option<Normed>),
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
        next: Option<&Norm>,
    ) -> Result<MlpOutput> {
        in_precision!(precision, mlp_forward(mlp, x, normed, dropout, save, next))
    }

    pub(crate) fn mlp_backward(
        &self,
        mlp: &Mlp,
        saved: [&Tensor; 2],
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &MlpGradients,
        (precision, neighbours): (Precision, Neighbours<'_>),
    ) -> Result<Option<BranchGradient>> {
        in_precision!(precision, mlp_backward(mlp, saved, dropout, dx, gradients, neighbours))
    }

    pub(crate) fn gated_mlp(
        &self,
        mlp: &GatedMlp,
        (x, normed): (&Tensor, Option<Normed>),
        dropout: Option<Dropout>,
        precision: Precision,
        next: Option<&Norm>,
    ) -> Result<MlpOutput> {
        in_precision!(precision, gated_mlp_forward(mlp, x, normed, dropout, next))
    }

    pub(crate) fn gated_mlp_backward(
        &self,
        mlp: &GatedMlp,
        saved: [&Tensor; 2],
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &GatedMlpGradients,
        (precision, neighbours): (Precision, Neighbours<'_>),
    ) -> Result<Option<BranchGradient>> {
        in_precision!(precision, gated_mlp_backward(mlp, saved, dropout, dx, gradients, neighbours))
    }

    pub(crate) fn norm_backward(
        &self,
        norm: &Norm,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &AffineGradients,
    ) -> Result<()> {
        let rows = x.elem_count() / norm.weight.elem_count().max(1);
        let moments = buffer::<f32>(x, rows, 2)?;
        let (inputs, changed) = ((x, norm, dy), (&moments, dx, gradients));
        with_parts::<f32, _, _, _>("norm backward", inputs, changed, |gpu, (x, norm, dy), changed| {
            let (moments, dx, sums) = changed;
            gpu.add_norm_gradients((x, norm), (dy, None), dx, sums, moments, None)
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
        linear_backward::<f32>(x, &Affine::new(weight.clone(), None), dy, gradients)
    }
}

/// A buffer of rows for a result.
fn buffer<T: Element>(like: &Tensor, n: usize, c: usize) -> Result<Tensor> {
    uninitialised((n, c), T::DTYPE, like)
}

/// The normalised rows of `x` if the sublayer before has computed them, else a buffer for them; and whether it has.
fn normed_rows<T: Element>(x: &Tensor, normed: Option<Normed>) -> Result<(Tensor, bool)> {
    let (n, c) = x.dims2()?;
    match normed {
        Some(Normed(normed)) if normed.dims() == [n, c] && normed.dtype() == T::DTYPE => Ok((normed, true)),
        _ => Ok((buffer::<T>(x, n, c)?, false)),
    }
}

/// The outputs of a map.
fn n_out(map: &Affine) -> Result<usize> {
    Ok(map.weight.dims2()?.1)
}

fn norm_linear<T: Element>(sublayer: &NormLinear, x: &Tensor, normed: Option<Normed>) -> Result<Tensor> {
    let NormLinear { norm, maps } = sublayer;
    let (op, (n, c), maps) = ("norm_linear", x.dims2()?, &maps.iter().collect::<Vec<_>>()[..]);
    let n_out = maps.iter().map(|map| n_out(map)).sum::<Result<usize>>()?;
    let ((normed, is_normed), y) = (normed_rows::<T>(x, normed)?, buffer::<T>(x, n, n_out)?);
    let ((weights, rounded), biases) = (operands_and_biases::<T>(maps, maps)?, biases(maps));
    with_parts::<f32, _, _, _>(op, (x, norm, &biases[..]), (), |_, (x, norm, biases), ()| {
        let (inputs, buffers) = ((&weights[..], &rounded[..]), (&normed, &y));
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, (weights, rounded), (normed, y)| {
            if !is_normed {
                gpu.norm(x, norm, normed)?;
            }
            gpu.maps(Matrix::new(normed, c), &Map::list(weights, biases, rounded), Matrix::new(y, n_out))
        })
    })?;
    Ok(y)
}

/// The biases of maps.
fn biases<'a>(maps: &[&'a Affine]) -> Vec<&'a Option<StoredTensor>> {
    maps.iter().map(|map| &map.bias).collect()
}

/// Maps whose biases do not matter.
fn without_biases<T: Element>(weights: Vec<Matrix<'_, T>>) -> Vec<Map<'_, T>> {
    weights.into_iter().map(|weight| Map { weight, bias: None, rounded_bias: None }).collect()
}

fn norm_linear_backward<T: Element>(
    sublayer: &NormLinear,
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    gradients: &NormLinearGradients,
    below: Option<Branch<'_>>,
) -> Result<Option<BranchGradient>> {
    let NormLinear { norm, maps } = sublayer;
    let (op, (n, c), n_out) = ("norm_linear backward", x.dims2()?, dy.dim(1)?);
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let weights = operands::<T>(&maps.iter().collect::<Vec<_>>())?;
    let below = Below::new::<T>(below, dx, None)?;
    let changed = (&moments, (dx, below.bias()), &gradients.norm, &gradients.maps[..]);
    with_parts::<f32, _, _, _>(op, (x, norm), changed, |_, (x, norm), changed| {
        let (moments, (dx, dbias), dnorm, dmaps) = changed;
        let (inputs, buffers) = ((dy, &weights[..]), (&normed, below.gradient()));
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, (dy, weights), (normed, dbelow)| {
            let (maps, rows, dy) = (without_biases(weights), Matrix::new(normed, c), Matrix::new(dy, n_out));
            gpu.input_gradients(&maps, dy, rows)?;
            // The normalised rows take the memory of their gradient.
            let (normed, below) = ((normed, Some(normed)), below.arrays(dbias, dbelow));
            gpu.add_norm_gradients((x, norm), normed, dx, dnorm, moments, below)?;
            gpu.parameters_gradients(&maps, rows, dy, &dmaps)
        })
    })?;
    Ok(below.finished())
}

/// `dy` and the result are T.
fn linear_backward<T: Element>(
    x: &Tensor,
    map: &Affine,
    dy: &Tensor,
    gradients: &AffineGradients,
) -> Result<Tensor> {
    let (op, (n, n_in), n_out) = ("linear backward", x.dims2()?, n_out(map)?);
    let (weight, dx) = (operands::<T>(&[map])?, buffer::<T>(x, n, n_in)?);
    with_parts::<f32, _, _, _>(op, (), gradients, |_, (), sums| {
        let inputs = (x, &weight[0], dy);
        with_parts::<T, _, _, _>(op, inputs, &dx, |gpu, (x, weight, dy), dx| {
            let (x, dy, dx) = (Matrix::new(x, n_in), Matrix::new(dy, n_out), Matrix::new(dx, n_in));
            gpu.input_gradient(weight, dy, dx, false)?;
            gpu.parameter_gradients(weight, x, dy, sums)
        })
    })?;
    Ok(dx)
}

fn linear_residual<T: Element>(
    LinearResidual { map }: &LinearResidual,
    x: &Tensor,
    residual: &Tensor,
    dropout: Option<Dropout>,
    next: Option<&Norm>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (op, (n, c), n_in) = ("linear_residual", residual.dims2()?, x.dim(1)?);
    let (weight, y) = (operands::<T>(&[map])?, buffer::<f32>(x, n, c)?);
    let normed = next.map(|_| buffer::<T>(x, n, c)).transpose()?;
    with_parts::<f32, _, _, _>(op, (residual, &map.bias, next), &y, |_, (residual, bias, next), y| {
        with_parts::<T, _, _, _>(op, (x, &weight[0]), &normed, |gpu, (x, weight), normed| {
            gpu.matmul(Matrix::new(y, c), false, Matrix::new(x, n_in), weight)?;
            gpu.residual_and_norm(residual, (y, bias), dropout, y, (c, next.zip(normed)))
        })
    })?;
    Ok((y, normed))
}

fn linear_residual_backward<T: Element>(
    LinearResidual { map }: &LinearResidual,
    x: &Tensor,
    dy: &Tensor,
    dropout: Option<Dropout>,
    gradients: &AffineGradients,
    above: Option<BranchGradient>,
) -> Result<Tensor> {
    let of_weight = AffineGradients { weight: gradients.weight.clone(), bias: None };
    linear_backward::<T>(x, map, &dropped::<T>(dy, dropout, &gradients.bias, above)?, &of_weight)
}

fn mlp_forward<T: Element>(
    mlp: &Mlp,
    x: &Tensor,
    normed: Option<Normed>,
    dropout: Option<Dropout>,
    save: bool,
    next: Option<&Norm>,
) -> Result<MlpOutput> {
    let Mlp { norm, up, down, activation } = mlp;
    let (op, (n, c), inner) = ("mlp", x.dims2()?, n_out(up)?);
    let ((normed, is_normed), active) = (normed_rows::<T>(x, normed)?, buffer::<T>(x, n, inner)?);
    let (saved, y) = (buffer::<T>(x, if save { n } else { 0 }, inner)?, buffer::<f32>(x, n, c)?);
    let with_epilogue: &[_] = if *activation == Activation::GeluNew { &[up] } else { &[] };
    let (weights, rounded) = operands_and_biases::<T>(&[up, down], with_epilogue)?;
    let inputs = (x, norm, &up.bias, &down.bias, next);
    with_parts::<f32, _, _, _>(op, inputs, &y, |_, (x, norm, b_up, b_down, next), y| {
        let buffers = (&normed, &active, &saved);
        let inputs = (&weights[0], rounded.first().and_then(Option::as_ref), &weights[1]);
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, inputs, (normed, active, saved)| {
            let (weight, rounded_bias, down) = inputs;
            let (rows, hidden) = (Matrix::new(normed, c), Matrix::new(active, inner));
            if !is_normed {
                gpu.norm(x, norm, normed)?;
            }
            let up = Map { weight, bias: b_up, rounded_bias };
            gpu.active_map(*activation, rows, up, active, save.then_some(saved))?;
            gpu.matmul(Matrix::new(y, c), false, hidden, down)?;
            // The normalised rows have served: their memory takes those of the result.
            gpu.residual_and_norm(x, (y, b_down), dropout, y, (c, next.map(|next| (next, normed))))
        })
    })?;
    Ok(MlpOutput { y, pre_activation: saved, normed: next.map(|_| Normed(normed)) })
}

fn mlp_backward<T: Element>(
    mlp: &Mlp,
    [x, pre_activation]: [&Tensor; 2],
    dropout: Option<Dropout>,
    dx: &Tensor,
    gradients: &MlpGradients,
    neighbours: Neighbours<'_>,
) -> Result<Option<BranchGradient>> {
    let Mlp { norm, up, down, activation } = mlp;
    let (op, (n, c), inner) = ("mlp backward", x.dims2()?, n_out(up)?);
    let dbranch = dropped::<T>(dx, dropout, &gradients.down.bias, neighbours.above)?;
    // That has served before the norm's backward pass: its memory takes the gradient of the branch below.
    let below = Below::new::<T>(neighbours.below, dx, Some((&dbranch, dropout)))?;
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let (active, dactive) = (buffer::<T>(x, n, inner)?, buffer::<T>(x, n, inner)?);
    let weights = operands::<T>(&[up, down])?;
    let changed = (&moments, (dx, below.bias()), &gradients.norm, &gradients.up, &gradients.down);
    with_parts::<f32, _, _, _>(op, (x, norm), changed, |_, (x, norm), changed| {
        let (moments, (dx, dbias), dnorm, dup, ddown) = changed;
        let inputs = (pre_activation, &weights[0], &weights[1], &dbranch);
        let buffers = (&normed, &active, &dactive, below.gradient());
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, inputs, (normed, active, dactive, dbelow)| {
            let (pre_activation, up, down, dbranch) = inputs;
            let (dbranch, rows) = (Matrix::new(dbranch, c), Matrix::new(normed, c));
            let (hidden, dhidden) = (Matrix::new(active, inner), Matrix::new(dactive, inner));
            gpu.input_gradient(down, dbranch, dhidden, false)?;
            let inputs = (pre_activation, dactive);
            gpu.bias_activation_backward(*activation, inputs, Some(active), dactive, (inner, dup.bias))?;
            gpu.weight_gradient(down, hidden, dbranch, ddown.weight)?;
            gpu.input_gradient(up, dhidden, rows, false)?;
            // The normalised rows take the memory of their gradient.
            let (normed, below) = ((normed, Some(normed)), below.arrays(dbias, dbelow));
            gpu.add_norm_gradients((x, norm), normed, dx, dnorm, moments, below)?;
            gpu.weight_gradient(up, rows, dhidden, dup.weight)
        })
    })?;
    Ok(below.finished())
}

fn gated_mlp_forward<T: Element>(
    mlp: &GatedMlp,
    x: &Tensor,
    normed: Option<Normed>,
    dropout: Option<Dropout>,
    next: Option<&Norm>,
) -> Result<MlpOutput> {
    let GatedMlp { norm, gate, up, activation, down } = mlp;
    let (op, (n, c), inner) = ("gated mlp", x.dims2()?, n_out(gate)?);
    let ((normed, is_normed), hidden) = (normed_rows::<T>(x, normed)?, buffer::<T>(x, n, inner)?);
    let (pre_activation, y) = (buffer::<T>(x, n, 2 * inner)?, buffer::<f32>(x, n, c)?);
    let (weights, rounded) = operands_and_biases::<T>(&[gate, up, down], &[gate, up])?;
    let inputs = (x, norm, [&gate.bias, &up.bias], &down.bias, next);
    with_parts::<f32, _, _, _>(op, inputs, &y, |_, (x, norm, biases, b_down, next), y| {
        let inputs = (&weights[..2], &rounded[..], &weights[2]);
        let buffers = (&normed, &pre_activation, &hidden);
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, (gate_up, rounded, down), buffers| {
            let (normed, pre_activation, hidden) = buffers;
            let gate_up = Map::list(gate_up, biases, rounded);
            if !is_normed {
                gpu.norm(x, norm, normed)?;
            }
            gpu.maps(Matrix::new(normed, c), &gate_up, Matrix::new(pre_activation, 2 * inner))?;
            gpu.gated(*activation, pre_activation, inner, hidden)?;
            gpu.matmul(Matrix::new(y, c), false, Matrix::new(hidden, inner), down)?;
            // The normalised rows have served: their memory takes those of the result.
            gpu.residual_and_norm(x, (y, b_down), dropout, y, (c, next.map(|next| (next, normed))))
        })
    })?;
    Ok(MlpOutput { y, pre_activation, normed: next.map(|_| Normed(normed)) })
}

fn gated_mlp_backward<T: Element>(
    mlp: &GatedMlp,
    [x, pre_activation]: [&Tensor; 2],
    dropout: Option<Dropout>,
    dx: &Tensor,
    gradients: &GatedMlpGradients,
    neighbours: Neighbours<'_>,
) -> Result<Option<BranchGradient>> {
    let GatedMlp { norm, gate, up, activation, down } = mlp;
    let (op, (n, c), inner) = ("gated mlp backward", x.dims2()?, n_out(gate)?);
    let dbranch = dropped::<T>(dx, dropout, &gradients.down.bias, neighbours.above)?;
    // That has served before the norm's backward pass: its memory takes the gradient of the branch below.
    let below = Below::new::<T>(neighbours.below, dx, Some((&dbranch, dropout)))?;
    let (normed, moments) = (buffer::<T>(x, n, c)?, buffer::<f32>(x, n, 2)?);
    let (hidden, dpre) = (buffer::<T>(x, n, inner)?, buffer::<T>(x, n, 2 * inner)?);
    let weights = operands::<T>(&[gate, up, down])?;
    let GatedMlpGradients { norm: dnorm, gate: dgate, up: dup, down: ddown } = gradients;
    let changed = (&moments, (dx, below.bias()), dnorm, [dgate, dup], ddown);
    with_parts::<f32, _, _, _>(op, (x, norm), changed, |_, (x, norm), changed| {
        let (moments, (dx, dbias), dnorm, dgate_up, ddown) = changed;
        let inputs = (pre_activation, &weights[..2], &weights[2], &dbranch);
        let buffers = (&normed, &hidden, &dpre, below.gradient());
        with_parts::<T, _, _, _>(op, inputs, buffers, |gpu, inputs, (normed, hidden, dpre, dbelow)| {
            let (pre_activation, gate_up, down, dbranch) = inputs;
            let (gate_up, dbranch) = (without_biases(gate_up), Matrix::new(dbranch, c));
            let (rows, active, dgate_up_rows) =
                (Matrix::new(normed, c), Matrix::new(hidden, inner), Matrix::new(dpre, 2 * inner));
            // The gradient of the product comes in, the product itself goes out.
            gpu.input_gradient(down, dbranch, active, false)?;
            gpu.gated_backward(*activation, pre_activation, inner, hidden, dpre)?;
            gpu.weight_gradient(down, active, dbranch, ddown.weight)?;
            gpu.input_gradients(&gate_up, dgate_up_rows, rows)?;
            // The normalised rows take the memory of their gradient.
            let (normed, below) = ((normed, Some(normed)), below.arrays(dbias, dbelow));
            gpu.add_norm_gradients((x, norm), normed, dx, dnorm, moments, below)?;
            gpu.parameters_gradients(&gate_up, rows, dgate_up_rows, &dgate_up)
        })
    })?;
    Ok(below.finished())
}

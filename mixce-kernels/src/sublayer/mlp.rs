//! The whole MLP sublayer: layer norm, two affine maps with an activation between them, dropout and the residual sum.

use candle_core::{Result, Tensor};

use super::{block_buffer, blocks, check, check_gradients};
use crate::activation::{Activation, backward_in_place, forward_into};
use crate::cpu::{with_slices, with_slices_mut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::packed::{self, Weight, with_weight};
use crate::residual::{self, Dropout, active};
use crate::{Affine, Precision, layer_norm, linear};

/// The parameters of an MLP sublayer, or their gradients.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// The layer norm before it, `[C]`.
    pub norm: Affine,
    /// The map into the MLP, `[C, I]`.
    pub c_fc: Affine,
    /// The map out of it, `[I, C]`.
    pub c_proj: Affine,
}

impl Mlp {
    /// The channels I inside the MLP; refuses parameters that do not fit `x`.
    fn check(&self, x: &Tensor) -> Result<usize> {
        let (_, c) = x.dims2()?;
        layer_norm::check(x, &self.norm.weight, &self.norm.bias)?;
        linear::check(x, &self.c_fc.weight, &self.c_fc.bias)?;
        let inner = self.c_fc.bias.elem_count();
        match packed::is_packed(&self.c_proj.weight) {
            true => packed::check(&self.c_proj.weight, inner, c)?,
            false => check("c_proj of the mlp", &self.c_proj.weight, &[inner, c])?,
        }
        check("bias of the mlp's c_proj", &self.c_proj.bias, &[c])?;
        Ok(inner)
    }
}

/// `y = x + dropout(f(layer_norm(x) W_fc + b_fc) W_proj + b_proj)`; `x` and the result are `[N, C]`.
///
/// With `keep`, also returns the input of the activation `f`, `[N, I]`, which [`mlp_residual_backward`] needs. The mask is
/// that of [`crate::dropout`].
///
/// # Errors
/// When shapes do not fit, the dropout probability is outside `[0, 1)`, or a tensor is not fused ([`super::is_fused`]).
pub fn mlp_residual(
    x: &Tensor,
    mlp: &Mlp,
    eps: f64,
    activation: Activation,
    dropout: Dropout,
    keep: bool,
    precision: Precision,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, c) = x.dims2()?;
    let (inner, dropout) = (mlp.check(x)?, active(dropout)?);
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        return cuda::in_precision!(
            precision,
            cuda::sublayer::mlp_residual(x, mlp, eps, activation, dropout, keep)
        );
    }
    let mut y = vec![0f32; n * c];
    let mut kept = if keep { vec![0f32; n * inner] } else { Vec::new() };
    let (norm, fc, proj) = (&mlp.norm, &mlp.c_fc, &mlp.c_proj);
    let inputs = [x, &norm.weight, &norm.bias, &fc.bias, &proj.bias];
    let mut pass = |[x, gain, shift, b_fc, b_proj]: [&[f32]; 5], w_fc: Weight<'_>, w_proj: Weight<'_>| {
        let (mut normed, mut active) = (block_buffer(n, c), block_buffer(n, inner));
        for (start, rows) in blocks(n) {
            let (normed, active) = (&mut normed[..rows * c], &mut active[..rows * inner]);
            let x = &x[start * c..][..rows * c];
            layer_norm::forward(x, gain, shift, eps as f32, normed);
            linear::product(precision, normed, w_fc, inner, active);
            let before = if keep { &mut kept[start * inner..][..rows * inner] } else { &mut [] };
            forward_into(activation, active, b_fc, before);
            let y = &mut y[start * c..][..rows * c];
            linear::product(precision, active, w_proj, c, y);
            residual::forward(y, x, b_proj, dropout, start);
        }
    };
    with_slices("mlp", inputs, |slices| {
        with_weight("mlp", &fc.weight, |w_fc| {
            with_weight("mlp", &proj.weight, |w_proj| pass(slices, w_fc, w_proj))
        })
    })???;
    let kept = keep.then(|| Tensor::from_vec(kept, (n, inner), x.device())).transpose()?;
    Ok((Tensor::from_vec(y, (n, c), x.device())?, kept))
}

/// The backward pass of [`mlp_residual`]: turns `dx`, which holds the gradient of the result, into that of `x` in place, and
/// adds those of the parameters to `gradients`. `before` is the input of the activation that the forward pass kept.
///
/// # Errors
/// When shapes do not fit or a tensor is not fused ([`super::is_fused`]).
pub fn mlp_residual_backward(
    (x, before): (&Tensor, &Tensor),
    (mlp, eps): (&Mlp, f64),
    activation: Activation,
    dropout: Dropout,
    dx: &Tensor,
    gradients: &Mlp,
    precision: Precision,
) -> Result<()> {
    let op = "mlp backward";
    let (n, c) = x.dims2()?;
    let (inner, dropout) = (mlp.check(x)?, active(dropout)?);
    check("the activation's input of the mlp", before, &[n, inner])?;
    check("gradient of the mlp", dx, &[n, c])?;
    check_gradients("gradient of the mlp's norm", &mlp.norm, &gradients.norm)?;
    check_gradients("gradient of the mlp's c_fc", &mlp.c_fc, &gradients.c_fc)?;
    check_gradients("gradient of the mlp's c_proj", &mlp.c_proj, &gradients.c_proj)?;
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        let (kept, map) = ((x, before), (mlp, eps));
        return cuda::in_precision!(
            precision,
            cuda::sublayer::mlp_residual_backward(kept, map, activation, dropout, dx, gradients)
        );
    }
    let inputs = [x, before, &mlp.norm.weight, &mlp.norm.bias, &mlp.c_fc.weight, &mlp.c_proj.weight];
    let Mlp { norm: dnorm, c_fc: dfc, c_proj: dproj } = gradients;
    let outputs = [dx, &dnorm.weight, &dnorm.bias, &dfc.weight, &dfc.bias, &dproj.weight, &dproj.bias];
    with_slices(op, inputs, |[x, before, gain, shift, w_fc, w_proj]| {
        with_slices_mut(op, outputs, |[dx, dgain, dshift, dw_fc, db_fc, dw_proj, db_proj]| {
            let (mut dbranch, mut normed) = (block_buffer(n, c), block_buffer(n, c));
            let (mut active, mut dactive) = (block_buffer(n, inner), block_buffer(n, inner));
            for (start, rows) in blocks(n) {
                let (dbranch, normed) = (&mut dbranch[..rows * c], &mut normed[..rows * c]);
                let (active, dactive) = (&mut active[..rows * inner], &mut dactive[..rows * inner]);
                let (x, dx) = (&x[start * c..][..rows * c], &mut dx[start * c..][..rows * c]);
                residual::backward(dx, dropout, c, start, dbranch);
                active.copy_from_slice(&before[start * inner..][..rows * inner]);
                linear::input_gradient(precision, w_proj, dbranch, c, dactive);
                backward_in_place(activation, active, dactive);
                linear::parameter_gradients(precision, active, dbranch, dw_proj, db_proj);
                layer_norm::forward(x, gain, shift, eps as f32, normed);
                linear::parameter_gradients(precision, normed, dactive, dw_fc, db_fc);
                // The normalised rows are done with: their memory takes their gradient.
                linear::input_gradient(precision, w_fc, dactive, inner, normed);
                layer_norm::backward((x, gain, eps as f32), normed, dx, dgain, dshift);
            }
        })
    })?
}

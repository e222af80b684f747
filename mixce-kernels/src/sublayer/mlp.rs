//! The whole MLP sublayer: layer norm, two affine maps with an activation between them, dropout and the residual sum.

use candle_core::{Result, Tensor};

use super::{block_buffer, blocks, check, check_composed};
use crate::activation::{Activation, backward_in_place, forward_into};
use crate::cpu::{with_slices, with_slices_mut};
use crate::device::{gpu_of, has_backward_kernels};
use crate::dropout::Dropout;
use crate::residual::{self, active, residual_dropout};
use crate::weight::{Elements, with_weight};
use crate::{Affine, AffineGradients, Norm, Precision, layer_norm, linear};

/// `y = x + dropout(f(layer_norm(x) U + b_u) D + b_d)`, with the mask of [`crate::dropout`].
///
/// The input of `f` is the *pre-activation*, `[N, I]`, which the backward pass needs.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[C]`.
    pub norm: Norm,
    /// `U`, `[C, I]`.
    pub up: Affine,
    /// `f`.
    pub activation: Activation,
    /// `D`, `[I, C]`.
    pub down: Affine,
}

/// Sums of the gradients of an [`Mlp`].
#[derive(Clone, Debug)]
pub struct MlpGradients {
    /// Of the layer norm.
    pub norm: AffineGradients,
    /// Of the map up.
    pub up: AffineGradients,
    /// Of the map down.
    pub down: AffineGradients,
}

impl Mlp {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { norm: self.norm.detach(), up: self.up.detach(), down: self.down.detach(), ..*self }
    }

    /// The same with its weights packed for inference.
    ///
    /// # Errors
    /// As [`crate::Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        let (up, down) = (self.up.pack(precision)?, self.down.pack(precision)?);
        Ok(Self { norm: self.norm.clone(), up, down, ..*self })
    }

    /// `x` and the result are `[N, C]`.
    ///
    /// # Errors
    /// When shapes do not fit, the dropout probability is outside `[0, 1)`, or `precision` is not available (see the
    /// [module](super)).
    pub fn forward(&self, x: &Tensor, dropout: Option<Dropout>, precision: Precision) -> Result<Tensor> {
        Ok(self.run(x, dropout, precision, false)?.0)
    }

    /// [`Mlp::forward`], and the pre-activation `[N, I]`.
    ///
    /// # Errors
    /// As [`Mlp::forward`].
    pub fn forward_saving(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
    ) -> Result<(Tensor, Tensor)> {
        self.run(x, dropout, precision, true)
    }

    /// The result and the pre-activation, which is empty unless it is to be saved.
    fn run(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
    ) -> Result<(Tensor, Tensor)> {
        let tracked =
            x.track_op() || self.norm.is_tracked() || self.up.is_tracked() || self.down.is_tracked();
        if !has_backward_kernels(x) || tracked {
            check_composed("mlp", x, precision)?;
            let pre_activation = self.up.forward(&self.norm.forward(x)?)?;
            let branch = self.down.forward(&self.activation.forward(&pre_activation)?)?;
            return Ok((residual_dropout(x, &branch, dropout)?, pre_activation));
        }
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        match gpu_of(x) {
            Some(gpu) => gpu.mlp(self, x, dropout, precision, save),
            None => self.run_on_cpu(x, inner, dropout, precision, save),
        }
    }

    fn run_on_cpu(
        &self,
        x: &Tensor,
        inner: usize,
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (n, c) = x.dims2()?;
        let saved_rows = if save { n } else { 0 };
        let (mut y, mut saved) = (vec![0f32; n * c], vec![0f32; saved_rows * inner]);
        let (norm, eps) = (&self.norm, self.norm.epsilon as f32);
        let inputs = [x, &norm.weight, &norm.bias, &self.up.bias, &self.down.bias];
        let mut fused =
            |[x, gain, shift, b_up, b_down]: [&[f32]; 5], up: Elements<'_>, down: Elements<'_>| {
                let (mut normed, mut active) = (block_buffer(n, c), block_buffer(n, inner));
                for (start, rows) in blocks(n) {
                    let (normed, active) = (&mut normed[..rows * c], &mut active[..rows * inner]);
                    let x = &x[start * c..][..rows * c];
                    layer_norm::forward(x, gain, shift, eps, normed);
                    linear::product(precision, normed, up, inner, active);
                    let saved = if save { &mut saved[start * inner..][..rows * inner] } else { &mut [] };
                    forward_into(self.activation, active, b_up, saved);
                    let y = &mut y[start * c..][..rows * c];
                    linear::product(precision, active, down, c, y);
                    residual::forward(y, x, b_down, dropout, start);
                }
            };
        with_slices("mlp", inputs, |slices| {
            with_weight("mlp", &self.up.weight, |up| {
                with_weight("mlp", &self.down.weight, |down| fused(slices, up, down))
            })
        })???;
        let saved = Tensor::from_vec(saved, (saved_rows, inner), x.device())?;
        Ok((Tensor::from_vec(y, (n, c), x.device())?, saved))
    }

    /// Turns `dx`, which holds the gradient of the result, into that of the input `x` in place, and adds those of the parameters to
    /// `gradients`.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor has no kernels ([`has_backward_kernels`]) or a weight is packed.
    pub fn backward(
        &self,
        x: &Tensor,
        pre_activation: &Tensor,
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &MlpGradients,
        precision: Precision,
    ) -> Result<()> {
        let (op, (n, c)) = ("mlp backward", x.dims2()?);
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        let (norm, up, down) = (&self.norm, self.up.weight.dense()?, self.down.weight.dense()?);
        let MlpGradients { norm: dnorm, up: dup, down: ddown } = gradients;
        check("the mlp's pre-activation", pre_activation, &[n, inner])?;
        check("gradient of the mlp", dx, &[n, c])?;
        dnorm.check("the mlp's norm", &norm.weight, &norm.bias)?;
        dup.check("the mlp's map up", up, &self.up.bias)?;
        ddown.check("the mlp's map down", down, &self.down.bias)?;
        if let Some(gpu) = gpu_of(x) {
            return gpu.mlp_backward(self, [x, pre_activation], dropout, dx, gradients, precision);
        }
        let (activation, eps) = (self.activation, norm.epsilon as f32);
        let inputs = [x, pre_activation, &norm.weight, &norm.bias, up, down];
        let sums = [dx, &dnorm.weight, &dnorm.bias, &dup.weight, &dup.bias, &ddown.weight, &ddown.bias];
        with_slices(op, inputs, |[x, pre_activation, gain, shift, up, down]| {
            with_slices_mut(op, sums, |[dx, dgain, dshift, dup, db_up, ddown, db_down]| {
                let (mut dbranch, mut normed) = (block_buffer(n, c), block_buffer(n, c));
                let (mut active, mut dactive) = (block_buffer(n, inner), block_buffer(n, inner));
                for (start, rows) in blocks(n) {
                    let (dbranch, normed) = (&mut dbranch[..rows * c], &mut normed[..rows * c]);
                    let (active, dactive) = (&mut active[..rows * inner], &mut dactive[..rows * inner]);
                    let (x, dx) = (&x[start * c..][..rows * c], &mut dx[start * c..][..rows * c]);
                    residual::backward(dx, dropout, c, start, dbranch);
                    active.copy_from_slice(&pre_activation[start * inner..][..rows * inner]);
                    linear::input_gradient(precision, down, dbranch, c, dactive);
                    backward_in_place(activation, active, dactive);
                    linear::parameter_gradients(precision, active, dbranch, ddown, db_down);
                    layer_norm::forward(x, gain, shift, eps, normed);
                    linear::parameter_gradients(precision, normed, dactive, dup, db_up);
                    // The normalised rows have served: their memory takes their gradient.
                    linear::input_gradient(precision, up, dactive, inner, normed);
                    layer_norm::backward((x, gain, eps), normed, dx, dgain, dshift);
                }
            })
        })?
    }

    /// I; refuses parameters that do not fit `x`.
    fn check(&self, x: &Tensor, precision: Precision) -> Result<usize> {
        let (_, c) = x.dims2()?;
        self.norm.check(x)?;
        let inner = self.up.check("the mlp's map up", c, precision)?;
        let n_out = self.down.check("the mlp's map down", inner, precision)?;
        check("the mlp's residual", x, &[x.dim(0)?, n_out])?;
        Ok(inner)
    }
}

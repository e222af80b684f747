//! The whole MLP sublayer: a norm, two affine maps with an activation between them, dropout and the residual sum.

use candle_core::{Result, Tensor};

use super::{
    BranchGradient, MlpOutput, Neighbours, Normed, block_buffer, blocks, check, check_composed, untracked,
};
use crate::activation::{Activation, backward_in_place, forward_into};
use crate::device::{gpu_of, has_backward_kernels};
use crate::dropout::Dropout;
use crate::parts::{read, write};
use crate::residual::{self, active, residual_dropout};
use crate::{Affine, AffineGradients, Matrix, Norm, Precision};

/// `y = x + dropout(f(norm(x) U + b_u) D + b_d)`, with the mask of [`crate::dropout`].
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
    /// Of the norm.
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
        Ok(self.forward_among(x, None, dropout, precision, false, None)?.y)
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
        let MlpOutput { y, pre_activation, .. } =
            self.forward_among(x, None, dropout, precision, true, None)?;
        Ok((y, pre_activation))
    }

    /// [`Mlp::forward`] in one pass with its neighbours where that is possible. The pre-activation is empty unless it is to be saved.
    ///
    /// `normed` are the rows of `x` as the sublayer before has normalised them by this sublayer's norm, if it has; `next` is the norm of the
    /// sublayer after this one.
    ///
    /// # Errors
    /// As [`Mlp::forward`], and when the next norm does not fit.
    pub fn forward_among(
        &self,
        x: &Tensor,
        normed: Option<Normed>,
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
        next: Option<&Norm>,
    ) -> Result<MlpOutput> {
        let tracked =
            x.track_op() || self.norm.is_tracked() || self.up.is_tracked() || self.down.is_tracked();
        if !has_backward_kernels(x) || tracked {
            check_composed("mlp", x, precision)?;
            let pre_activation = self.up.forward(&self.norm.forward(x)?)?;
            let branch = self.down.forward(&self.activation.forward(&pre_activation)?)?;
            let y = residual_dropout(x, &branch, dropout)?;
            return Ok(MlpOutput { y, pre_activation, normed: None });
        }
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        next.map_or(Ok(()), |norm| norm.check(x))?;
        match gpu_of(x) {
            Some(gpu) => gpu.mlp(self, (x, normed), dropout, precision, save, untracked(next)),
            None => {
                let (y, pre_activation) = self.run_on_cpu(x, inner, dropout, precision, save)?;
                Ok(MlpOutput { y, pre_activation, normed: None })
            }
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
        read("mlp", (x, &self.norm, &self.up, &self.down), |(x, norm, up, down)| {
            let (mut normed, mut active) = (block_buffer(n, c), block_buffer(n, inner));
            for (start, rows) in blocks(n) {
                let (normed, active) = (&mut normed[..rows * c], &mut active[..rows * inner]);
                let x = &x[start * c..][..rows * c];
                norm.forward(x, normed);
                up.product(precision, Matrix::new(normed, c), active, inner);
                let saved = if save { &mut saved[start * inner..][..rows * inner] } else { &mut [] };
                forward_into(self.activation, active, (inner, up.bias), saved);
                let y = &mut y[start * c..][..rows * c];
                down.product(precision, Matrix::new(active, inner), y, c);
                residual::forward(y, x, (c, down.bias), dropout, start);
            }
            Ok(())
        })?;
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
        let (saved, neighbours) = ([x, pre_activation], Neighbours::default());
        self.backward_among(saved, dropout, dx, gradients, precision, neighbours)?;
        Ok(())
    }

    /// [`Mlp::backward`], given `x` and the pre-activation, in one pass with its neighbours where that is possible: returns the gradient of the
    /// branch below if it was computed.
    ///
    /// # Errors
    /// As [`Mlp::backward`], and when the gradient from above is not that of this branch.
    pub fn backward_among(
        &self,
        [x, pre_activation]: [&Tensor; 2],
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &MlpGradients,
        precision: Precision,
        neighbours: Neighbours<'_>,
    ) -> Result<Option<BranchGradient>> {
        let (op, (n, c)) = ("mlp backward", x.dims2()?);
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        check("the mlp's pre-activation", pre_activation, &[n, inner])?;
        check("gradient of the mlp", dx, &[n, c])?;
        self.norm.check_gradients("the mlp's norm", &gradients.norm)?;
        gradients.up.check_map("the mlp's map up", &self.up)?;
        gradients.down.check_map("the mlp's map down", &self.down)?;
        if let Some(gpu) = gpu_of(x) {
            let (saved, neighbours) = ([x, pre_activation], neighbours.active()?);
            return gpu.mlp_backward(self, saved, dropout, dx, gradients, (precision, neighbours));
        }
        let inputs = (x, pre_activation, &self.norm, &self.up, &self.down);
        let sums = (dx, &gradients.norm, &gradients.up, &gradients.down);
        read(op, inputs, |(x, pre_activation, norm, up, down)| {
            write(op, sums, |(dx, mut dnorm, mut dup, mut ddown)| {
                let (mut dbranch, mut normed) = (block_buffer(n, c), block_buffer(n, c));
                let (mut active, mut dactive) = (block_buffer(n, inner), block_buffer(n, inner));
                for (start, rows) in blocks(n) {
                    let (dbranch, normed) = (&mut dbranch[..rows * c], &mut normed[..rows * c]);
                    let (active, dactive) = (&mut active[..rows * inner], &mut dactive[..rows * inner]);
                    let (x, dx) = (&x[start * c..][..rows * c], &mut dx[start * c..][..rows * c]);
                    residual::backward(dx, dropout, c, start, dbranch);
                    let dbranch = Matrix::new(dbranch, c);
                    active.copy_from_slice(&pre_activation[start * inner..][..rows * inner]);
                    down.input_gradient(precision, dbranch, dactive, false)?;
                    backward_in_place(self.activation, active, dactive);
                    down.parameter_gradients(precision, Matrix::new(active, inner), dbranch, &mut ddown);
                    let dactive = Matrix::new(dactive, inner);
                    norm.forward(x, normed);
                    up.parameter_gradients(precision, Matrix::new(normed, c), dactive, &mut dup);
                    // The normalised rows have served: their memory takes their gradient.
                    up.input_gradient(precision, dactive, normed, false)?;
                    norm.backward(x, normed, dx, &mut dnorm);
                }
                Ok(None)
            })
        })
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

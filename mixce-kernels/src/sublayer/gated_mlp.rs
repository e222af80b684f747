//! The gated MLP sublayer: a norm, two affine maps of which one gates the other, a third one, dropout and the residual sum.

use candle_core::{Result, Tensor, bail};

use super::{
    BranchGradient, MlpOutput, Neighbours, Normed, block_buffer, blocks, check, check_composed, untracked,
};
use crate::activation::{Activation, gated_backward, gated_forward};
use crate::device::{gpu_of, has_backward_kernels};
use crate::dropout::Dropout;
use crate::linear::SideBySide;
use crate::parts::{read, write};
use crate::residual::{self, active, residual_dropout};
use crate::{Affine, AffineGradients, Matrix, Norm, Precision};

/// `y = x + dropout((f(n G + b_g) * (n U + b_u)) D + b_d)` of the normalised rows `n = norm(x)`, with the mask of [`crate::dropout`]
/// (Shazeer, 2020; SwiGLU when `f` is SiLU).
///
/// The backward pass needs the *pre-activation* `[n G + b_g | n U + b_u]`, `[N, 2 I]`.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    /// `[C]`.
    pub norm: Norm,
    /// `G`, `[C, I]`.
    pub gate: Affine,
    /// `U`, `[C, I]`.
    pub up: Affine,
    /// `f`.
    pub activation: Activation,
    /// `D`, `[I, C]`.
    pub down: Affine,
}

/// Sums of the gradients of a [`GatedMlp`].
#[derive(Clone, Debug)]
pub struct GatedMlpGradients {
    /// Of the norm.
    pub norm: AffineGradients,
    /// Of the map of the gate.
    pub gate: AffineGradients,
    /// Of the map up.
    pub up: AffineGradients,
    /// Of the map down.
    pub down: AffineGradients,
}

impl GatedMlp {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        let (gate, up, down) = (self.gate.detach(), self.up.detach(), self.down.detach());
        Self { norm: self.norm.detach(), gate, up, down, ..*self }
    }

    /// The same with its weights packed for inference.
    ///
    /// # Errors
    /// As [`crate::Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        let (gate, up) = (self.gate.pack(precision)?, self.up.pack(precision)?);
        Ok(Self { norm: self.norm.clone(), gate, up, down: self.down.pack(precision)?, ..*self })
    }

    /// `x` and the result are `[N, C]`.
    ///
    /// # Errors
    /// When shapes do not fit, the dropout probability is outside `[0, 1)`, or `precision` is not available (see the
    /// [module](super)).
    pub fn forward(&self, x: &Tensor, dropout: Option<Dropout>, precision: Precision) -> Result<Tensor> {
        Ok(self.forward_among(x, None, dropout, precision, false, None)?.y)
    }

    /// [`GatedMlp::forward`], and the pre-activation `[N, 2 I]`.
    ///
    /// # Errors
    /// As [`GatedMlp::forward`].
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

    /// [`GatedMlp::forward`] in one pass with its neighbours where that is possible. The pre-activation may be empty unless it is to be saved.
    ///
    /// `normed` are the rows of `x` as the sublayer before has normalised them by this sublayer's norm, if it has; `next` is the norm of the
    /// sublayer after this one.
    ///
    /// # Errors
    /// As [`GatedMlp::forward`], and when the next norm does not fit.
    pub fn forward_among(
        &self,
        x: &Tensor,
        normed: Option<Normed>,
        dropout: Option<Dropout>,
        precision: Precision,
        save: bool,
        next: Option<&Norm>,
    ) -> Result<MlpOutput> {
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        next.map_or(Ok(()), |norm| norm.check(x))?;
        let maps = [&self.gate, &self.up, &self.down];
        if !has_backward_kernels(x)
            || x.track_op()
            || self.norm.is_tracked()
            || maps.into_iter().any(Affine::is_tracked)
        {
            check_composed("gated mlp", x, precision)?;
            let (y, pre_activation) = self.composed(x, inner, dropout)?;
            return Ok(MlpOutput { y, pre_activation, normed: None });
        }
        match gpu_of(x) {
            Some(gpu) => gpu.gated_mlp(self, (x, normed), dropout, precision, untracked(next)),
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
        let (mut y, mut saved) = (vec![0f32; n * c], vec![0f32; saved_rows * 2 * inner]);
        let inputs = (x, &self.norm, [&self.gate, &self.up], &self.down);
        read("gated mlp", inputs, |(x, norm, gate_up, down)| {
            let (mut normed, mut hidden) = (block_buffer(n, c), block_buffer(n, inner));
            let mut unsaved = block_buffer(if save { 0 } else { n }, 2 * inner);
            let gate_up = SideBySide(gate_up);
            for (start, rows) in blocks(n) {
                let (normed, hidden) = (&mut normed[..rows * c], &mut hidden[..rows * inner]);
                let pre_activation = if save { &mut saved[start * 2 * inner..] } else { &mut unsaved[..] };
                let pre_activation = &mut pre_activation[..rows * 2 * inner];
                let x = &x[start * c..][..rows * c];
                norm.forward(x, normed);
                gate_up.forward(precision, Matrix::new(normed, c), pre_activation);
                gated_forward(self.activation, pre_activation, inner, hidden);
                let y = &mut y[start * c..][..rows * c];
                down.product(precision, Matrix::new(hidden, inner), y, c);
                residual::forward(y, x, (c, down.bias), dropout, start);
            }
            Ok(())
        })?;
        let saved = Tensor::from_vec(saved, (saved_rows, 2 * inner), x.device())?;
        Ok((Tensor::from_vec(y, (n, c), x.device())?, saved))
    }

    /// [`GatedMlp::forward_saving`] of differentiable operations.
    fn composed(&self, x: &Tensor, inner: usize, dropout: Option<Dropout>) -> Result<(Tensor, Tensor)> {
        let normed = self.norm.forward(x)?;
        let pre_activation = Tensor::cat(&[self.gate.forward(&normed)?, self.up.forward(&normed)?], 1)?;
        let (gate, up) = (pre_activation.narrow(1, 0, inner)?, pre_activation.narrow(1, inner, inner)?);
        let branch = self.down.forward(&(self.activation.forward(&gate)? * up)?)?;
        Ok((residual_dropout(x, &branch, dropout)?, pre_activation))
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
        gradients: &GatedMlpGradients,
        precision: Precision,
    ) -> Result<()> {
        let (saved, neighbours) = ([x, pre_activation], Neighbours::default());
        self.backward_among(saved, dropout, dx, gradients, precision, neighbours)?;
        Ok(())
    }

    /// [`GatedMlp::backward`], given `x` and the pre-activation, in one pass with its neighbours where that is possible: returns the gradient of the
    /// branch below if it was computed.
    ///
    /// # Errors
    /// As [`GatedMlp::backward`], and when the gradient from above is not that of this branch.
    pub fn backward_among(
        &self,
        [x, pre_activation]: [&Tensor; 2],
        dropout: Option<Dropout>,
        dx: &Tensor,
        gradients: &GatedMlpGradients,
        precision: Precision,
        neighbours: Neighbours<'_>,
    ) -> Result<Option<BranchGradient>> {
        let (op, (n, c)) = ("gated mlp backward", x.dims2()?);
        let (inner, dropout) = (self.check(x, precision)?, active(dropout)?);
        check("the gated mlp's pre-activation", pre_activation, &[n, 2 * inner])?;
        check("gradient of the gated mlp", dx, &[n, c])?;
        self.norm.check_gradients("the gated mlp's norm", &gradients.norm)?;
        gradients.gate.check_map("the gated mlp's gate", &self.gate)?;
        gradients.up.check_map("the gated mlp's map up", &self.up)?;
        gradients.down.check_map("the gated mlp's map down", &self.down)?;
        if let Some(gpu) = gpu_of(x) {
            let (saved, neighbours) = ([x, pre_activation], neighbours.active()?);
            return gpu.gated_mlp_backward(self, saved, dropout, dx, gradients, (precision, neighbours));
        }
        let inputs = (x, pre_activation, &self.norm, [&self.gate, &self.up], &self.down);
        let sums = (dx, &gradients.norm, [&gradients.gate, &gradients.up], &gradients.down);
        read(op, inputs, |(x, pre_activation, norm, gate_up, down)| {
            write(op, sums, |(dx, mut dnorm, mut dgate_up, mut ddown)| {
                let gate_up = SideBySide(gate_up);
                let (mut dbranch, mut normed) = (block_buffer(n, c), block_buffer(n, c));
                let (mut hidden, mut dpre) = (block_buffer(n, inner), block_buffer(n, 2 * inner));
                for (start, rows) in blocks(n) {
                    let (dbranch, normed) = (&mut dbranch[..rows * c], &mut normed[..rows * c]);
                    let (hidden, dpre) = (&mut hidden[..rows * inner], &mut dpre[..rows * 2 * inner]);
                    let (x, dx) = (&x[start * c..][..rows * c], &mut dx[start * c..][..rows * c]);
                    let pre_activation = &pre_activation[start * 2 * inner..][..rows * 2 * inner];
                    residual::backward(dx, dropout, c, start, dbranch);
                    let dbranch = Matrix::new(dbranch, c);
                    // The gradient of the product comes in, the product itself goes out.
                    down.input_gradient(precision, dbranch, hidden, false)?;
                    gated_backward(self.activation, pre_activation, inner, hidden, dpre);
                    down.parameter_gradients(precision, Matrix::new(hidden, inner), dbranch, &mut ddown);
                    norm.forward(x, normed);
                    gate_up.parameter_gradients(precision, Matrix::new(normed, c), dpre, &mut dgate_up);
                    // The normalised rows have served: their memory takes their gradient.
                    gate_up.input_gradient(precision, dpre, normed)?;
                    norm.backward(x, normed, dx, &mut dnorm);
                }
                Ok(None)
            })
        })
    }

    /// I; refuses parameters that do not fit `x`.
    fn check(&self, x: &Tensor, precision: Precision) -> Result<usize> {
        let (n, c) = x.dims2()?;
        self.norm.check(x)?;
        let inner = self.gate.check("the gated mlp's gate", c, precision)?;
        let of_up = self.up.check("the gated mlp's map up", c, precision)?;
        if of_up != inner {
            bail!(
                "gated mlp: expected as many outputs of the map up as of the gate, got {of_up} and {inner}"
            );
        }
        let n_out = self.down.check("the gated mlp's map down", inner, precision)?;
        check("the gated mlp's residual", x, &[n, n_out])?;
        Ok(inner)
    }
}

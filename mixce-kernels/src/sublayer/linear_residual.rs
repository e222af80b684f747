//! An affine map, dropout and the residual sum: the way out of attention.

use candle_core::{Result, Tensor};

use super::{BranchGradient, Normed, block_buffer, blocks, check, check_composed, untracked};
use crate::device::{gpu_of, has_backward_kernels};
use crate::dropout::Dropout;
use crate::parts::{read, write};
use crate::residual::{self, active, residual_dropout};
use crate::{Affine, AffineGradients, Matrix, Norm, Precision};

/// `y = residual + dropout(x W + b)`, with the mask of [`crate::dropout`].
#[derive(Clone, Debug)]
pub struct LinearResidual {
    /// `[in, C]`.
    pub map: Affine,
}

impl LinearResidual {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { map: self.map.detach() }
    }

    /// The same with its weight packed for inference.
    ///
    /// # Errors
    /// As [`crate::Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        Ok(Self { map: self.map.pack(precision)? })
    }

    /// `x` is `[N, in]`; `residual` and the result are `[N, C]`.
    ///
    /// # Errors
    /// When shapes do not fit, the dropout probability is outside `[0, 1)`, or `precision` is not available (see the
    /// [module](super)).
    pub fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
        precision: Precision,
    ) -> Result<Tensor> {
        Ok(self.run(x, residual, dropout, None, precision)?.0)
    }

    /// [`LinearResidual::forward`], and on CUDA the result's rows normalised by the norm of the next sublayer, in the same pass over
    /// memory.
    ///
    /// # Errors
    /// As [`LinearResidual::forward`], and when the norm does not fit.
    pub fn forward_and_norm(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
        next: &Norm,
        precision: Precision,
    ) -> Result<(Tensor, Option<Normed>)> {
        let (y, normed) = self.run(x, residual, dropout, Some(next), precision)?;
        Ok((y, normed.map(Normed)))
    }

    fn run(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
        next: Option<&Norm>,
        precision: Precision,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tracked = x.track_op() || residual.track_op() || self.map.is_tracked();
        if !has_backward_kernels(residual) || tracked {
            check_composed("linear_residual", residual, precision)?;
            return Ok((residual_dropout(residual, &self.map.forward(x)?, dropout)?, None));
        }
        next.map_or(Ok(()), |norm| norm.check(residual))?;
        let (n, n_in) = x.dims2()?;
        let (c, dropout) = (self.map.check("linear_residual", n_in, precision)?, active(dropout)?);
        check("residual of linear_residual", residual, &[n, c])?;
        if let Some(gpu) = gpu_of(residual) {
            return gpu.linear_residual(self, x, residual, dropout, untracked(next), precision);
        }
        let mut y = vec![0f32; n * c];
        read("linear_residual", (x, residual, &self.map), |(x, residual, map)| {
            for (start, rows) in blocks(n) {
                let y = &mut y[start * c..][..rows * c];
                map.product(precision, Matrix::new(&x[start * n_in..][..rows * n_in], n_in), y, c);
                residual::forward(y, &residual[start * c..][..rows * c], (c, map.bias), dropout, start);
            }
            Ok(())
        })?;
        Ok((Tensor::from_vec(y, (n, c), x.device())?, None))
    }

    /// Given the gradient `dy` `[N, C]` of the result: returns that of the input `x`, and adds those of the parameters to `gradients`
    /// in place. The gradient of the residual is `dy` itself.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor has no kernels ([`has_backward_kernels`]) or the weight is packed.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
        gradients: &AffineGradients,
        precision: Precision,
    ) -> Result<Tensor> {
        self.backward_among(x, dy, dropout, gradients, precision, None)
    }

    /// [`LinearResidual::backward`], given the gradient of the branch if the pass before has computed it.
    ///
    /// # Errors
    /// As [`LinearResidual::backward`], and when the gradient from above is not that of this branch.
    pub fn backward_among(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dropout: Option<Dropout>,
        gradients: &AffineGradients,
        precision: Precision,
        above: Option<BranchGradient>,
    ) -> Result<Tensor> {
        let (n, n_in) = x.dims2()?;
        let (c, dropout) = (self.map.check("linear_residual", n_in, precision)?, active(dropout)?);
        check("gradient of linear_residual", dy, &[n, c])?;
        gradients.check_map("linear_residual's map", &self.map)?;
        if let Some(gpu) = gpu_of(dy) {
            return gpu.linear_residual_backward(self, x, dy, dropout, gradients, (precision, above));
        }
        let (op, mut dx) = ("linear_residual backward", vec![0f32; n * n_in]);
        read(op, (x, dy, &self.map), |(x, dy, map)| {
            write(op, gradients, |mut sums| {
                let mut dbranch = block_buffer(n, c);
                for (start, rows) in blocks(n) {
                    let dbranch = &mut dbranch[..rows * c];
                    residual::backward(&dy[start * c..][..rows * c], dropout, c, start, dbranch);
                    let x = Matrix::new(&x[start * n_in..][..rows * n_in], n_in);
                    let (dx, dbranch) = (&mut dx[start * n_in..][..rows * n_in], Matrix::new(dbranch, c));
                    map.input_gradient(precision, dbranch, dx, false)?;
                    map.parameter_gradients(precision, x, dbranch, &mut sums);
                }
                Ok(())
            })
        })?;
        Tensor::from_vec(dx, (n, n_in), x.device())
    }
}

//! Gradients of branches: that of the residual stream, dropped and rounded, where passes of two sublayers meet.

use candle_core::{DType, Result, Tensor, bail};

use super::matmul::Matrix;
use super::norm::BranchArrays;
use super::{Array, Element, uninitialised, with_parts};
use crate::dropout::Dropout;
use crate::sublayer::{Branch, BranchGradient};

/// Whether the gradient of a branch is not that of the stream itself.
fn changes<T: Element>(dropout: Option<Dropout>) -> bool {
    dropout.is_some() || T::DTYPE != DType::F32
}

/// `dropout(dy)` as T: the gradient of a dropped branch, unless the pass before has computed it. The sum of its rows is added to that of
/// the bias, if there is one.
pub(super) fn dropped<T: Element>(
    dy: &Tensor,
    dropout: Option<Dropout>,
    bias: &Option<Tensor>,
    above: Option<BranchGradient>,
) -> Result<Tensor> {
    let (op, c, changes) = ("dropout", dy.dim(1)?, changes::<T>(dropout));
    if let Some(BranchGradient(gradient)) = above {
        return match gradient {
            Some(gradient) if changes && gradient.dims() == dy.dims() && gradient.dtype() == T::DTYPE => {
                Ok(gradient)
            }
            None if !changes => dy.contiguous(),
            other => bail!("{op}: expected the gradient of this branch, got {other:?}"),
        };
    }
    let dbranch = if changes { uninitialised(dy.shape(), T::DTYPE, dy)? } else { dy.contiguous()? };
    with_parts::<f32, _, _, _>(op, dy, bias, |_, dy, bias| {
        with_parts::<T, _, _, _>(op, (), &dbranch, |gpu, (), dbranch| match (changes, bias) {
            (true, _) => gpu.dropped_branch(dy, dropout, dbranch, (c, bias)),
            (false, Some(bias)) => gpu.add_column_sums(Matrix::new(dbranch, c), bias),
            (false, None) => Ok(()),
        })
    })?;
    Ok(dbranch)
}

/// The branch below, whose gradient a norm's backward pass computes with that of the stream; there may be none.
pub(super) struct Below<'a> {
    branch: Option<Branch<'a>>,
    /// Unless it is the stream's.
    gradient: Option<Tensor>,
}

impl<'a> Below<'a> {
    /// With room for a gradient like `dx`: that of `served`, the gradient of the sublayer's own branch and its dropout, where it is not
    /// `dx` itself.
    pub(super) fn new<T: Element>(
        branch: Option<Branch<'a>>,
        dx: &Tensor,
        served: Option<(&Tensor, Option<Dropout>)>,
    ) -> Result<Self> {
        let gradient = match branch.filter(|branch| changes::<T>(branch.dropout)).map(|_| served) {
            None => None,
            Some(Some((served, dropout))) if changes::<T>(dropout) => Some(served.clone()),
            Some(_) => Some(uninitialised(dx.shape(), T::DTYPE, dx)?),
        };
        Ok(Self { branch, gradient })
    }

    /// What the sum of the gradient's rows is added to.
    pub(super) fn bias(&self) -> Option<&Tensor> {
        self.branch.and_then(|branch| branch.bias)
    }

    /// Takes the gradient.
    pub(super) fn gradient(&self) -> Option<&Tensor> {
        self.gradient.as_ref()
    }

    /// For the kernel, given the elements of both.
    pub(super) fn arrays<'b, T>(
        &self,
        bias: Option<Array<'b, f32>>,
        gradient: Option<Array<'b, T>>,
    ) -> Option<BranchArrays<'b, T>> {
        self.branch.map(|Branch { dropout, .. }| BranchArrays { dropout, gradient, bias })
    }

    /// The gradient, once it is computed.
    pub(super) fn finished(self) -> Option<BranchGradient> {
        self.branch.map(|_| BranchGradient(self.gradient))
    }
}

//! What two sublayers compute in one pass over memory where one follows the other. Only CUDA does so.

use candle_core::{Result, Tensor};

use crate::dropout::Dropout;
use crate::residual::active;

/// The normalised rows of a residual stream, computed by the sublayer that ended with it, for the one that begins with their norm.
#[derive(Debug)]
pub struct Normed(
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only CUDA makes and reads it"))]
    pub(crate) Tensor,
);

/// What the forward pass of an MLP gives.
#[derive(Debug)]
pub struct MlpOutput {
    /// The result, `[N, C]`.
    pub y: Tensor,
    /// For the backward pass; may be empty unless it is to be saved.
    pub pre_activation: Tensor,
    /// The rows of `y` normalised by the norm of the next sublayer, where that was asked for and possible.
    pub normed: Option<Normed>,
}

/// The end of a branch, `dropout(x W + b)`, as the backward pass of the sublayer after its residual sum needs it to compute the branch's
/// gradient together with that of the stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Branch<'a> {
    /// Of the branch.
    pub dropout: Option<Dropout>,
    /// The sum of the gradients of `b`, where there is a `b`.
    pub bias: Option<&'a Tensor>,
}

impl Branch<'_> {
    /// The same without a dropout that drops nothing.
    pub(super) fn active(self) -> Result<Self> {
        Ok(Self { dropout: active(self.dropout)?, ..self })
    }
}

/// The gradient of a [`Branch`]; that of its bias is added already. `None` where it is the gradient of the stream itself, which must not have
/// changed since.
#[derive(Debug)]
pub struct BranchGradient(
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only CUDA makes and reads it"))]
    pub(crate) Option<Tensor>,
);

/// What a backward pass shares with those of the sublayers around it.
#[derive(Debug, Default)]
pub struct Neighbours<'a> {
    /// The gradient of this sublayer's branch, if the pass before has computed it.
    pub above: Option<BranchGradient>,
    /// The branch that ends in this sublayer's input, if its gradient is to be computed here.
    pub below: Option<Branch<'a>>,
}

/// What the backward pass of the maps into attention shares with those around it.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapsNeighbours<'a> {
    /// Whether attention's backward pass has added the gradients of the maps' biases.
    pub biases_added: bool,
    /// As in [`Neighbours`].
    pub below: Option<Branch<'a>>,
}

impl Neighbours<'_> {
    /// [`Branch::active`] of the branch below.
    pub(super) fn active(self) -> Result<Self> {
        Ok(Self { below: self.below.map(Branch::active).transpose()?, ..self })
    }
}

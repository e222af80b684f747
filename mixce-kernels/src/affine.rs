//! Weight and bias of a layer.

use candle_core::{Result, Tensor};

use crate::Precision;
use crate::packed;

/// Weight and bias of an affine map or a layer norm; also their gradients, which are added up in place.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `[in, out]` (GPT-2's Conv1D layout), or `[C]` of a layer norm. For inference it may be packed ([`Affine::packed`]).
    pub weight: Tensor,
    /// `[out]`, or `[C]` of a layer norm.
    pub bias: Tensor,
}

impl Affine {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach() }
    }

    /// The same map with its weight packed for the products of sampling ([`packed::pack`]). [`crate::sublayer`]'s forward passes
    /// take it; it has no gradient.
    ///
    /// # Errors
    /// When the weight is no matrix of f32, or bf16 does not work here.
    pub fn packed(&self, precision: Precision) -> Result<Self> {
        Ok(Self { weight: packed::pack(&self.weight, precision)?, bias: self.bias.clone() })
    }

    /// Zeros of the same shapes: where gradients are added up.
    ///
    /// # Errors
    /// When candle cannot allocate them.
    pub fn zeros_like(&self) -> Result<Self> {
        Ok(Self { weight: self.weight.zeros_like()?, bias: self.bias.zeros_like()? })
    }
}

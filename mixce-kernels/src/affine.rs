//! Weight and bias of an affine map, and their gradients.

use candle_core::{Result, Tensor, bail};

use crate::weight::Weight;
use crate::{Precision, linear};

/// `y = x W + b`, with the weight `[in, out]` and the bias `[out]`.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `W`.
    pub weight: Weight,
    /// `b`.
    pub bias: Tensor,
}

impl Affine {
    /// A map with a weight `[in, out]` as a matrix.
    #[must_use]
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { weight: weight.into(), bias }
    }

    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach() }
    }

    /// The same map with its weight packed for inference ([`Weight::pack`]).
    ///
    /// # Errors
    /// As [`Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        Ok(Self { weight: self.weight.pack(precision)?, bias: self.bias.clone() })
    }

    /// [`linear`] of `x` `[N, in]`: differentiable, on any device.
    ///
    /// # Errors
    /// When shapes do not fit or the weight is packed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, self.weight.dense()?, Some(&self.bias))
    }

    /// Whether candle's graph tracks a parameter.
    pub(crate) fn is_tracked(&self) -> bool {
        self.weight.is_tracked() || self.bias.track_op()
    }

    /// The outputs of a map for `n_in` inputs and products in `precision`; refuses any other.
    pub(crate) fn check(&self, name: &str, n_in: usize, precision: Precision) -> Result<usize> {
        let (weight_in, n_out) = self.weight.dims2()?;
        if weight_in != n_in || self.bias.dims() != [n_out] {
            let bias = self.bias.dims();
            bail!(
                "{name}: expected a weight [{n_in}, out] and a bias [out], got [{weight_in}, {n_out}] and {bias:?}"
            );
        }
        if let Weight::Packed(weight) = &self.weight {
            weight.check_precision(precision)?;
        }
        Ok(n_out)
    }
}

/// Sums of the gradients of a weight and a bias, of an affine map or a layer norm. Backward passes add to them in place.
#[derive(Clone, Debug)]
pub struct AffineGradients {
    /// Of the weight's shape.
    pub weight: Tensor,
    /// Of the bias's shape.
    pub bias: Tensor,
}

impl AffineGradients {
    /// Refuses sums that have not the shapes of their parameters.
    pub(crate) fn check(&self, name: &str, weight: &Tensor, bias: &Tensor) -> Result<()> {
        for (sum, parameter) in [(&self.weight, weight), (&self.bias, bias)] {
            if sum.dims() != parameter.dims() {
                bail!("gradient of {name}: expected shape {:?}, got {:?}", parameter.dims(), sum.dims());
            }
        }
        Ok(())
    }
}

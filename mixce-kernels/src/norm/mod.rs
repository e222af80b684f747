//! Normalisation over the last dimension: layer norm and RMS norm.

mod operation;
mod rows;

pub(crate) use rows::NormElements;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::affine::AffineGradients;
use crate::device::{gpu_of, has_backward_kernels};
use crate::parts::{read, write};

/// How a norm scales a row `x` of C channels, before its weight and bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x - mean(x)) / sqrt(var(x) + eps)`, with the biased variance (divided by C); Ba et al., 2016.
    Layer,
    /// `x / sqrt(mean(x^2) + eps)`; Zhang and Sennrich, 2019.
    Rms,
}

/// A norm over the last dimension: `y = normalised(x) * weight + bias`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Option<Tensor>,
    /// Added to the variance or the mean of the squares.
    pub epsilon: f64,
    /// How rows are normalised.
    pub kind: NormKind,
}

impl Norm {
    /// A layer norm.
    #[must_use]
    pub fn layer(weight: Tensor, bias: Option<Tensor>, epsilon: f64) -> Self {
        Self { weight, bias, epsilon, kind: NormKind::Layer }
    }

    /// An RMS norm, without a bias.
    #[must_use]
    pub fn rms(weight: Tensor, epsilon: f64) -> Self {
        Self { weight, bias: None, epsilon, kind: NormKind::Rms }
    }

    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.as_ref().map(Tensor::detach), ..*self }
    }

    /// The norm of `x` `[.., C]`: differentiable, on any device. Fused for f32 with a real backward pass; otherwise
    /// [`Norm::forward_slow`].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        let mut tensors = [x, &self.weight].into_iter().chain(&self.bias);
        match tensors.all(has_backward_kernels) {
            true => operation::apply(self, x),
            false => self.forward_slow(x),
        }
    }

    /// [`Norm::forward`] in plain candle operations; half-precision inputs are normalised in f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward_slow(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let wide = if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype };
        let x = x.to_dtype(wide)?;
        let centred = match self.kind {
            NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
            NormKind::Rms => x,
        };
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normalised = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?.to_dtype(dtype)?;
        let scaled = normalised.broadcast_mul(&self.weight)?;
        match &self.bias {
            Some(bias) => scaled.broadcast_add(bias),
            None => Ok(scaled),
        }
    }

    /// The backward pass of [`Norm::forward`] without a graph: given the gradient `dy` of the result, adds that of `x` to `dx` and
    /// those of the parameters to `gradients`, in place.
    ///
    /// # Errors
    /// When shapes do not fit or a tensor has no kernels ([`has_backward_kernels`]).
    pub fn backward(&self, x: &Tensor, dy: &Tensor, dx: &Tensor, gradients: &AffineGradients) -> Result<()> {
        self.check(x)?;
        self.check_gradients("norm", gradients)?;
        for gradient in [dy, dx] {
            if gradient.dims() != x.dims() {
                bail!("norm backward: a gradient {:?} of a tensor {:?}", gradient.dims(), x.dims());
            }
        }
        if let Some(gpu) = gpu_of(x) {
            return gpu.norm_backward(self, x, dy, dx, gradients);
        }
        read("norm backward", (x, self, dy), |(x, norm, dy)| {
            write("norm backward", (dx, gradients), |(dx, mut sums)| {
                norm.backward(x, dy, dx, &mut sums);
                Ok(())
            })
        })
    }

    /// Whether candle's graph tracks a parameter.
    pub(crate) fn is_tracked(&self) -> bool {
        self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op)
    }

    /// Refuses rows that do not fit.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        let c = x.dim(D::Minus1)?;
        for (name, parameter) in [("weight", Some(&self.weight)), ("bias", self.bias.as_ref())] {
            if let Some(parameter) = parameter.filter(|parameter| parameter.dims() != [c]) {
                bail!("norm: expected a {name} of shape [{c}], got {:?}", parameter.dims());
            }
        }
        Ok(())
    }

    /// Refuses sums that do not fit the parameters.
    pub(crate) fn check_gradients(&self, name: &str, gradients: &AffineGradients) -> Result<()> {
        gradients.check(name, &self.weight, self.bias.as_ref())
    }
}

#[cfg(test)]
mod tests;

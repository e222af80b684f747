//! Layer norm and an affine map: the way into attention.

use candle_core::{Result, Tensor};

use super::{block_buffer, blocks, check, check_composed};
use crate::cpu::{with_slices, with_slices_mut};
use crate::device::{gpu_of, has_backward_kernels};
use crate::weight::with_weight;
use crate::{Affine, AffineGradients, Norm, Precision, layer_norm, linear};

/// `y = layer_norm(x) W + b`.
#[derive(Clone, Debug)]
pub struct NormLinear {
    /// `[C]`.
    pub norm: Norm,
    /// `[C, out]`.
    pub map: Affine,
}

/// Sums of the gradients of a [`NormLinear`].
#[derive(Clone, Debug)]
pub struct NormLinearGradients {
    /// Of the layer norm.
    pub norm: AffineGradients,
    /// Of the map.
    pub map: AffineGradients,
}

impl NormLinear {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { norm: self.norm.detach(), map: self.map.detach() }
    }

    /// The same with its weight packed for inference.
    ///
    /// # Errors
    /// As [`crate::Weight::pack`].
    pub fn pack(&self, precision: Precision) -> Result<Self> {
        Ok(Self { norm: self.norm.clone(), map: self.map.pack(precision)? })
    }

    /// `x` `[N, C]` gives `[N, out]`.
    ///
    /// # Errors
    /// When shapes do not fit, or `precision` is not available (see the [module](super)).
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        if !has_backward_kernels(x) || x.track_op() || self.norm.is_tracked() || self.map.is_tracked() {
            check_composed("norm_linear", x, precision)?;
            return self.map.forward(&self.norm.forward(x)?);
        }
        let (n, c) = x.dims2()?;
        let n_out = self.check(x, precision)?;
        if let Some(gpu) = gpu_of(x) {
            return gpu.norm_linear(self, x, precision);
        }
        let mut y = vec![0f32; n * n_out];
        let (op, eps) = ("norm_linear", self.norm.epsilon as f32);
        let inputs = [x, &self.norm.weight, &self.norm.bias, &self.map.bias];
        with_slices(op, inputs, |[x, gain, shift, bias]| {
            with_weight(op, &self.map.weight, |weight| {
                let mut normed = block_buffer(n, c);
                for (start, rows) in blocks(n) {
                    let normed = &mut normed[..rows * c];
                    layer_norm::forward(&x[start * c..][..rows * c], gain, shift, eps, normed);
                    linear::forward(precision, normed, weight, bias, &mut y[start * n_out..][..rows * n_out]);
                }
            })
        })??;
        Tensor::from_vec(y, (n, n_out), x.device())
    }

    /// Given the gradient `dy` `[N, out]` of the result: adds that of the input `x` to `dx` and those of the parameters to
    /// `gradients`, in place.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor has no kernels ([`has_backward_kernels`]) or the weight is packed.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &NormLinearGradients,
        precision: Precision,
    ) -> Result<()> {
        let op = "norm_linear backward";
        let (n, c) = x.dims2()?;
        let (n_out, weight, eps) =
            (self.check(x, precision)?, self.map.weight.dense()?, self.norm.epsilon as f32);
        check("gradient of norm_linear", dy, &[n, n_out])?;
        check("gradient of norm_linear's input", dx, &[n, c])?;
        let NormLinearGradients { norm: dnorm, map: dmap } = gradients;
        dnorm.check("norm_linear's norm", &self.norm.weight, &self.norm.bias)?;
        dmap.check("norm_linear's map", weight, &self.map.bias)?;
        if let Some(gpu) = gpu_of(x) {
            return gpu.norm_linear_backward(self, x, dy, dx, gradients, precision);
        }
        let inputs = [x, &self.norm.weight, &self.norm.bias, weight, dy];
        let sums = [dx, &dnorm.weight, &dnorm.bias, &dmap.weight, &dmap.bias];
        with_slices(op, inputs, |[x, gain, shift, weight, dy]| {
            with_slices_mut(op, sums, |[dx, dgain, dshift, dweight, dbias]| {
                let (mut normed, mut dnormed) = (block_buffer(n, c), block_buffer(n, c));
                for (start, rows) in blocks(n) {
                    let (normed, dnormed) = (&mut normed[..rows * c], &mut dnormed[..rows * c]);
                    let (x, dy) = (&x[start * c..][..rows * c], &dy[start * n_out..][..rows * n_out]);
                    layer_norm::forward(x, gain, shift, eps, normed);
                    linear::backward(precision, (normed, weight), dy, dnormed, dweight, dbias);
                    let dx = &mut dx[start * c..][..rows * c];
                    layer_norm::backward((x, gain, eps), dnormed, dx, dgain, dshift);
                }
            })
        })?
    }

    /// The outputs; refuses parameters that do not fit `x`.
    fn check(&self, x: &Tensor, precision: Precision) -> Result<usize> {
        let (_, c) = x.dims2()?;
        self.norm.check(x)?;
        self.map.check("norm_linear's map", c, precision)
    }
}

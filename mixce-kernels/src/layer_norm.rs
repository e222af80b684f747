//! Layer normalisation over the last dimension.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::affine::AffineGradients;
use crate::cpu::{self, ROWS_PER_TASK};
use crate::cuda;
use crate::device::{gpu_of, has_backward_kernels};
use crate::simd::{self, vectorised};

/// Layer normalisation (Ba et al., 2016): `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last dimension.
///
/// `x` is `[.., C]`, `weight` and `bias` are `[C]`; the variance is the biased one (divided by `C`). Fused for f32 on the
/// CPU and CUDA with a real backward pass; other dtypes and devices take [`layer_norm_slow`].
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight, bias)?;
    if [x, weight, bias].into_iter().all(has_backward_kernels) {
        let op = LayerNorm { eps: eps as f32 };
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
    } else {
        layer_norm_slow(x, weight, bias, eps)
    }
}

/// [`layer_norm`] in plain candle operations; half-precision inputs are normalised in f32.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm_slow(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype };
    let x = x.to_dtype(wide)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normalised = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?;
    normalised.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Refuses parameters that do not fit `x`.
fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let c = x.dim(D::Minus1)?;
    if weight.dims() != [c] || bias.dims() != [c] {
        bail!(
            "layer_norm: expected weight and bias of shape [{c}], got {:?} and {:?}",
            weight.dims(),
            bias.dims()
        );
    }
    Ok(())
}

/// The parameters of a layer norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub epsilon: f64,
}

impl Norm {
    /// The same values outside of any gradient graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach(), epsilon: self.epsilon }
    }

    /// [`layer_norm`] of `x` `[.., C]`: differentiable, on any device.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }

    /// The backward pass of [`Norm::forward`] without a graph: given the gradient `dy` of the result, adds that of `x` to `dx` and
    /// those of the parameters to `gradients`, in place.
    ///
    /// # Errors
    /// When shapes do not fit or a tensor has no kernels ([`has_backward_kernels`]).
    pub fn backward(&self, x: &Tensor, dy: &Tensor, dx: &Tensor, gradients: &AffineGradients) -> Result<()> {
        check(x, &self.weight, &self.bias)?;
        gradients.check("layer_norm", &self.weight, &self.bias)?;
        for gradient in [dy, dx] {
            if gradient.dims() != x.dims() {
                bail!("layer_norm backward: a gradient {:?} of a tensor {:?}", gradient.dims(), x.dims());
            }
        }
        if let Some(gpu) = gpu_of(x) {
            return gpu.layer_norm_backward(self, x, dy, dx, gradients);
        }
        let (op, eps) = ("layer_norm backward", self.epsilon as f32);
        cpu::with_slices(op, [x, &self.weight, dy], |[x, weight, dy]| {
            cpu::with_slices_mut(op, [dx, &gradients.weight, &gradients.bias], |[dx, dweight, dbias]| {
                backward((x, weight, eps), dy, dx, dweight, dbias);
            })
        })?
    }

    /// Whether candle's graph tracks a parameter.
    pub(crate) fn is_tracked(&self) -> bool {
        self.weight.track_op() || self.bias.track_op()
    }

    /// Refuses rows that do not fit.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        check(x, &self.weight, &self.bias)
    }
}

struct LayerNorm {
    eps: f32,
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let c = row.len() as f32;
    let mean = simd::sum(row, |x| x) / c;
    let variance = simd::sum(row, |x| (x - mean) * (x - mean)) / c;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Normalised rows of `x` into `y`, on all threads.
pub(crate) fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let c = weight.len();
    let block = (c * ROWS_PER_TASK).max(1);
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        vectorised(|| {
            for (y, x) in y.chunks_mut(c).zip(x.chunks(c)) {
                let (mean, rstd) = statistics(x, eps);
                for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                    *y = (x - mean) * rstd * weight + bias;
                }
            }
        });
    });
}

/// Adds the gradients of input, weight and bias to `dx`, `dweight` and `dbias`, on all threads. With `n = (x - mean) rstd` and
/// `g = dy * weight`: `dx += rstd (g - mean(g) - n mean(g n))`, `dweight += sum_rows dy n`, `dbias += sum_rows dy`.
pub(crate) fn backward(
    (x, weight, eps): (&[f32], &[f32], f32),
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let c = weight.len();
    let block = (c * ROWS_PER_TASK).max(1);
    let rows = dx.par_chunks_mut(block).zip(x.par_chunks(block).zip(dy.par_chunks(block)));
    let partial: Vec<Vec<f32>> = rows
        .map(|(dx, (x, dy))| {
            let mut scratch = vec![0f32; 4 * c];
            vectorised(|| backward_rows((x, weight, eps), dy, dx, &mut scratch));
            scratch
        })
        .collect();
    // In the order of the rows, so that the sums do not depend on the number of threads.
    for sums in &partial {
        simd::add_to(dweight, &sums[..c]);
        simd::add_to(dbias, &sums[c..2 * c]);
    }
}

/// [`backward`] of a few rows on one thread; the first half of `scratch` `[4 C]` receives the sums of `dweight` and `dbias`.
#[inline(always)]
fn backward_rows((x, weight, eps): (&[f32], &[f32], f32), dy: &[f32], dx: &mut [f32], scratch: &mut [f32]) {
    let c = weight.len();
    let (sums, work) = scratch.split_at_mut(2 * c);
    let ((dweight, dbias), (n, g)) = (sums.split_at_mut(c), work.split_at_mut(c));
    for ((dx, x), dy) in dx.chunks_mut(c).zip(x.chunks(c)).zip(dy.chunks(c)) {
        let (mean, rstd) = statistics(x, eps);
        for i in 0..c {
            n[i] = (x[i] - mean) * rstd;
            g[i] = dy[i] * weight[i];
            dweight[i] += dy[i] * n[i];
            dbias[i] += dy[i];
        }
        let (mean_g, mean_gn) = (simd::sum(g, |g| g) / c as f32, simd::dot(g, n) / c as f32);
        for i in 0..c {
            dx[i] += rstd * (g[i] - mean_g - n[i] * mean_gn);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(self.name(), x, x_layout)?;
        let weight = cpu::slice(self.name(), weight, weight_layout)?;
        let bias = cpu::slice(self.name(), bias, bias_layout)?;
        let mut y = vec![0f32; x.len()];
        forward(x, weight, bias, self.eps, &mut y);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (weight, weight_layout), (bias, bias_layout)];
        cuda::operation(self.name(), inputs, x_layout.shape().clone(), |gpu, [x, weight, bias], y| {
            gpu.layer_norm(x, (weight, bias), self.eps, y)
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let norm = Norm { weight: weight.clone(), bias: bias.clone(), epsilon: f64::from(self.eps) };
        let gradients = AffineGradients { weight: weight.zeros_like()?, bias: bias.zeros_like()? };
        let dx = x.zeros_like()?;
        norm.backward(x, dy, &dx, &gradients)?;
        Ok((Some(dx), Some(gradients.weight), Some(gradients.bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_gradient, random};
    use candle_core::Var;

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for (n, c) in [(0, 4), (1, 1), (3, 7), (33, 16), (100, 129)] {
            let x = Var::from_tensor(&(random(&[n, c], 1)? * 3.0)?)?;
            let weight = Var::from_tensor(&random(&[c], 2)?)?;
            let bias = Var::from_tensor(&random(&[c], 3)?)?;
            let fused = layer_norm(&x, &weight, &bias, 1e-5)?;
            let slow = layer_norm_slow(&x, &weight, &bias, 1e-5)?;
            assert_close("y", &fused, &slow, 1e-5, 1e-5);
            if n == 0 {
                continue;
            }
            let projection = random(&[n, c], 4)?;
            let fused = fused.mul(&projection)?.sum_all()?.backward()?;
            let slow = slow.mul(&projection)?.sum_all()?.backward()?;
            // A single channel has zero variance: its exact gradient is 0, and rounding is amplified by 1 / sqrt(eps).
            let tolerance = if c == 1 { 1e-2 } else { 2e-4 };
            for (name, var) in [("dx", &x), ("dweight", &weight), ("dbias", &bias)] {
                assert_close(name, fused.get(var).unwrap(), slow.get(var).unwrap(), tolerance, 1e-4);
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_the_finite_differences() -> Result<()> {
        let (x, weight, bias) = (random(&[5, 6], 1)?, random(&[6], 2)?, random(&[6], 3)?);
        assert_gradient("x", &x, |x| layer_norm(x, &weight, &bias, 1e-3))?;
        assert_gradient("weight", &weight, |weight| layer_norm(&x, weight, &bias, 1e-3))?;
        assert_gradient("bias", &bias, |bias| layer_norm(&x, &weight, bias, 1e-3))
    }

    #[test]
    fn misshapen_parameters_are_an_error() -> Result<()> {
        let error = layer_norm(&random(&[2, 4], 1)?, &random(&[3], 1)?, &random(&[4], 1)?, 1e-5).unwrap_err();
        assert!(error.to_string().contains("shape [4], got [3]"), "{error}");
        Ok(())
    }
}

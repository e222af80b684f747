//! Layer normalisation over the last dimension.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::{self, ROWS_PER_TASK};

/// Layer normalisation (Ba et al., 2016): `y = (x - mean) / sqrt(var + eps) * weight + bias` over the last dimension.
///
/// `x` is `[.., C]`, `weight` and `bias` are `[C]`; the variance is the biased one (divided by `C`). Fused for f32 on the
/// CPU with a real backward pass; other dtypes and devices take [`layer_norm_slow`].
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.dim(D::Minus1)?;
    if weight.dims() != [c] || bias.dims() != [c] {
        candle_core::bail!(
            "layer_norm: expected weight and bias of shape [{c}], got {:?} and {:?}",
            weight.dims(),
            bias.dims()
        );
    }
    if [x, weight, bias].into_iter().all(cpu::is_cpu_f32) {
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

struct LayerNorm {
    eps: f32,
}

impl LayerNorm {
    /// Mean and reciprocal standard deviation of a row, accumulated in f64.
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let c = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / c;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / c;
        (mean as f32, (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32)
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let c = weight.len();
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut((c * ROWS_PER_TASK).max(1)).zip(x.par_chunks((c * ROWS_PER_TASK).max(1))).for_each(
            |(y, x)| {
                for (y, x) in y.chunks_mut(c).zip(x.chunks(c)) {
                    let (mean, rstd) = self.statistics(x);
                    for i in 0..c {
                        y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
                    }
                }
            },
        );
        y
    }

    /// Gradients of input, weight and bias. With `n = (x - mean) rstd` and `g = dy * weight`:
    /// `dx = rstd (g - mean(g) - n mean(g n))`, `dweight = sum_rows dy n`, `dbias = sum_rows dy`.
    fn backward(&self, x: &[f32], weight: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let c = weight.len();
        let block = (c * ROWS_PER_TASK).max(1);
        let mut dx = vec![0f32; x.len()];
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(block)
            .zip(x.par_chunks(block).zip(dy.par_chunks(block)))
            .map(|(dx, (x, dy))| {
                let mut sums = vec![0f32; 2 * c];
                let (dweight, dbias) = sums.split_at_mut(c);
                for ((dx, x), dy) in dx.chunks_mut(c).zip(x.chunks(c)).zip(dy.chunks(c)) {
                    let (mean, rstd) = self.statistics(x);
                    let (mut mean_g, mut mean_gn) = (0f64, 0f64);
                    for i in 0..c {
                        let (n, g) = ((x[i] - mean) * rstd, dy[i] * weight[i]);
                        mean_g += f64::from(g);
                        mean_gn += f64::from(g * n);
                        dweight[i] += dy[i] * n;
                        dbias[i] += dy[i];
                    }
                    let (mean_g, mean_gn) = ((mean_g / c as f64) as f32, (mean_gn / c as f64) as f32);
                    for i in 0..c {
                        let n = (x[i] - mean) * rstd;
                        dx[i] = rstd * (dy[i] * weight[i] - mean_g - n * mean_gn);
                    }
                }
                sums
            })
            .collect();
        let mut sums = vec![0f32; 2 * c];
        for part in &partial {
            sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
        let dbias = sums.split_off(c);
        (dx, sums, dbias)
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
        let y = self.forward(
            cpu::slice(self.name(), x, x_layout)?,
            cpu::slice(self.name(), weight, weight_layout)?,
            cpu::slice(self.name(), bias, bias_layout)?,
        );
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let name = self.name();
        let (dx, dweight, dbias) = cpu::with_slice(name, x, |x| {
            cpu::with_slice(name, weight, |weight| {
                cpu::with_slice(name, &dy.contiguous()?, |dy| self.backward(x, weight, dy))
            })
        })???;
        let c = weight.elem_count();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dweight, c, x.device())?),
            Some(Tensor::from_vec(dbias, c, x.device())?),
        ))
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

//! Affine map with the weight in GPT-2's Conv1D layout.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::affine::AffineGradients;
use crate::cpu::{self, ROWS_PER_TASK};
use crate::cuda;
use crate::device::{gpu_of, has_backward_kernels};
use crate::simd::{self, vectorised};
use crate::weight::Elements;
use crate::{Matrix, Precision, matmul};

/// `y = x W + b` with `x` `[N, in]`, `W` `[in, out]` (as GPT-2's checkpoints store it) and `b` `[out]`.
///
/// With a bias, fused for f32 with a real backward pass; otherwise plain candle operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) if weight.rank() == 2 && [x, weight, bias].into_iter().all(has_backward_kernels) => {
            check(x, weight, bias)?;
            x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)
        }
        _ => linear_slow(x, weight, bias),
    }
}

/// [`linear`] in plain candle operations.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_slow(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(weight)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Refuses an affine map that does not fit `x`.
fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let (_, n_in) = x.dims2()?;
    let (weight_in, n_out) = weight.dims2()?;
    if weight_in != n_in || bias.dims() != [n_out] {
        bail!(
            "linear: expected a weight [{n_in}, out] and a bias [out], got {:?} and {:?}",
            weight.dims(),
            bias.dims()
        );
    }
    Ok(())
}

/// `y = x W + b` for row-major slices; the number of outputs is the length of `b`.
pub(crate) fn forward(precision: Precision, x: &[f32], weight: Elements<'_>, bias: &[f32], y: &mut [f32]) {
    product(precision, x, weight, bias.len(), y);
    for_rows(y, bias.len(), |_, y| y.chunks_mut(bias.len()).for_each(|y| simd::add_to(y, bias)));
}

/// `y = x W`, with `W` `[in, out]`; that `precision` is the one of a packed weight is checked by [`crate::Affine::check`].
pub(crate) fn product(precision: Precision, x: &[f32], weight: Elements<'_>, n_out: usize, y: &mut [f32]) {
    let rows = y.len().checked_div(n_out).unwrap_or(0);
    let Some(n_in) = x.len().checked_div(rows) else { return };
    match weight {
        Elements::Dense(weight) => {
            matmul(precision, y, n_out, false, Matrix::new(x, n_in), Matrix::new(weight, n_out));
        }
        Elements::Packed(weight) => weight.multiply(x, rows, y),
    }
}

/// Gradients of `y = x W + b`: `dx = dy W^T`, and `dW += x^T dy`, `db += sum_rows dy`.
pub(crate) fn backward(
    precision: Precision,
    (x, weight): (&[f32], &[f32]),
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    input_gradient(precision, weight, dy, dbias.len(), dx);
    parameter_gradients(precision, x, dy, dweight, dbias);
}

/// `dx = dy W^T`, with `W` `[in, out]`.
pub(crate) fn input_gradient(precision: Precision, weight: &[f32], dy: &[f32], n_out: usize, dx: &mut [f32]) {
    let n_in = weight.len() / n_out.max(1);
    matmul(precision, dx, n_in, false, Matrix::new(dy, n_out), Matrix::new(weight, n_out).t());
}

/// `dW += x^T dy`, `db += sum_rows dy` (in the order of the rows).
pub(crate) fn parameter_gradients(
    precision: Precision,
    x: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n_out = dbias.len();
    let n_in = dweight.len() / n_out.max(1);
    matmul(precision, dweight, n_out, true, Matrix::new(x, n_in).t(), Matrix::new(dy, n_out));
    sum_rows(dy, dbias);
}

/// `sums += sum of the rows of x`, whose length is that of `sums`.
pub(crate) fn sum_rows(x: &[f32], sums: &mut [f32]) {
    let c = sums.len();
    let partial: Vec<Vec<f32>> = x
        .par_chunks((c * ROWS_PER_TASK).max(1))
        .map(|rows| {
            let mut sums = vec![0f32; c];
            vectorised(|| rows.chunks(c).for_each(|row| simd::add_to(&mut sums, row)));
            sums
        })
        .collect();
    partial.iter().for_each(|part| simd::add_to(sums, part));
}

/// Runs `f(first row, rows)` on a few rows of `x` `[N, c]` at a time, on all threads, as vector code.
pub(crate) fn for_rows(x: &mut [f32], c: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let tasks = x.par_chunks_mut((c * ROWS_PER_TASK).max(1)).enumerate();
    tasks.for_each(|(task, rows)| vectorised(|| f(task * ROWS_PER_TASK, rows)));
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let shape = (x_layout.dim(0)?, bias.len());
        let mut y = vec![0f32; shape.0 * shape.1];
        forward(Precision::F32, x, Elements::Dense(weight), bias, &mut y);
        Ok((CpuStorage::F32(y), shape.into()))
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
        let shape = (x_layout.dim(0)?, bias_layout.dim(0)?).into();
        cuda::operation(self.name(), inputs, shape, |gpu, [x, weight, bias], y| {
            gpu.linear(x, (weight, bias), y)
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
        if let Some(gpu) = gpu_of(x) {
            let gradients = AffineGradients { weight: weight.zeros_like()?, bias: bias.zeros_like()? };
            let dx = gpu.linear_backward(x, weight, dy, &gradients)?;
            return Ok((Some(dx), Some(gradients.weight), Some(gradients.bias)));
        }
        let name = self.name();
        let mut dx = vec![0f32; x.elem_count()];
        let (mut dweight, mut dbias) = (vec![0f32; weight.elem_count()], vec![0f32; bias.elem_count()]);
        cpu::with_slices(name, [x, weight, dy], |[x, weight, dy]| {
            backward(Precision::F32, (x, weight), dy, &mut dx, &mut dweight, &mut dbias);
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dweight, weight.shape(), x.device())?),
            Some(Tensor::from_vec(dbias, bias.shape(), x.device())?),
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
        for (n, n_in, n_out) in [(0, 3, 4), (1, 1, 1), (3, 7, 5), (33, 16, 48), (100, 65, 17)] {
            let x = Var::from_tensor(&random(&[n, n_in], 1)?)?;
            let weight = Var::from_tensor(&random(&[n_in, n_out], 2)?)?;
            let bias = Var::from_tensor(&random(&[n_out], 3)?)?;
            let fused = linear(&x, &weight, Some(&bias))?;
            if n == 0 {
                assert_eq!(fused.dims(), [0, n_out]);
                continue;
            }
            let slow = linear_slow(&x, &weight, Some(&bias))?;
            assert_close("y", &fused, &slow, 1e-5, 1e-5);
            let projection = random(&[n, n_out], 4)?;
            let fused = fused.mul(&projection)?.sum_all()?.backward()?;
            let slow = slow.mul(&projection)?.sum_all()?.backward()?;
            for (name, var) in [("dx", &x), ("dweight", &weight), ("dbias", &bias)] {
                assert_close(name, fused.get(var).unwrap(), slow.get(var).unwrap(), 1e-4, 1e-4);
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_the_finite_differences() -> Result<()> {
        let (x, weight, bias) = (random(&[5, 6], 1)?, random(&[6, 3], 2)?, random(&[3], 3)?);
        assert_gradient("x", &x, |x| linear(x, &weight, Some(&bias)))?;
        assert_gradient("weight", &weight, |weight| linear(&x, weight, Some(&bias)))?;
        assert_gradient("bias", &bias, |bias| linear(&x, &weight, Some(bias)))
    }

    #[test]
    fn misshapen_parameters_are_an_error() -> Result<()> {
        let error = linear(&random(&[2, 4], 1)?, &random(&[3, 5], 1)?, Some(&random(&[5], 1)?)).unwrap_err();
        assert!(error.to_string().contains("[4, out]"), "{error}");
        Ok(())
    }
}

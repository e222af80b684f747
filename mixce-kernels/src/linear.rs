//! Affine maps: products, biases and the sums of their gradients.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::affine::{Affine, AffineElements, AffineGradients, Sums};
use crate::cpu::{self, ROWS_PER_TASK};
use crate::cuda;
use crate::device::{gpu_of, has_backward_kernels};
use crate::parts::{read, write};
use crate::simd::{self, vectorised};
use crate::weight::WeightElements;
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

impl AffineElements<'_> {
    /// The number of outputs.
    pub(crate) fn n_out(&self) -> usize {
        self.weight.dims2().1
    }

    /// `y = x W + b`. Rows of `y` begin `stride` elements apart; what lies between them is left alone.
    pub(crate) fn forward(&self, precision: Precision, x: Matrix<'_>, y: &mut [f32], stride: usize) {
        self.product(precision, x, y, stride);
        if let Some(bias) = self.bias {
            for_rows(y, stride, |_, y| y.chunks_mut(stride).for_each(|y| simd::add_to(y, bias)));
        }
    }

    /// `y = x W` of row-major `x`, with rows of `y` as in [`AffineElements::forward`]; that `precision` is the one of a packed weight
    /// is checked by [`crate::Affine::check`].
    pub(crate) fn product(&self, precision: Precision, x: Matrix<'_>, y: &mut [f32], stride: usize) {
        match &self.weight {
            WeightElements::Dense(weight) | WeightElements::Transposed(weight) => {
                matmul(precision, y, stride, false, x, *weight);
            }
            WeightElements::Packed(weight) => weight.multiply(x.data, x.rows, y, stride),
        }
    }

    /// `dx = dy W^T`, or `dx += dy W^T`. The weight must not be packed.
    pub(crate) fn input_gradient(
        &self,
        precision: Precision,
        dy: Matrix<'_>,
        dx: &mut [f32],
        accumulate: bool,
    ) -> Result<()> {
        let weight = self.weight.matrix()?;
        matmul(precision, dx, weight.rows, accumulate, dy, weight.t());
        Ok(())
    }

    /// `dW += x^T dy` in the layout of the weight, `db += sum_rows dy` (in the order of the rows).
    pub(crate) fn parameter_gradients(
        &self,
        precision: Precision,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        sums: &mut Sums<&mut [f32]>,
    ) {
        match self.weight {
            WeightElements::Transposed(_) => {
                matmul(precision, sums.weight, x.columns, true, dy.t(), x);
            }
            _ => matmul(precision, sums.weight, dy.columns, true, x.t(), dy),
        }
        if let Some(bias) = &mut sums.bias {
            sum_rows(dy, bias);
        }
    }
}

/// The outputs of several maps of the same input side by side: `y = [x W_1 + b_1 | x W_2 + b_2 | ..]`.
pub(crate) struct SideBySide<'a>(pub(crate) Vec<AffineElements<'a>>);

impl SideBySide<'_> {
    /// All outputs.
    fn n_out(&self) -> usize {
        self.0.iter().map(AffineElements::n_out).sum()
    }

    /// Each map with its first column of `y`.
    fn columns(&self) -> impl Iterator<Item = (usize, &AffineElements<'_>)> {
        self.0.iter().scan(0, |next, map| {
            let first = *next;
            *next += map.n_out();
            Some((first, map))
        })
    }

    /// `y` of row-major `x`; each map writes its own columns.
    pub(crate) fn forward(&self, precision: Precision, x: Matrix<'_>, y: &mut [f32]) {
        let stride = self.n_out();
        self.columns().for_each(|(first, map)| map.forward(precision, x, &mut y[first..], stride));
    }

    /// `dx = dy_1 W_1^T + dy_2 W_2^T + ..`. No weight may be packed.
    pub(crate) fn input_gradient(&self, precision: Precision, dy: &[f32], dx: &mut [f32]) -> Result<()> {
        let dy = Matrix::new(dy, self.n_out());
        self.columns().try_for_each(|(first, map)| {
            map.input_gradient(precision, dy.columns(first, map.n_out()), dx, first > 0)
        })
    }

    /// [`AffineElements::parameter_gradients`] of each map.
    pub(crate) fn parameter_gradients(
        &self,
        precision: Precision,
        x: Matrix<'_>,
        dy: &[f32],
        sums: &mut [Sums<&mut [f32]>],
    ) {
        let dy = Matrix::new(dy, self.n_out());
        for ((first, map), sums) in self.columns().zip(sums) {
            map.parameter_gradients(precision, x, dy.columns(first, map.n_out()), sums);
        }
    }
}

/// `sums += sum of the rows of x`, whose elements are neighbours.
pub(crate) fn sum_rows(x: Matrix<'_>, sums: &mut [f32]) {
    let (c, stride) = (x.columns, x.row_stride.max(1));
    let partial: Vec<Vec<f32>> = x
        .data
        .par_chunks(stride * ROWS_PER_TASK)
        .map(|rows| {
            let mut sums = vec![0f32; c];
            vectorised(|| rows.chunks(stride).for_each(|row| simd::add_to(&mut sums, row)));
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
        let ((n, n_in), n_out) = (x_layout.shape().dims2()?, bias.len());
        let mut y = vec![0f32; n * n_out];
        let weight = WeightElements::Dense(Matrix { rows: n_in, ..Matrix::new(weight, n_out) });
        let map = AffineElements { weight, bias: Some(bias) };
        map.forward(Precision::F32, Matrix::new(x, n_in), &mut y, n_out);
        Ok((CpuStorage::F32(y), (n, n_out).into()))
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
        let sums = AffineGradients { weight: weight.zeros_like()?, bias: Some(bias.zeros_like()?) };
        let dx = match gpu_of(x) {
            Some(gpu) => gpu.linear_backward(x, weight, dy, &sums)?,
            None => backward(x, weight, dy, &sums)?,
        };
        Ok((Some(dx), Some(sums.weight), sums.bias))
    }
}

/// The gradient of `x` on the CPU; those of the parameters are added to `sums`.
fn backward(x: &Tensor, weight: &Tensor, dy: &Tensor, sums: &AffineGradients) -> Result<Tensor> {
    let (op, map) = ("linear backward", Affine::new(weight.clone(), None));
    let ((n, n_in), (_, n_out)) = (x.dims2()?, weight.dims2()?);
    let mut dx = vec![0f32; n * n_in];
    read(op, (x, dy, &map), |(x, dy, map)| {
        let (x, dy) = (Matrix::new(x, n_in), Matrix::new(dy, n_out));
        map.input_gradient(Precision::F32, dy, &mut dx, false)?;
        write(op, sums, |mut sums| {
            map.parameter_gradients(Precision::F32, x, dy, &mut sums);
            Ok(())
        })
    })?;
    Tensor::from_vec(dx, x.shape(), x.device())
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

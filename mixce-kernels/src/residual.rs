//! Bias, dropout and residual sum of a branch in one pass.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cuda;
use crate::device::has_backward_kernels;
use crate::dropout::{Dropout, Keep, check, drop_rows, drop_rows_slow};
use crate::simd::{self, vectorised};
use crate::{cpu, linear};

/// `y = x + dropout(branch)` in one pass over memory, with the mask of [`crate::dropout`].
///
/// Fused for f32, with a backward pass (`dx = dy`, `dbranch = dropout(dy)`).
///
/// # Errors
/// When the shapes differ or the probability is outside `[0, 1)`.
pub fn residual_dropout(x: &Tensor, branch: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    let Some(active) = active(dropout)? else { return x + branch };
    if x.dims() != branch.dims() {
        bail!(
            "residual_dropout: expected two tensors of one shape, got {:?} and {:?}",
            x.dims(),
            branch.dims()
        );
    }
    if [x, branch].into_iter().all(has_backward_kernels) {
        x.contiguous()?.apply_op2(&branch.contiguous()?, ResidualDropout(active))
    } else {
        residual_dropout_slow(x, branch, dropout)
    }
}

/// [`residual_dropout`] in plain candle operations.
///
/// # Errors
/// When the shapes differ or the probability is outside `[0, 1)`.
pub fn residual_dropout_slow(x: &Tensor, branch: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match active(dropout)? {
        Some(dropout) => x + drop_rows_slow(branch, dropout)?,
        None => x + branch,
    }
}

/// The dropout if it drops anything.
pub(crate) fn active(dropout: Option<Dropout>) -> Result<Option<Dropout>> {
    if let Some(dropout) = dropout {
        check(dropout.p)?;
    }
    Ok(dropout.filter(|dropout| dropout.p > 0.0))
}

/// `y = residual + dropout(branch + bias)` in place of `branch`, for the rows of `c` entries that begin at `first_row` of the whole
/// tensor.
pub(crate) fn forward(
    branch: &mut [f32],
    residual: &[f32],
    (c, bias): (usize, Option<&[f32]>),
    dropout: Option<Dropout>,
    first_row: usize,
) {
    linear::for_rows(branch, c, |row, rows| {
        let residual = &residual[row * c..];
        let mut factors = vec![1f32; c];
        for (i, (y, residual)) in rows.chunks_mut(c).zip(residual.chunks(c)).enumerate() {
            if let Some(dropout) = &dropout {
                let first = (dropout.first_row + first_row + row + i) * c;
                Keep::new(dropout.p).factors(&mut factors, &dropout.stream, first as u64);
            }
            if let Some(bias) = bias {
                simd::add_to(y, bias);
            }
            for ((y, residual), factor) in y.iter_mut().zip(residual).zip(&factors) {
                *y = residual + *y * factor;
            }
        }
    });
}

/// The gradient of the branch, `dropout(dy)`, for the rows of `c` entries that begin at `first_row` of the whole tensor.
pub(crate) fn backward(
    dy: &[f32],
    dropout: Option<Dropout>,
    c: usize,
    first_row: usize,
    dbranch: &mut [f32],
) {
    dbranch.copy_from_slice(dy);
    if let Some(dropout) = dropout {
        linear::for_rows(dbranch, c, |row, rows| {
            let first = (dropout.first_row + first_row + row) * c;
            Keep::new(dropout.p).apply(rows, &dropout.stream, first as u64);
        });
    }
}

struct ResidualDropout(Dropout);

impl CustomOp2 for ResidualDropout {
    fn name(&self) -> &'static str {
        "residual_dropout"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        const CHUNK: usize = 4096;
        let x = cpu::slice(self.name(), x, x_layout)?;
        let mut y = cpu::slice(self.name(), branch, branch_layout)?.to_vec();
        let keep = Keep::new(self.0.p);
        let first = self.0.first_row * x_layout.dims().last().copied().unwrap_or(1);
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (y, x))| {
            vectorised(|| {
                keep.apply(y, &self.0.stream, (first + i * CHUNK) as u64);
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            });
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        branch: &CudaStorage,
        branch_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (inputs, shape) = ([(x, x_layout), (branch, branch_layout)], x_layout.shape().clone());
        let (c, dropout) = (shape.dims().last().copied().unwrap_or(1), Some(self.0));
        cuda::operation(self.name(), inputs, shape, |gpu, [x, branch], y| {
            gpu.residual(x, (branch, None), c, dropout, y)
        })
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _branch: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.clone()), Some(drop_rows(dy, self.0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;
    use crate::testing::{assert_close, assert_gradient, random};
    use candle_core::Var;

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for shape in [[0, 3], [1, 1], [3, 7], [65, 129]] {
            for dropout in
                [None, Some(Dropout::new(0.0, Stream::new(3))), Some(Dropout::new(0.3, Stream::new(3)))]
            {
                let (x, branch) =
                    (Var::from_tensor(&random(&shape, 1)?)?, Var::from_tensor(&random(&shape, 2)?)?);
                let fused = residual_dropout(&x, &branch, dropout)?;
                let slow = residual_dropout_slow(&x, &branch, dropout)?;
                assert_close("y", &fused, &slow, 1e-6, 1e-6);
                if shape[0] == 0 {
                    continue;
                }
                let (fused, slow) = (fused.sqr()?.sum_all()?.backward()?, slow.sqr()?.sum_all()?.backward()?);
                for var in [&x, &branch] {
                    assert_close("gradient", fused.get(var).unwrap(), slow.get(var).unwrap(), 1e-5, 1e-5);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_the_finite_differences() -> Result<()> {
        let (x, branch, dropout) =
            (random(&[3, 5], 1)?, random(&[3, 5], 2)?, Some(Dropout::new(0.4, Stream::new(8))));
        assert_gradient("x", &x, |x| residual_dropout(x, &branch, dropout))?;
        assert_gradient("branch", &branch, |branch| residual_dropout(&x, branch, dropout))
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let x = random(&[2, 3], 1)?;
        let error =
            residual_dropout(&x, &random(&[3, 2], 1)?, Some(Dropout::new(0.1, Stream::new(0)))).unwrap_err();
        assert!(error.to_string().contains("one shape"), "{error}");
        assert!(residual_dropout(&x, &x, Some(Dropout::new(1.0, Stream::new(0)))).is_err());
        Ok(())
    }
}

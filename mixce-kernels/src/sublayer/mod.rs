//! The sublayers of a pre-norm transformer block, each with a forward and a backward pass.
//!
//! A forward pass is fused where tensors are f32 on the CPU or a CUDA device and none of them is part of candle's graph. Everywhere
//! else (a variable among input and parameters, another type or device) it is composed of the differentiable operations of this
//! crate, in the dtype of its tensors. So a block is written once, for training, for inference and for candle's graph.
//!
//! A backward pass owns no graph: a training loop calls the sublayers in order and then in reverse. Gradients of parameters are
//! *added* in place to buffers of the caller (so that microbatches and tied weights cost nothing), and the gradient of the residual
//! stream is updated in place. A buffer must not share memory with an input. Parameters may be variables there.
//!
//! On the CPU rows are handled 1024 at a time: what a sublayer computes between its matrix products (normalised rows,
//! activations, dropped branches) is short-lived, stays in the cache, and is computed again in the backward pass instead of
//! saved; on CUDA all rows are handled together and the same is computed again. Matrix products are in the [`Precision`] asked for,
//! everything else is computed in f32.
//!
//! On CUDA with bf16 the tensors inside a branch are bf16: the result of [`NormLinear`], the input of [`LinearResidual`], the
//! pre-activation of [`Mlp`] and [`GatedMlp`], and the gradients of these. The residual stream, its gradient, parameters and their
//! gradients stay f32.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

mod gated_mlp;
mod linear_residual;
mod mlp;
mod neighbours;
mod norm_linear;

pub use gated_mlp::{GatedMlp, GatedMlpGradients};
pub use linear_residual::LinearResidual;
pub use mlp::{Mlp, MlpGradients};
pub use neighbours::{Branch, BranchGradient, MapsNeighbours, MlpOutput, Neighbours, Normed};
pub use norm_linear::{NormLinear, NormLinearGradients};

use candle_core::{Result, Tensor, bail};

use crate::device::has_backward_kernels;
use crate::{Norm, Precision, cuda};

/// Runs backward passes of one thread whose gradients are read only afterwards: on CUDA the column sums in them (the gradients of biases
/// and of norms) have a second stage, the sum of shares, which is launched once for all of them at the end. The values are the same.
///
/// # Errors
/// Those of `pass`, after which its gradients are incomplete, and when the launch fails.
pub fn finish_sums_together<R, E: From<candle_core::Error>>(
    pass: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<R, E> {
    cuda::finish_sums_together(pass)
}

/// Rows that go through a sublayer together on the CPU: enough for matrix products at full speed, few enough that their intermediate
/// results (12 MB for GPT-2 small's MLP) stay in the last-level cache.
pub const BLOCK_ROWS: usize = 1024;

/// Refuses a tensor that has not these dimensions.
fn check(name: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    match tensor.dims() == dims {
        true => Ok(()),
        false => bail!("{name}: expected shape {dims:?}, got {:?}", tensor.dims()),
    }
}

/// Refuses bf16 where a sublayer of `x` is composed of candle operations: their products are in the dtype of the tensors.
fn check_composed(op: &str, x: &Tensor, precision: Precision) -> Result<()> {
    match (precision, has_backward_kernels(x)) {
        (Precision::F32, _) => Ok(()),
        (_, true) => bail!("{op}: expected f32 products inside candle's graph, got {precision:?}"),
        (_, false) => {
            let (dtype, device) = (x.dtype(), x.device().location());
            bail!(
                "{op}: expected f32 on the CPU or CUDA for products in {precision:?}, got {dtype:?} on {device:?}"
            )
        }
    }
}

/// The norm of the next sublayer, where no graph needs to see it.
fn untracked(next: Option<&Norm>) -> Option<&Norm> {
    next.filter(|norm| !norm.is_tracked())
}

/// `(first row, rows)` of the blocks of `n` rows.
fn blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(BLOCK_ROWS).map(move |start| (start, BLOCK_ROWS.min(n - start)))
}

/// A buffer for a block of rows with `c` elements each.
fn block_buffer(n: usize, c: usize) -> Vec<f32> {
    vec![0f32; n.min(BLOCK_ROWS) * c]
}

#[cfg(test)]
mod tests;

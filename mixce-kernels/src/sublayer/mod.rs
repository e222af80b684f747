//! The sublayers of a pre-norm transformer block, each as one forward and one backward pass.
//!
//! Unlike the operations at the top of this crate these are not candle operations: they own no graph. A training loop that
//! knows its model calls them in order and in reverse; gradients of parameters are *added* in place to buffers of the caller
//! (so that microbatches and tied weights cost nothing), and the gradient of the residual stream is updated in place. A
//! buffer must not share memory with an input.
//!
//! On the CPU rows are handled 1024 at a time: what a sublayer computes between its matrix products (normalised rows,
//! activations, dropped branches) is short-lived, stays in the cache, and is computed again in the backward pass instead of
//! kept; on CUDA all rows go together and the same is computed again. Matrix products are in the
//! [`Precision`](crate::Precision) asked for, everything else is computed in f32.
//!
//! Tensors are f32, and [`is_fused`]; elsewhere use the candle operations. On CUDA with bf16 the tensors inside a branch are bf16:
//! queries, keys and values, attended values, the MLP's activations that are kept, and the gradients of these. The residual
//! stream, its gradient, parameters and their gradients stay f32.
//!
//! Legend: N tokens, C channels, I channels inside the MLP.

mod linear_residual;
mod mlp;
mod norm_linear;

pub use linear_residual::{linear_residual, linear_residual_backward};
pub use mlp::{Mlp, mlp_residual, mlp_residual_backward};
pub use norm_linear::{norm_linear, norm_linear_backward};

pub use crate::device::is_fused;
pub use crate::layer_norm::layer_norm_backward;

use candle_core::{Result, Tensor, bail};

use crate::{Affine, packed};

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

/// Refuses gradients that have not the shapes of their parameters, and any of a packed weight.
fn check_gradients(name: &str, parameters: &Affine, gradients: &Affine) -> Result<()> {
    if packed::is_packed(&parameters.weight) {
        bail!("{name}: packed weights have no gradient");
    }
    check(name, &gradients.weight, parameters.weight.dims())?;
    check(name, &gradients.bias, parameters.bias.dims())
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

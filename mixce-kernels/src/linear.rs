//! Affine map with the weight in GPT-2's Conv1D layout.

use candle_core::{Result, Tensor};

/// `y = x W + b` with `x` `[N, in]`, `W` `[in, out]` (as GPT-2's checkpoints store it) and `b` `[out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(weight)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

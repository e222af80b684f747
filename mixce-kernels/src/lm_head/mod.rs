//! The LM head fused with a token-weighted cross-entropy.
//!
//! On the CPU the logits of a slice of tokens are computed tile by tile, and each tile's contribution to `log sum exp` is added while the
//! tile is in cache. After all tiles of a slice the weights are known, and each tile is turned into its gradient just before the two
//! products that need it. On CUDA a slice is one tile, and nothing is read back. The full matrix of logits is never materialised, and no
//! logit is computed twice. Other types and devices use plain candle operations, a slice of tokens at a time.
//!
//! Legend: N tokens, C channels, V vocabulary; S tokens of a slice, T tokens of the vocabulary of a tile.

mod fused;
mod slice;
mod slow;

pub use slice::{Slice, vocabulary_parts};

use candle_core::{Result, Tensor, bail};

use crate::cpu::is_cpu_f32;
use crate::device::gpu_of;
use crate::{Precision, StoredTensor};

/// `log q_t = z_t[y_t] - log sum_j exp(z_t[j])` of each target under the logits `z = hidden head^T`: `[N]` f32 (nats), without
/// gradient.
///
/// `hidden` is `[N, C]`, `head` `[V, C]`, `targets` `[N]` u32. `precision` is that of the product's operands; logits and sums are f32.
///
/// # Errors
/// When shapes do not fit, on the CPU when a target is not below `V` (on CUDA its `log q` is NaN), and in bf16 when tensors are not
/// f32 on the CPU or CUDA.
pub fn target_log_probs(
    hidden: &Tensor,
    head: &StoredTensor,
    targets: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    check(hidden, head, targets)?;
    match (gpu_of(hidden), gpu_of(head)) {
        (Some(gpu), Some(_)) => gpu.target_log_probs(hidden, head, targets, precision),
        _ if is_cpu_f32(hidden) && is_cpu_f32(head) => {
            fused::target_log_probs(hidden, head, targets, precision)
        }
        _ if precision == Precision::Bf16 => no_bf16(hidden),
        _ => slow::target_log_probs(hidden, head, targets, slow::slice_tokens(head.dim(0)?)),
    }
}

/// The weight of a token's cross-entropy as a function of `log q` of its target, for each path of [`weighted_cross_entropy`].
pub trait TokenWeights: Sync {
    /// The weight for one `log q` (nats, `<= 0`).
    fn weight(&self, log_q: f64) -> f64;

    /// [`TokenWeights::weight`] for every element of a tensor, in candle operations on its device.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn weights(&self, log_q: &Tensor) -> Result<Tensor>;
}

/// Weights `w_t = weight(log q_t) / denominator`.
#[derive(Clone, Copy)]
pub struct Weighting<'a> {
    /// The weights before division.
    pub weights: &'a dyn TokenWeights,
    /// The number of target tokens in the mean.
    pub denominator: f64,
}

/// Result of [`weighted_cross_entropy`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `log q` of each target (nats), `[N]` f32.
    pub log_q: Tensor,
    /// The gradient of the hidden states, `[N, C]`.
    pub dhidden: Tensor,
}

/// Forward and backward pass of `sum_t w_t (-log q_t)` at once; the weights are constants in the gradient.
///
/// Shapes as in [`target_log_probs`]. The gradient with respect to the logits is `w_t (softmax(z_t) - onehot(y_t))`: that of
/// the hidden states is returned, that of `head` is added to `dhead` `[V, C]` f32 in place. `precision` is that of the three matrix
/// products; softmax and sums are f32. On CUDA it is also that of the logits: in bf16 each is rounded, by up to `2^-9 |z|`. Does not
/// synchronise a CUDA device.
///
/// # Errors
/// When shapes do not fit, on the CPU when a target is not below `V` (on CUDA its numbers are NaN), and in bf16 when tensors are not
/// f32 on the CPU or CUDA.
pub fn weighted_cross_entropy(
    hidden: &Tensor,
    head: &StoredTensor,
    targets: &Tensor,
    weighting: Weighting<'_>,
    dhead: &Tensor,
    precision: Precision,
) -> Result<CrossEntropy> {
    check(hidden, head, targets)?;
    if dhead.dims() != head.dims() {
        bail!("lm_head: expected a gradient of shape {:?}, got {:?}", head.dims(), dhead.dims());
    }
    match (gpu_of(hidden), gpu_of(head)) {
        (Some(gpu), Some(_)) => {
            gpu.weighted_cross_entropy(hidden, head, targets, weighting, dhead, precision)
        }
        _ if is_cpu_f32(hidden) && is_cpu_f32(head) => {
            fused::weighted_cross_entropy(hidden, head, targets, weighting, dhead, precision)
        }
        _ if precision == Precision::Bf16 => no_bf16(hidden),
        _ => {
            let tokens = slow::slice_tokens(head.dim(0)?);
            slow::weighted_cross_entropy(hidden, head, targets, weighting, dhead, tokens)
        }
    }
}

/// The error in bf16 where plain candle operations are used.
fn no_bf16<T>(hidden: &Tensor) -> Result<T> {
    let (dtype, device) = (hidden.dtype(), hidden.device().location());
    bail!("lm_head: expected f32 on the CPU or CUDA for products in bf16, got {dtype:?} on {device:?}")
}

/// Refuses operands with mismatched shapes.
fn check(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<()> {
    let ((n, c), (_, head_c)) = (hidden.dims2()?, head.dims2()?);
    if head_c != c || targets.dims() != [n] {
        let (head, targets) = (head.dims(), targets.dims());
        bail!("lm_head: expected a head [V, {c}] and targets [{n}], got {head:?} and {targets:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;

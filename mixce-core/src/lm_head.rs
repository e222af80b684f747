//! The LM head fused with the loss, so that the full matrix of logits is never materialised.
//!
//! Legend: N tokens, C channels, V vocabulary.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Shape, Tensor};
use mixce_kernels::lm_head::{
    CrossEntropy, TokenWeights, Weighting, target_log_probs, weighted_cross_entropy,
};
use mixce_kernels::{Precision, StoredTensor};

use crate::{Error, Objective, Result};

/// Result of [`lm_head_loss`].
#[derive(Debug)]
pub struct LmHeadLoss {
    /// Scalar f32: `sum_t w(q_t) (-log q_t) / denominator` (nats), differentiable in hidden states and head.
    pub loss: Tensor,
    /// `[N]` f32: `log q_t` of each target (nats), detached.
    pub log_q: Tensor,
}

/// Weighted cross-entropy of `targets` under the logits `hidden head^T`, with its gradient.
///
/// `hidden` is `[N, C]`, `head` `[V, C]` (the token embedding when tied), `targets` `[N]` u32. Divide by the number of
/// target tokens of the whole optimizer step, so that microbatches add up to the mean. Logits are computed for a slice of tokens,
/// turned into `log q`, weights and their gradient `w (softmax - onehot)`, multiplied into the gradients of `hidden` and `head`,
/// and freed. This is possible in the forward pass because the loss is a sum of token terms whose weight depends only on that
/// token's `log q`. The log-softmax is in f32 whatever the dtype of the hidden states.
/// With no tokens the loss is 0.
///
/// # Errors
/// If shapes or dtypes do not match, the denominator is not positive, or a target is outside the vocabulary (checked only on the
/// CPU, because on other devices the check would force a synchronisation: check targets at their source).
pub fn lm_head_loss(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    objective: &dyn Objective,
    denominator: f64,
) -> Result<LmHeadLoss> {
    let dhead = Tensor::zeros(head.shape(), DType::F32, head.device())?;
    let out = lm_head_backward(
        hidden,
        &head.clone().into(),
        targets,
        objective,
        denominator,
        (&dhead, Precision::F32),
    )?;
    let loss = total_loss(&out.log_q.to_vec1()?, objective) / denominator;
    let op = Precomputed { loss: loss as f32, dhidden: out.dhidden, dhead: dhead.to_dtype(head.dtype())? };
    Ok(LmHeadLoss { loss: hidden.apply_op2(head, op)?, log_q: out.log_q })
}

/// Result of [`lm_head_backward`].
#[derive(Debug)]
pub struct LmHeadBackward {
    /// `[N]` f32: `log q_t` of each target (nats); [`total_loss`] computes the loss from them.
    pub log_q: Tensor,
    /// The gradient of the hidden states, `[N, C]`.
    pub dhidden: Tensor,
}

/// `sum_t w(q_t) (-log q_t)` (nats), given `log q_t` of each target.
#[must_use]
pub fn total_loss(log_q: &[f32], objective: &dyn Objective) -> f64 {
    log_q.iter().map(|log_q| objective.loss(f64::from(*log_q))).sum()
}

/// [`lm_head_loss`] and its backward pass at once, without a graph: the gradient of `head` is added to `dhead` `[V, C]` f32 in
/// place. `precision` is that of the matrix products. Does not synchronise the device.
///
/// # Errors
/// As [`lm_head_loss`]; if `dhead` has the wrong shape; in bf16, if tensors are not f32 on the CPU or CUDA.
pub fn lm_head_backward(
    hidden: &Tensor,
    head: &StoredTensor,
    targets: &Tensor,
    objective: &dyn Objective,
    denominator: f64,
    (dhead, precision): (&Tensor, Precision),
) -> Result<LmHeadBackward> {
    check("the LM head's loss", hidden, head, targets)?;
    if denominator.is_nan() || denominator <= 0.0 {
        let (operation, expected) = ("the LM head's loss", "a positive denominator".into());
        return Err(Error::Mismatch { operation, expected, got: denominator.to_string() });
    }
    let weighting = Weighting { weights: &Weights(objective), denominator };
    let CrossEntropy { log_q, dhidden } =
        weighted_cross_entropy(hidden, head, targets, weighting, dhead, precision)?;
    Ok(LmHeadBackward { log_q, dhidden })
}

/// The weights of an objective, in the interface of the kernels.
struct Weights<'a>(&'a dyn Objective);

impl TokenWeights for Weights<'_> {
    fn weight(&self, log_q: f64) -> f64 {
        self.0.weight(log_q)
    }

    fn weights(&self, log_q: &Tensor) -> candle_core::Result<Tensor> {
        self.0.weights(log_q)
    }
}

/// `log q` of each target under the logits `hidden head^T`: `[N]` f32 (nats), without gradient; shapes as in
/// [`lm_head_loss`]. `precision` is that of the product's operands; logits are f32.
///
/// # Errors
/// When shapes or dtypes do not fit or a target is outside the vocabulary; in bf16, if tensors are not f32 on the CPU or CUDA.
pub fn lm_head_log_q(
    hidden: &Tensor,
    head: &StoredTensor,
    targets: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    check("lm_head_log_q", hidden, head, targets)?;
    Ok(target_log_probs(hidden, head, targets, precision)?)
}

fn check(operation: &'static str, hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<()> {
    let ((n, c), (_, head_c)) = (hidden.dims2()?, head.dims2()?);
    if c != head_c || hidden.dtype() != head.dtype() {
        return Err(Error::Mismatch {
            operation,
            expected: format!(
                "hidden states [N, C] and a head [V, C] of one dtype (C = {c}, {:?})",
                hidden.dtype()
            ),
            got: format!("a head of shape {:?} and dtype {:?}", head.dims(), head.dtype()),
        });
    }
    if targets.dims() != [n] || targets.dtype() != DType::U32 {
        return Err(Error::Mismatch {
            operation,
            expected: format!("{n} targets of type u32"),
            got: format!("shape {:?} of type {:?}", targets.dims(), targets.dtype()),
        });
    }
    Ok(())
}

/// A candle operation whose value and gradients are precomputed.
struct Precomputed {
    loss: f32,
    dhidden: Tensor,
    dhead: Tensor,
}

impl CustomOp2 for Precomputed {
    fn name(&self) -> &'static str {
        "lm_head_loss"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), ().into()))
    }

    fn cuda_fwd(
        &self,
        hidden: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let value = CpuStorage::F32(vec![self.loss]);
        Ok((hidden.device().storage_from_cpu_storage_owned(value)?, ().into()))
    }

    fn bwd(
        &self,
        _hidden: &Tensor,
        _head: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = |gradient: &Tensor| gradient.broadcast_mul(&dloss.to_dtype(gradient.dtype())?);
        Ok((Some(scale(&self.dhidden)?), Some(scale(&self.dhead)?)))
    }
}

#[cfg(test)]
mod tests;

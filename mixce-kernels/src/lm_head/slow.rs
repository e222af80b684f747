//! The LM head with its loss in plain candle operations, by slices of tokens, for any device and type; the reference in tests.

use candle_core::{DType, Result, Tensor};

use super::{CrossEntropy, Weighting};
use crate::cross_entropy::{self, logits_gradient};

/// Approximate maximum memory for the logits of a slice.
const SLICE_BYTES: usize = 64 << 20;

/// How many tokens have logits that fit [`SLICE_BYTES`].
pub(super) fn slice_tokens(vocabulary: usize) -> usize {
    (SLICE_BYTES / 4 / vocabulary.max(1)).max(1)
}

/// `(start, len)` of the slices of `n` tokens.
fn slices(n: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(size).map(move |start| (start, size.min(n - start)))
}

/// [`super::target_log_probs`], a slice of tokens at a time.
pub(super) fn target_log_probs(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    slice_tokens: usize,
) -> Result<Tensor> {
    let (hidden, head) = (hidden.detach(), head.detach());
    let mut log_qs = Vec::new();
    for (start, len) in slices(hidden.dim(0)?, slice_tokens) {
        let logits = hidden.narrow(0, start, len)?.matmul(&head.t()?)?;
        log_qs.push(cross_entropy::target_log_probs(&logits, &targets.narrow(0, start, len)?)?);
    }
    match log_qs.is_empty() {
        true => Tensor::zeros(0, DType::F32, hidden.device()),
        false => Tensor::cat(&log_qs, 0),
    }
}

/// [`super::weighted_cross_entropy`] in the dtype of the tensors, a slice of tokens at a time.
pub(super) fn weighted_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    Weighting { weights, denominator }: Weighting<'_>,
    dhead: &Tensor,
    slice_tokens: usize,
) -> Result<CrossEntropy> {
    let (hidden, head) = (hidden.detach(), head.detach());
    let mut sum = dhead.detach();
    let (mut dhidden, mut log_qs) = (Vec::new(), Vec::new());
    for (start, len) in slices(hidden.dim(0)?, slice_tokens) {
        let (h, y) = (hidden.narrow(0, start, len)?, targets.narrow(0, start, len)?);
        let logits = h.matmul(&head.t()?)?;
        let log_q = cross_entropy::target_log_probs(&logits, &y)?;
        let weights = weights.weights(&log_q)?.affine(1.0 / denominator, 0.0)?;
        let dlogits = logits_gradient(&logits, &y, &weights)?;
        dhidden.push(dlogits.matmul(&head)?);
        sum = (sum + dlogits.t()?.matmul(&h)?.to_dtype(DType::F32)?)?;
        log_qs.push(log_q);
    }
    if dhidden.is_empty() {
        let log_q = Tensor::zeros(0, DType::F32, hidden.device())?;
        return Ok(CrossEntropy { log_q, dhidden: hidden.zeros_like()? });
    }
    dhead.slice_set(&sum, 0, 0)?;
    Ok(CrossEntropy { log_q: Tensor::cat(&log_qs, 0)?, dhidden: Tensor::cat(&dhidden, 0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_all_tokens_within_the_memory_limit() {
        assert_eq!(slices(100, slice_tokens(400_000)).collect::<Vec<_>>(), [(0, 41), (41, 41), (82, 18)]);
        assert!(slice_tokens(50_257) * 50_257 * 4 <= SLICE_BYTES);
        assert_eq!(slice_tokens(usize::MAX), 1);
    }
}
